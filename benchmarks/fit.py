"""The command `python -m benchmarks.fit`, which runs `fit` with a callback that measures it, and prints tables."""

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
    """Measures the speed of `fit`, the speed of the bare loop, and the time of each part of a step.

    The bare loop computes the same steps without Lightning: teacher, student, loss, backward pass and optimizer. Its
    batches are already on the device. Each config is run by `python -m kd_lightning fit`, with its loggers and
    callbacks, in its own process and in a temporary folder. In this process, `fit` and the bare loop are timed in
    turns. The first round is not counted. Medians and ranges are printed. Further processes measure the peak memory of
    each loop. All other arguments are passed to `fit`
    (`--data.batch_size 512 --trainer.precision bf16-mixed --speed.compile default`).

    Args:
        configs: paths of the configs of `fit` that are measured.
        against: another codebase that is also measured, with the same networks, loss, batch size, optimizer and
            transforms. The only choice is torchdistill (extra `bench`), for KD and SP. It is measured in the precision
            of the run, and in its default, which is float32. Its teacher is set to eval mode. It is measured with 0, 1
            and 2 workers, and the fastest result is printed.
        variants: further arguments of `fit` with which each config is measured. Each variant is one string. An empty
            string adds no arguments (`['', '--speed.channels_last=true', '--speed.compile=default']`).
        rounds: number of timed rounds.
        steps: number of steps of each loop in a round.
        random_images: number of images of noise that replace the images of the config. They have the same size and the
            same number of classes. Random weights replace the weights of the teacher. Neither data nor weights are
            then needed. Default: the images of the config.
        memory: whether the peak memory is measured.
        path: path of a JSON file for all measurements. Default: no file.
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
        """Return the measurements as one dict for each config and variant.

        Args:
            arguments: further arguments of `fit`, for all configs and variants.
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
                measured = self._fit(folder, config, arguments, alone=alone, steps=min(self.steps, 5))
                result["memory"][alone] = {"before": measured["before"], "peak": measured["peak"]}
        except ConfigError as error:
            return {**named, "error": str(error)}
        return {**named, **result, "seconds": _best(result["seconds"])}

    def _fit(self, folder: Path, config: str, arguments: list[str], **settings: Any) -> dict[str, Any]:
        """Run `fit` in its own process, and return the measurements that the callback has written."""
        path = folder / "result.json"
        path.unlink(missing_ok=True)
        callback = {"class_path": _CALLBACK, "init_args": {"path": str(path), "steps": self.steps, **settings}}
        fit = ["fit", "--config", config, f"--run.output_dir={folder}/runs", "--run.wandb=offline"]
        fit += ["--protocol.test=false", "--trainer.max_steps=-1", *arguments, "--trainer.max_epochs=100000"]
        fit += [f"--trainer.callbacks+={json.dumps(callback)}"]
        line = [sys.executable, "-m", "kd_lightning", *fit]
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": paths}  # the callback is not part of the installed package
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
        if done.returncode or not path.exists():
            lines = done.stderr.strip().splitlines() or [f"fit ended with status {done.returncode} and no message"]
            line = next((line for line in lines if line.startswith("error: ")), lines[-1])
            raise ConfigError(line.removeprefix("error: "))
        return json.loads(path.read_text())


def _best(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the times by name. If several names differ only in the number of workers, only the fastest is returned."""
    best: dict[str, str] = {}
    for name, times in seconds.items():
        group = name.partition(",")[0]
        if group not in best or statistics.median(times) < statistics.median(seconds[best[group]]):
            best[group] = name
    return {name: seconds[name] for name in best.values()}


if __name__ == "__main__":
    run_class(FitBenchmark, prog="python -m benchmarks.fit", around_fit=True)
