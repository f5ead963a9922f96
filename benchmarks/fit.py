"""The command: a `fit` of each config with a callback that measures it, and what came of it as tables."""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from benchmarks import tables
from benchmarks.noise import noise
from kd_lightning.commands.running import run_class
from kd_lightning.errors import ConfigError, check_positive

_CALLBACK = "benchmarks.interleaved_timer.InterleavedTimer"


class FitBenchmark:
    """Measures `fit` as it is run, beside the bare loop of the same step, and where a step's time goes.

    Every config is run in a process of its own by `python -m kd_lightning fit`, with its loggers and callbacks, into a
    temporary folder. There, `fit` and the bare loop (teacher, student, loss, backward pass, optimizer, on batches that
    lie on the device) take turns in every round; the first round does not count, and the medians are given with their
    spread. The peak of memory is measured in further processes, one each. All further arguments are `fit`'s own
    (`--data.batch_size 512 --trainer.precision bf16-mixed --speed.compile default`).

    Args:
        configs: configs of `fit`; each is measured.
        against: another codebase for the same networks, loss, batch, optimizer and transform (KD and SP with
            torchdistill, of the extra `bench`, in the run's precision and in float32, as it comes; its teacher is
            put in eval mode, and its best number of workers of 0, 1, 2 counts).
        variants: further arguments of `fit` to measure each config with, one string a variant, '' for none
            (`['', '--speed.channels_last=true', '--speed.compile=default']`).
        rounds: timed rounds.
        steps: steps of each in a round.
        random_images: so many images of noise in place of the config's, with their size and number of classes, and
            random weights in place of the teacher's: for a machine without the data.
        memory: whether the peak of memory is measured.
        path: a JSON file for all that was measured.
    """

    def __init__(
        self,
        *,
        configs: list[str],
        against: Literal["torchdistill"] | None = None,
        variants: list[str] | None = None,
        rounds: int = 5,
        steps: int = 20,
        random_images: int | None = None,
        memory: bool = True,
        path: str | None = None,
    ) -> None:
        check_positive(rounds=rounds, steps=steps, random_images=1 if random_images is None else random_images)
        if against and find_spec(against) is None:
            raise ConfigError(f"against: {against} is not installed; pip install 'kd_lightning[bench]'")
        self.configs, self.against, self.variants = configs, against, variants or [""]
        self.rounds, self.steps, self.random_images, self.memory = rounds, steps, random_images, memory
        self.path = Path(path).expanduser() if path else None

    def __call__(self, arguments: list[str]) -> list[dict[str, Any]]:
        """What was measured, a dict a config and variant.

        Args:
            arguments: further ones of `fit`.
        """
        results = []
        pairs = [(config, variant) for config in self.configs for variant in self.variants]
        with tempfile.TemporaryDirectory() as folder:
            for number, (config, variant) in enumerate(pairs, 1):
                print(f"{number}/{len(pairs)}: {config} {variant}".rstrip(), flush=True)
                results.append(self._measure(Path(folder), config, [*arguments, *shlex.split(variant)], variant))
                if self.path:
                    self.path.write_text(json.dumps(results, indent=1))
                tables.print_one(results[-1])
        if len(pairs) > 1:
            tables.print_all(results)
        if len(pairs) == 1 and "error" in results[0]:
            raise ConfigError(results[0]["error"])
        return results

    def _measure(self, folder: Path, config: str, arguments: list[str], variant: str) -> dict[str, Any]:
        named = {"config": config, "variant": variant}
        if self.random_images:
            arguments = [*noise(config, self.random_images, folder), *arguments]
        try:
            result = self._fit(folder, config, arguments, rounds=self.rounds, against=self.against)
            result["memory"] = {}
            for alone in ["fit", "bare", *filter(None, [self.against])] if self.memory else []:
                found = self._fit(folder, config, arguments, alone=alone, steps=min(self.steps, 5))
                result["memory"][alone] = {"before": found["before"], "peak": found["peak"]}
        except ConfigError as error:
            return {**named, "error": str(error)}
        return {**named, **result, "seconds": _best(result["seconds"])}

    def _fit(self, folder: Path, config: str, arguments: list[str], **settings: Any) -> dict[str, Any]:
        """What the callback wrote in a `fit` of its own."""
        path = folder / "result.json"
        path.unlink(missing_ok=True)
        callback = {"class_path": _CALLBACK, "init_args": {"path": str(path), "steps": self.steps, **settings}}
        fit = ["fit", "--config", config, f"--run.output_dir={folder}/runs", "--run.wandb=offline"]
        fit += ["--protocol.test=false", "--trainer.max_steps=-1", *arguments, "--trainer.max_epochs=100000"]
        fit += [f"--trainer.callbacks+={json.dumps(callback)}"]
        line = [sys.executable, "-m", "kd_lightning", *fit]
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": paths}  # the callback is not in the package
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
        if done.returncode or not path.exists():
            lines = done.stderr.strip().splitlines() or [f"fit ended with status {done.returncode} and said nothing"]
            line = next((line for line in lines if line.startswith("error: ")), lines[-1])
            raise ConfigError(line.removeprefix("error: "))
        return json.loads(path.read_text())


def _best(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """The contenders, of those that differ by their number of workers alone the fastest."""
    best: dict[str, str] = {}
    for name, times in seconds.items():
        group = name.partition(",")[0]
        if group not in best or statistics.median(times) < statistics.median(seconds[best[group]]):
            best[group] = name
    return {name: seconds[name] for name in best.values()}


if __name__ == "__main__":
    run_class(FitBenchmark, prog="python -m benchmarks.fit", around_fit=True)
