"""CRD: contrastive representation distillation with memory banks (Tian et al. 2020)."""

from typing import Any, Literal

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import linear
from kd_lightning.distillation.contrast_memory import ContrastMemory
from kd_lightning.errors import ConfigError, check_between, check_positive, check_temperature
from kd_lightning.models import Features, Reads

_NEGATIVES = 16384


class CRD(Distiller):
    """Contrastive representation distillation (Tian, Krishnan, Isola 2020, "Contrastive Representation Distillation").

    The student's embedding of an image is trained to be similar to the teacher's embedding of the same image, and to
    differ from the teacher's embeddings of other images, and the reverse. Both embeddings are mapped to `width`
    dimensions by a linear layer. Both layers are trained, and are dropped after training. The vectors of all training
    images are stored in two banks, from which the negatives of each image are drawn (`ContrastMemory`).

    Of the paper: the loss, the linear layers and the number of negatives. Of released code (RepDistiller): the
    constants, all defaults, and the normaliser, which the first batch sets. In contrast to the released code, each
    device has the same banks, unless `gather` is false, and an image is never its own negative. Its negatives are by
    default those of `negatives: class`, without replacement if there are enough. Inferred: `negatives: index` as the
    default, because it needs no labels.

    Args:
        negatives: Images that are the negatives of an image. `index`: all other training images. `class`: the training
            images of other classes, which needs labels.
        negative_count: Number of negatives K per image and step, drawn with replacement. Default: 16,384, as in the
            paper, or the number of other training images if it is smaller.
        width: Width D of the compared vectors.
        temperature: Temperature of the similarities.
        momentum: Share of the previous vector in the new vector of an image in a bank.
        crd_weight: Weight of the loss.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    The banks of n images have 2 n D float32 numbers: 1.3 GB for 1.28 million images. They are copied in each step, and
    are saved in checkpoints. A step with N images per device also needs about 4 N n numbers for the similarities of all
    images: 1.3 GB for N = 64 and 1.28 million images.

    Raises:
        ConfigError: if `negative_count` is not less than the number of training images, or if the negatives need
            labels, and there are no labels or all images have one class.
    """

    def __init__(
        self,
        *,
        negatives: Literal["index", "class"] = "index",
        negative_count: int | None = None,
        width: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        crd_weight: float = 0.8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(negative_count=_NEGATIVES if negative_count is None else negative_count, width=width)
        check_temperature(1e-2, temperature=temperature)
        check_between(0, 1, momentum=momentum)
        self.set_weights(crd_weight=crd_weight)
        self.negatives, self.negative_count, self.width = negatives, negative_count, width
        self.trained_on = torch.empty(0, dtype=torch.int64)
        self.settings = {"temperature": temperature, "momentum": momentum}
        self.student_head = linear(self.student.embedding_width, width)
        self.teacher_head = linear(self.teacher.embedding_width, width)
        self.rows: Tensor
        until_known = 1 + min(negative_count or _NEGATIVES, _NEGATIVES)  # the training images are not known yet
        self.remember(torch.arange(until_known))
        names = ("student_bank", "teacher_bank", "log_normalizers", "classes", "order", "counts")
        self._ddp_params_and_buffers_to_ignore += ["rows", *(f"memory.{name}" for name in names)]
        self.register_load_state_dict_pre_hook(_fit_banks)

    def remember(self, indices: Tensor, classes: Tensor | None = None, *, seed: int = 0) -> None:
        """Create empty banks for the training images.

        Args:
            indices: Positions of the n images in their data set, n int64 (`Batch.indices`).
            classes: Classes of the images, n int64. Default: each image has its own class.
            seed: Seed of the random rows.
        """
        count = len(indices)
        classes = torch.arange(count) if classes is None else classes
        rows = torch.zeros(int(indices.max()) + 1, dtype=torch.int64).index_copy(0, indices, torch.arange(count))
        self.register_buffer("rows", rows.to(self.device), persistent=False)
        self.memory = ContrastMemory(classes, self.width, seed=seed, **self.settings).to(self.device, self.dtype)

    @property
    def needs_labels(self) -> bool:
        return super().needs_labels or self.negatives == "class"

    def on_data_ready(self, data: Any) -> None:
        super().on_data_ready(data)
        images = data.datasets["train"]
        count = len(images)
        if torch.equal(self.trained_on, images.indices):
            return
        if self.negative_count is not None and self.negative_count >= count:
            raise ConfigError(
                f"model.negative_count: {self.negative_count} negatives are given, but there are only {count} training "
                f"images; give at most {count - 1}"
            )
        if self.negatives == "class" and len(images.labels.unique()) < 2:
            raise ConfigError(
                "model.negatives: class needs images of other classes, but all training images have one class; choose "
                "index"
            )
        self.trained_on = images.indices
        self.remember(images.indices, images.labels if self.negatives == "class" else None, seed=data.seed)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Create banks of the size in the checkpoint. A run that is resumed has created them, and has the same size."""
        if not (self._trainer and self.trainer.state.fn == "fit"):
            _fit_banks(self, checkpoint["state_dict"])
        super().on_load_checkpoint(checkpoint)

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    def aligned_pair(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        return self.student_head(student.embedding), self.teacher_head(teacher.embedding)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        rows = self.rows[batch.indices % len(self.rows)]  # before the training images are known, images share rows
        count = self.negative_count or min(_NEGATIVES, len(self.memory.order) - 1)
        negatives = self.memory.negatives(batch.keys, rows, count)
        loss = self.memory(*self.aligned_pair(student, teacher), rows, negatives, gather=self.all_gather)
        return {"crd": self.crd_weight * loss}


def _fit_banks(method: CRD, state: dict[str, Tensor], prefix: str = "", *_: Any) -> None:
    """Create banks of the size in a state dict, which may come from a process that knew the training images."""
    bank = state.get(f"{prefix}memory.student_bank")
    if bank is not None and len(bank) != len(method.memory.student_bank):
        method.remember(torch.arange(len(bank)))
