"""TeacherStore: what the teacher computed for the augmented training images, kept in a file for later epochs."""

import inspect
import json
import os
import secrets
import shutil
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.data.description import describe_training, plain
from kd_lightning.distillation import passes
from kd_lightning.distillation.feature_bytes import Layout
from kd_lightning.distillation.passes import Seen
from kd_lightning.distillation.stored_rows import StoredRows
from kd_lightning.distillation.unchanged import unchanged
from kd_lightning.distillation.unreached import prepared, smallest_batch
from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import check_writable, expand, read_text
from kd_lightning.models import Reads
from kd_lightning.words import megabytes

_FACTS = "store.json"


class TeacherStore:
    """Folder of what the teacher computed for each augmented training image, so that it computes it only once.

    The augmentations must repeat after some epochs (`data.augmentation_epochs`). In the first of these epochs, the
    teacher runs as without a store, and its features are written. Later epochs, resumed runs and other runs read them.
    A run may use a store that is not complete: the teacher runs for batches with an image that is missing.

    Losses and weights are the same as without a store, if the teacher's features of an image do not depend on the other
    images of its batch. The algorithms of torch may round them differently from batch to batch.

    A store belongs to one teacher and to its images. If the teacher, its preprocessing, the images, the augmentations,
    the seed, the views, the mixing, or `trainer.precision` differ, the run raises an error before its first step.
    Several processes of a machine may use a store at the same time, in one run or in several runs.

    Args:
        path: Folder of the store. It is created if it does not exist.
        dtype: Type of the stored values. Values that the network computes in a shorter type keep it. `float16` needs
            half of the space, and rounds the values.
        keep: Features that may be stored. `vectors`: the embedding and the logits. `all`: also maps, tokens and
            attention, which need much space.
    """

    def __init__(
        self,
        *,
        path: str,
        dtype: Literal["float32", "float16"] = "float32",
        keep: Literal["vectors", "all"] = "vectors",
    ) -> None:
        self.folder, self.dtype, self.keep = expand(path), dtype, keep
        self.facts: dict[str, Any] = {}
        self.count = self.images = self.repeats = 0
        self.reads, self.layout = Reads(), Layout([], None)
        self.rows: StoredRows | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "rows": None}  # a copy of a method is not a part of the run and must not write

    @property
    def is_open(self) -> bool:
        """Whether a run uses the store now."""
        return self.rows is not None

    @property
    def size(self) -> int:
        """Number of bytes of the complete store."""
        return self.count * self.layout.size

    def check(self, method: Any, data: Any) -> None:
        """Raise an error if a run cannot use the store. Nothing is written.

        Args:
            method: Method of the run.
            data: Data of the run, after `setup`.

        Raises:
            ConfigError: if the augmentations do not repeat, if the run needs features that may not be stored, if the
                disk is too small, or if the store belongs to other inputs. The message names the field.
        """
        if not data.augmentation_epochs:
            raise ConfigError(
                "model.teacher_store: the augmentations of the images never repeat, so that the teacher would never be "
                "asked twice; set data.augmentation_epochs, for example to 4"
            )
        if data.neighbors:
            raise ConfigError(
                "model.teacher_store: batches of neighbours (data.neighbors) augment an image in as many ways as it "
                "has neighbours; remove one of them"
            )
        self.images, self.repeats = len(data.datasets["train"]), data.repeats
        self.count = data.augmentation_epochs * self.repeats * self.images
        self.facts, self.reads = self._facts(method, data), method.reads_teacher
        known = self._known()
        if known is not None:
            self.reads |= Reads(**known["reads"])
        self.layout = self._layout(method, data)
        if not self.layout.size:
            raise ConfigError(
                f"model.teacher_store: {type(method).__name__} reads nothing of the teacher with these arguments; "
                "remove this field"
            )
        if known is None:
            self._check_new(method)
        else:
            self._check_layout(known, method)

    def _check_layout(self, known: dict[str, Any], method: Any) -> None:
        """Raise an error if a store has other features than this run reads, or in another form."""
        if Layout.from_json(known["layout"]) != self.layout:
            stored = Reads(**known["reads"])
            raise ConfigError(
                f"model.teacher_store.path: {self.folder} contains {stored} of the teacher as {known['dtype']}, but "
                f"this run reads {method.reads_teacher} as {self.dtype}; give another path, or remove the folder"
            )

    def _facts(self, method: Any, data: Any) -> dict[str, Any]:
        teacher = method.teacher
        facts = {
            "model.teacher": f"{teacher.name}, fingerprint {teacher.fingerprint()[:16]}",
            "model.teacher.dtype": str(teacher.dtype),
            "trainer.precision": str(method.trainer.precision),
            **describe_training(data),
        }
        if method.makes_inputs:
            arguments = {
                name: plain(getattr(method, name, None)) for name in inspect.signature(type(method)).parameters
            }
            simple = {name: value for name, value in arguments.items() if isinstance(value, str | int | float)}
            facts["model"] = {"class": type(method).__name__, **simple}
        return facts

    def _known(self) -> dict[str, Any] | None:
        """Return the description of the store in the folder, or None if there is no folder.

        Raises:
            ConfigError: if the folder is no store, or a store of other inputs.
        """
        if not self.folder.exists():
            return None
        try:
            known = json.loads(read_text(self.folder / _FACTS))
            facts = {**known["facts"]}
            Layout.from_json(known["layout"]), Reads(**known["reads"]), known["dtype"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"model.teacher_store.path: {self.folder} is not a teacher store; give a folder that does not exist"
            ) from error
        now = json.loads(json.dumps(self.facts))
        changed = [name for name in (*now, *(facts.keys() - now.keys())) if facts.get(name) != now.get(name)]
        if changed:
            values = [
                f"{name} was {facts.get(name)} and is now {now.get(name)}"
                if all(isinstance(each.get(name), str | int | float | None) for each in (facts, now))
                else f"{name} has changed"
                for name in changed
            ]
            raise ConfigError(
                f"model.teacher_store.path: {self.folder} was written with other inputs: {'; '.join(values)}; give "
                "another path, remove the folder, or restore these inputs"
            )
        return known

    @torch.no_grad()
    def _layout(self, method: Any, data: Any) -> Layout:
        """Return the layout of the features of a few training images, computed as in the run."""
        batch = data.some_training_images(smallest_batch(method, data))
        with distributed.alone(), unchanged(method):
            batch = prepared(method, batch)
            with method.trainer.precision_plugin.forward_context():
                seen = self._ask(method, batch)
        try:
            return Layout.of(seen, len(batch.labels), self.dtype)
        except ValueError as error:
            raise ConfigError(f"model.teacher_store: {type(method).__name__}: {error}; remove this field") from error

    def _ask(self, method: Any, batch: Batch) -> Seen:
        return method.teacher_features(passes.as_inputs(method.inputs(batch)).teacher, self.reads)

    def _check_new(self, method: Any) -> None:
        further = self.reads._replace(embedding=False, logits=False)
        if any(further) and self.keep == "vectors":
            raise ConfigError(
                f"model.teacher_store.keep: {type(method).__name__} reads {further} of the teacher, so that the store "
                f"would have {megabytes(self.size)}; set keep to all, or remove model.teacher_store"
            )
        check_writable(self.folder, "model.teacher_store.path")
        parent = next(each for each in self.folder.absolute().parents if each.is_dir())
        if self.size > (free := shutil.disk_usage(parent).free):
            raise ConfigError(
                f"model.teacher_store.path: the store has {megabytes(self.size)}, but {parent} has only "
                f"{megabytes(free)} of free space; give another path, a smaller data.augmentation_epochs, or dtype "
                "float16"
            )

    def open(self, method: Any) -> None:
        """Open the store for a run that begins, after `check`. The first process creates it if it does not exist."""
        if not self.facts:
            raise ConfigError("model.teacher_store: the run has no data set of this package; remove this field")
        if method.trainer.is_global_zero and not self.folder.exists():
            self._create()
        method.trainer.strategy.barrier()
        self._check_layout(self._known(), method)  # another run may have created the store since `check`
        self.rows = StoredRows(self.folder, self.count, self.layout.size)
        rank_zero_info(
            f"model.teacher_store: {self.rows.filled:,} of {self.count:,} augmented images are stored in "
            f"{self.folder} ({megabytes(self.size)} for {self.reads})"
        )

    def _create(self) -> None:
        partial = self.folder.with_name(f"{self.folder.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        content = {
            "facts": self.facts,
            "reads": self.reads._asdict(),
            "dtype": self.dtype,
            "layout": self.layout._asdict(),
        }
        try:
            partial.mkdir(parents=True)
            StoredRows.create(partial, self.count, self.layout.size)
            (partial / _FACTS).write_text(json.dumps(content, indent=1))
            partial.rename(self.folder)  # fails if another run has just created it, which is then used
        except OSError:
            if not (self.folder / _FACTS).exists():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def close(self) -> None:
        """Close the store at the end of a run."""
        self.rows = None

    def features(self, method: Any, batch: Batch) -> Seen:
        """Return the teacher's features of a batch, from the store or, for the first time, from the teacher."""
        rows = self._rows_of(batch.places)
        inputs = method.inputs(batch) if method.mixes_images else None  # it may communicate, so all processes call it
        content = self.rows.read(rows)
        if content is not None:
            seen = self.layout.from_bytes(content, method.device)
        else:
            inputs = passes.as_inputs(method.inputs(batch) if inputs is None else inputs)
            seen = method.teacher_features(inputs.teacher, self.reads)
            self.rows.write(rows, self.layout.to_bytes(seen))
        return passes.only(seen, method.reads_teacher)

    def _rows_of(self, places: np.ndarray) -> np.ndarray:
        draws, rows, copies = places.T
        return (draws * self.repeats + copies) * self.images + rows
