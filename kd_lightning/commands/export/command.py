"""Export: the command."""

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from safetensors import SafetensorError
from torch import Tensor

from kd_lightning.commands.export import hub, int8, latency, table
from kd_lightning.commands.export.deployed import Deployed, Run
from kd_lightning.commands.export.format import Format
from kd_lightning.commands.export.onnx_graph import Onnx, session
from kd_lightning.commands.export.parity import FIRST, Parity, compare, outputs_of
from kd_lightning.commands.export.provenance import provenance, with_parity
from kd_lightning.commands.export.source import load, resized, spread
from kd_lightning.commands.export.staging import staged
from kd_lightning.commands.export.timm_folder import Timm
from kd_lightning.commands.export.torch_export import TorchExport
from kd_lightning.commands.export.weights import Safetensors
from kd_lightning.errors import ConfigError, RunError, check_positive, nearest, one_line
from kd_lightning.io.console import wide
from kd_lightning.io.paths import check_writable, expand

FORMATS: dict[str, type[Format]] = {kind.name: kind for kind in (Safetensors, Timm, TorchExport, Onnx)}
_AGAIN = sum(FIRST)
"""How many images the file that stays is held to once more, after its facts were put in."""


class Export:
    """Writes a finished run's student to files of other programs: `export --ckpt_path RUN --format onnx timm`.

    The student alone, normalisation and resize inside, for any number of images N,3,S,S of the data's side S: as
    `student.safetensors` (weights for `Network`), `timm/` (a folder for `timm.create_model`, with a model card; timm
    normalises outside), `student.pt2` (torch.export) and `student.onnx`. Each gets its name only after what was
    written, read back, has given PyTorch's outputs on real images of the run's data. All say where they come from.

    Args:
        ckpt_path: a run's folder (then the selected checkpoint), or a checkpoint or student.safetensors in it.
        format: safetensors, timm, torch_export, onnx; several in a row. The last needs
            `pip install 'kd_lightning[export]'`.
        path: the folder to write to; default: `export` in the run's.
        overwrite: write over files that are there.
        input: what torch_export's and onnx's graphs take: bytes as a decoder gives them (no scaling to get wrong, a
            quarter of the memory), or float32 in [0, 1].
        embedding: give the embedding too, as a second output. Where the classifier was not trained it is the only one.
        side: of the images that the graphs take, in pixels; default: the data's. It is fixed, the batch is not.
        images: how many real images each file is held to: of the test split, else val, else train.
        tolerance: the largest difference allowed, as a share of PyTorch's largest output.
        batch_sizes: that are timed beside PyTorch; default 1 and 32; [] for none.
        repeats: how often each batch is timed.
        threads: that every format computes with.
        int8: beside onnx, an int8 form of it, calibrated on training images and evaluated on all of that split.
        calibration: how many training images that takes.
        push_to_hub: OWNER/NAME on the Hugging Face hub, for the timm folder; by the hub library's own login.
        private: whether that is seen by its owner alone.

    Raises:
        ConfigError: for a wrong value, a folder that is no run's, a file that is there, a package that is missing.
        RunError: where a file differs from the checkpoint, or cannot be made or written; it is not left then.
    """

    def __init__(
        self,
        *,
        ckpt_path: str,
        format: list[str],
        path: str | None = None,
        overwrite: bool = False,
        input: Literal["uint8", "float32"] = "uint8",
        embedding: bool = False,
        side: int | None = None,
        images: int = 256,
        tolerance: float = 1e-4,
        batch_sizes: list[int] | None = None,
        repeats: int = 20,
        threads: int = 1,
        int8: bool = False,
        calibration: int = 256,
        push_to_hub: str | None = None,
        private: bool = True,
    ) -> None:
        self.formats = _formats(format)
        self.batch_sizes = [1, 32] if batch_sizes is None else batch_sizes
        counts = {"images": images, "repeats": repeats, "threads": threads, "calibration": calibration}
        check_positive(**counts, **({} if side is None else {"side": side}))
        for size in self.batch_sizes:
            check_positive(batch_sizes=size)
        if not math.isfinite(tolerance) or tolerance < 0:
            raise ConfigError(f"tolerance: {tolerance} is to be 0 or more")
        if int8 and "onnx" not in self.formats:
            raise ConfigError("int8: it is made of onnx; add onnx to --format")
        if push_to_hub is not None:
            if "timm" not in self.formats:
                raise ConfigError("push_to_hub: the timm folder is what is pushed; add timm to --format")
            hub.check_name(push_to_hub)
        for name in self.formats:
            FORMATS[name].check()
        self.overwrite, self.input, self.embedding, self.side = overwrite, input, embedding, side
        self.count, self.tolerance, self.repeats, self.threads = images, tolerance, repeats, threads
        self.int8, self.calibration, self.push_to_hub, self.private = int8, calibration, push_to_hub, private
        self.source = load(ckpt_path)
        self.path = self.source.checkpoint.parent / "export" if path is None else expand(path)
        self._check_target()
        self.console = wide()

    def _check_target(self) -> None:
        check_writable(self.path, "path")
        if self.path.is_file():
            raise ConfigError(f"path: {self.path} is a file; give a folder")
        wanted = [FORMATS[name].file for name in self.formats] + [int8.FILE] * self.int8
        there = [self.path / name for name in wanted if (self.path / name).exists()]
        if there and not self.overwrite:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise ConfigError(f"path: {there[0]}{more} is there already; --overwrite writes over it")
        if (self.path / Timm.file).is_dir() and "timm" in self.formats:
            others = sorted({each.name for each in (self.path / Timm.file).iterdir()} - set(Timm.files))
            if others:
                raise ConfigError(
                    f"path: {self.path / Timm.file} holds {others[0]}, which no export wrote; choose another folder"
                )

    def __call__(self) -> Path:
        """The folder with the files."""
        source = self.source
        if not source.results:
            self._say(f"unfinished: {source.checkpoint.parent} has no results.json; {source.checkpoint.name} is taken")
        elif not source.evaluated:
            self._say(f"{source.checkpoint.name} is not what results.json speaks of: no metrics go into the files")
        if not source.knows_classes:
            self._say("the student's classifier was not trained: the embedding is what is exported")
        with latency.threads_of_torch(self.threads):
            rows = [table.Row("PyTorch", None, None)]
            runs: dict[str, tuple[Run, Tensor]] = {"PyTorch": (self.student.run, self.student.given(self.images))}
            for name in self.formats:
                kind = self._guarded(name, lambda name=name: FORMATS[name](self.student))
                rows.append(table.Row(name, self.path / kind.file, self._exported(kind)))
                run = kind.fast(rows[-1].path) if isinstance(kind, Timm) else kind.read(rows[-1].path, self.threads)
                runs[name] = run, kind.given(resized(self.images, kind.side))
            costs = self._quantized(rows, runs) if self.int8 else None
            times = latency.latencies(runs, self.batch_sizes, self.repeats)
        self.console.print(table.table(rows, times, self.batch_sizes, self.threads))
        for line in table.notes(self.student, source, rows, costs):
            self._say(line)
        self._say(f"exported: {self.path}")
        if self.push_to_hub:
            self._say(f"on the hub: {hub.push(self.path / Timm.file, self.push_to_hub, private=self.private)}")
        return self.path

    @cached_property
    def student(self) -> Deployed:
        source, network = self.source, self.source.network
        outputs = ("logits", "embedding") if self.embedding else ("logits",)
        if not source.knows_classes:
            outputs = ("embedding",)
            if network.num_classes:
                network.model.reset_classifier(0)
                network.num_classes, network.class_names = 0, None
        side = self.side or self.source.images.side
        return Deployed(network, outputs, side, self.input, source.class_names)

    @cached_property
    def images(self) -> Tensor:
        """uint8, N,3,S,S."""
        return resized(spread(self.source.images, self.count), self.student.side)

    @cached_property
    def facts(self) -> dict[str, Any]:
        return provenance(self.source, self.student)

    def _exported(self, kind: Format) -> Parity:
        """Writes one file, holds it to PyTorch, writes what was found into it, and gives it its name."""
        given = resized(self.images, kind.side)
        reference = outputs_of(self.student.run, self.student.given(given))

        def held_to(path: Path, count: int) -> Parity:
            part = [each[:count] for each in reference]
            return compare(part, kind.read(path, self.threads), kind.given(given[:count]), self.student.outputs)

        def made() -> Parity:
            with staged(self.path / kind.file) as path:
                kind.write(path, self.facts)
                parity = held_to(path, len(given))
                parity.check(kind.name, self.tolerance)
                kind.write(path, with_parity(self.facts, parity, self.source.split))
                held_to(path, _AGAIN).check(kind.name, self.tolerance)
            return parity

        return self._guarded(kind.name, made)

    def _quantized(self, rows: list[table.Row], runs: dict[str, tuple[Run, Tensor]]) -> dict[str, float]:
        source, student = self.source, self.student
        images = resized(spread(source.training_images(), self.calibration), student.side)
        reference = outputs_of(student.run, student.given(self.images))
        before = runs["onnx"][0]

        def ready(batch: Tensor) -> Tensor:
            return student.given(resized(batch, student.side))

        def made() -> tuple[Parity, dict[str, float]]:
            with staged(self.path / int8.FILE) as path:
                int8.quantize(self.path / Onnx.file, student.given(images), path)
                run = session(path, self.threads)
                parity = compare(reference, run, student.given(self.images), student.outputs)
                parity.check("int8", math.inf)
                found = int8.evaluated(before, run, source.images, ready, student.outputs)
                facts = with_parity(self.facts, parity, source.split)
                calibrated = {"calibration_images": len(images), "split": source.split, **found}
                int8.rewrite(path, {**facts, "int8": calibrated})
                compare(
                    [each[:_AGAIN] for each in reference],
                    session(path, self.threads),
                    ready(self.images[:_AGAIN]),
                    student.outputs,
                )
            return parity, found

        parity, found = self._guarded("int8", made)
        rows.append(table.Row("onnx int8", self.path / int8.FILE, parity))
        runs["onnx int8"] = session(rows[-1].path, self.threads), runs["onnx"][1]
        return found

    def _guarded(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives; what goes wrong in it is said in one line."""
        try:
            return make()
        except (ConfigError, RunError):
            raise
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"{name}: it cannot be written to {self.path} ({one_line(error, 200)}); no file was left"
            ) from error
        except Exception as error:  # exporters fail in many ways
            network = self.student.network
            hint = f"; --side {network.size} needs no resize, which may be what fails" * self.student.resizes
            raise RunError(
                f"{name}: {network.name} cannot be exported ({type(error).__name__}: {one_line(error, 200)}); "
                f"no file was left{hint}"
            ) from error

    def _say(self, line: str) -> None:
        self.console.print(escape(line), soft_wrap=True, highlight=False)


def _formats(given: list[str]) -> list[str]:
    for name in given:
        if name not in FORMATS:
            raise ConfigError(f"format: {name!r} is none{nearest(name, FORMATS)}")
    return list(dict.fromkeys(given))
