"""Export: the class of the command."""

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from torch import Tensor

from kd_lightning.batch import LARGEST_SIDE
from kd_lightning.commands.export import hub, int8, latency, table
from kd_lightning.commands.export.atomic_path import atomic_path
from kd_lightning.commands.export.exported_model import ExportedModel, InferenceFn
from kd_lightning.commands.export.format import Format
from kd_lightning.commands.export.loaded_student import evenly_spaced, load, resize
from kd_lightning.commands.export.onnx_graph import Onnx, session
from kd_lightning.commands.export.parity import FIRST_BATCH_SIZES, Parity, compare, run_in_batches
from kd_lightning.commands.export.provenance import provenance, with_parity
from kd_lightning.commands.export.timm_folder import Timm
from kd_lightning.commands.export.torch_export import TorchExport
from kd_lightning.commands.export.weights import Safetensors
from kd_lightning.errors import ConfigError, RunError, check_positive, nearest, one_line
from kd_lightning.io.console import wide
from kd_lightning.io.paths import check_writable, expand

FORMATS: dict[str, type[Format]] = {exporter.name: exporter for exporter in (Safetensors, Timm, TorchExport, Onnx)}
MOST_THREADS, LARGEST_BATCH = 1024, 65_536
"""Limits above which torch ends the process instead of raising an error, or the memory is full."""
RECHECKED_IMAGES = sum(FIRST_BATCH_SIZES)
"""Number of images for the second comparison of a file, after the facts have been written into it."""


class Export:
    """Writes a finished run's student to files for other programs: `export RUN --format onnx timm`.

    There are four formats. `student.safetensors` has the weights for `Network`. `timm/` is a folder for
    `timm.create_model`, with a model card; timm's transforms normalise the images. `student.pt2` (torch.export) and
    `student.onnx` are graphs that also normalise and resize the images. Each file is read back, and its outputs are
    compared with PyTorch's outputs on images of the run's data. If they differ, the file is not stored. All files
    contain facts about their origin.

    Args:
        ckpt_path: path of a run's folder, of its config.yaml, or of a checkpoint or student.safetensors in this folder.
            For the folder and its config.yaml, the selected checkpoint of the run is exported. The path may also be
            given without the name of the argument, directly after `export`. A student.safetensors may also be outside
            the folder of a run. Each file is then compared on random pixels instead of images of the run.
        format: formats to write: one or several of safetensors, timm, torch_export and onnx. onnx needs
            `pip install 'kd_lightning[export]'`.
        path: output folder. Default: `export` in the run's folder.
        overwrite: whether existing files are overwritten.
        input: type of the input images of torch_export and onnx: uint8 as decoded (no scaling needed, a quarter of the
            memory), or float32 in [0, 1].
        embedding: whether the embedding is a second output. If the classifier was not trained, the embedding is always
            the only output.
        side: side of the input images of torch_export and onnx in pixels. The files accept only this side, but any
            number of images. Default: the side of the run's images.
        data_path: path of the run's images, if they have been moved since the run. Default: the path in its config.
        random_pixels: whether each file is compared with PyTorch on random pixels. The images of the run are then not
            needed. int8 cannot be combined with it, because the calibration needs the training images.
        images: number of images on which each file is compared with PyTorch. They are test images if there are any,
            otherwise validation images, otherwise training images.
        tolerance: largest allowed difference, as a share of PyTorch's largest output.
        batch_sizes: batch sizes whose latency is measured. Default: 1 and 32. [] disables the measurement.
        repeats: number of timed repetitions of each batch.
        threads: number of threads for every format.
        int8: whether an int8 version of the ONNX file is also written. It is calibrated on training images, and
            evaluated on all images of the split of `images`.
        calibration: number of training images for the calibration.
        push_to_hub: name (OWNER/NAME) of a repository on the Hugging Face hub to which the timm folder is uploaded. The
            login of the hub's library is used.
        private: whether the repository is created as a private one. If true, nothing is uploaded to a public repository
            that exists already.

    Raises:
        ConfigError: for a wrong value, a folder without a run, an existing file, or a missing package.
        RunError: if the outputs of a file differ from those of the checkpoint, or if a file cannot be written. The file
            is then removed.
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
        data_path: str | None = None,
        random_pixels: bool = False,
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
        largest = {"threads": (threads, MOST_THREADS), "side": (side or 1, LARGEST_SIDE)}
        largest["batch_sizes"] = (max(self.batch_sizes, default=1), LARGEST_BATCH)
        for field, (value, limit) in largest.items():
            if value > limit:
                raise ConfigError(f"{field}: {value:,} is more than {limit:,}")
        if not math.isfinite(tolerance) or tolerance < 0:
            raise ConfigError(f"tolerance: {tolerance} is not a finite number of 0 or more")
        if int8 and "onnx" not in self.formats:
            raise ConfigError("int8: the int8 file is created from the ONNX file; add onnx to --format")
        if push_to_hub is not None:
            if "timm" not in self.formats:
                raise ConfigError("push_to_hub: it uploads the timm folder; add timm to --format")
            hub.check_name(push_to_hub)
        for name in self.formats:
            FORMATS[name].check()
        if path is not None:
            check_writable(expand(path), "path")  # before the student is loaded
        self.overwrite, self.input, self.embedding, self.side = overwrite, input, embedding, side
        self.count, self.tolerance, self.repeats, self.threads = images, tolerance, repeats, threads
        self.int8, self.calibration, self.push_to_hub, self.private = int8, calibration, push_to_hub, private
        if random_pixels and (int8 or data_path is not None):
            field = "int8" if int8 else "data_path"
            raise ConfigError(
                f"{field}: it needs images, so it cannot be combined with random_pixels; omit one of them"
            )
        self.source = load(ckpt_path, data_path=data_path, random_pixels=random_pixels)
        if int8 and self.source.is_alone:
            raise ConfigError(
                f"int8: the calibration needs training images, and {self.source.checkpoint} is not in the folder of a "
                "run; give the folder of the run"
            )
        self.path = self.source.checkpoint.parent / "export" if path is None else expand(path)
        self._check_target()
        self.console = wide()

    def _check_target(self) -> None:
        check_writable(self.path, "path")
        wanted = [FORMATS[name].file for name in self.formats] + [int8.FILE] * self.int8
        for name in wanted:
            check_writable(self.path / name, "path", kind="folder" if name == Timm.file else "file")
        existing = [self.path / name for name in wanted if (self.path / name).exists()]
        if existing and not self.overwrite:
            more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
            raise ConfigError(f"path: {existing[0]}{more} exists already; --overwrite overwrites it")
        if (self.path / Timm.file).is_dir() and "timm" in self.formats:
            others = sorted({path.name for path in (self.path / Timm.file).iterdir()} - set(Timm.files))
            if others:
                raise ConfigError(
                    f"path: {self.path / Timm.file} contains {others[0]}, which is not from an export; choose "
                    "another folder"
                )

    def __call__(self) -> Path:
        """Export and return the folder with the files."""
        source = self.source
        if source.random_pixels and not source.is_alone:
            self._say("random_pixels: each file is compared on random pixels instead of images of the run")
        if source.is_alone:
            self._say(
                f"{source.checkpoint} is not in the folder of a run, so its images are unknown; each file is compared "
                "on random pixels"
            )
        elif not source.results:
            self._say(
                f"unfinished: {source.checkpoint.parent} has no results.json; {source.checkpoint.name} is exported"
            )
        elif not source.evaluated:
            self._say(
                f"results.json has the results of another checkpoint than {source.checkpoint.name}; the files contain "
                "no metrics"
            )
        if not source.knows_classes:
            self._say("the student's classifier was not trained; the embedding is the only output")
        with latency.threads_of_torch(self.threads):
            rows = [table.Row("PyTorch", None, None)]
            runs: dict[str, tuple[InferenceFn, Tensor]] = {
                "PyTorch": (self.student.run, self.student.to_input(self.images))
            }
            for name in self.formats:
                exporter = self._guarded(name, lambda name=name: FORMATS[name](self.student))
                rows.append(table.Row(name, self.path / exporter.file, self._export(exporter)))
                run = (
                    exporter.read_batched(rows[-1].path)
                    if isinstance(exporter, Timm)
                    else exporter.read(rows[-1].path, self.threads)
                )
                runs[name] = run, exporter.to_input(resize(self.images, exporter.side))
            costs = self._quantize(rows, runs) if self.int8 else None
            times = latency.latencies(runs, self.batch_sizes, self.repeats)
        self.console.print(table.table(rows, times, self.batch_sizes, self.threads))
        for line in table.notes(self.student, source, rows, costs):
            self._say(line)
        self._say(f"exported: {self.path}")
        if self.push_to_hub:
            self._say(f"on the hub: {hub.push(self.path / Timm.file, self.push_to_hub, private=self.private)}")
        return self.path

    @cached_property
    def student(self) -> ExportedModel:
        source, network = self.source, self.source.network
        outputs = ("logits", "embedding") if self.embedding else ("logits",)
        if not source.knows_classes:
            outputs = ("embedding",)
            if network.num_classes:
                network.model.reset_classifier(0)
                network.num_classes, network.class_names = 0, None
        side = self.side or self.source.images.side
        return ExportedModel(network, outputs, side, self.input, source.class_names)

    @cached_property
    def images(self) -> Tensor:
        """Images for the comparison, uint8, N,3,S,S."""
        return resize(evenly_spaced(self.source.images, self.count), self.student.side)

    @cached_property
    def facts(self) -> dict[str, Any]:
        return provenance(self.source, self.student)

    def _export(self, exporter: Format) -> Parity:
        """Write one file with a temporary name, compare it with PyTorch, add the comparison to it, and rename it."""
        images = resize(self.images, exporter.side)
        reference = run_in_batches(self.student.run, self.student.to_input(images))

        def compare_file(path: Path, count: int) -> Parity:
            expected = [output[:count] for output in reference]
            return compare(
                expected, exporter.read(path, self.threads), exporter.to_input(images[:count]), self.student.outputs
            )

        def export() -> Parity:
            with atomic_path(self.path / exporter.file) as path:
                exporter.write(path, self.facts)
                parity = compare_file(path, len(images))
                parity.check(exporter.name, self.tolerance)
                exporter.write(path, with_parity(self.facts, parity, self.source.split))
                compare_file(path, RECHECKED_IMAGES).check(exporter.name, self.tolerance)
            return parity

        return self._guarded(exporter.name, export)

    def _quantize(self, rows: list[table.Row], runs: dict[str, tuple[InferenceFn, Tensor]]) -> dict[str, float]:
        source, student = self.source, self.student
        images = resize(evenly_spaced(source.training_images(), self.calibration), student.side)
        reference = run_in_batches(student.run, student.to_input(self.images))
        float_run = runs["onnx"][0]

        def prepare(batch: Tensor) -> Tensor:
            return student.to_input(resize(batch, student.side))

        def export() -> tuple[Parity, dict[str, float]]:
            with atomic_path(self.path / int8.FILE) as path:
                int8.quantize(self.path / Onnx.file, student.to_input(images), path)
                run = session(path, self.threads)
                parity = compare(reference, run, student.to_input(self.images), student.outputs)
                parity.check("int8", math.inf)
                costs = int8.quantization_costs(float_run, run, source.images, prepare, student.outputs)
                facts = with_parity(self.facts, parity, source.split)
                calibrated = {"calibration_images": len(images), "split": source.split, **costs}
                int8.rewrite(path, {**facts, "int8": calibrated})
                compare(
                    [part[:RECHECKED_IMAGES] for part in reference],
                    session(path, self.threads),
                    prepare(self.images[:RECHECKED_IMAGES]),
                    student.outputs,
                )
            return parity, costs

        parity, costs = self._guarded("int8", export)
        rows.append(table.Row("onnx int8", self.path / int8.FILE, parity))
        runs["onnx int8"] = session(rows[-1].path, self.threads), runs["onnx"][1]
        return costs

    def _guarded(self, name: str, make: Callable[[], Any]) -> Any:
        """Call `make` and return its result; an exception of `make` is converted to an error of one line."""
        try:
            return make()
        except (ConfigError, RunError):
            raise
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"{name}: the file cannot be written to {self.path} ({one_line(error, 200)}); no file was written"
            ) from error
        except Exception as error:  # exporters raise various errors
            network = self.student.network
            hint = f"; a possible cause is the resizing, which --side {network.size} avoids" * self.student.resizes
            raise RunError(
                f"{name}: {network.name} cannot be exported ({type(error).__name__}: {one_line(error, 200)}); "
                f"no file was written{hint}"
            ) from error

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, highlight=False)


def _formats(names: list[str]) -> list[str]:
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"format: {name!r} is unknown{nearest(name, FORMATS)}")
    return list(dict.fromkeys(names))
