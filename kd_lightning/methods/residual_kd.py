"""ResidualKD: an assistant that learns what the student's features lack, and that is kept (Gao et al. 2020)."""

from collections.abc import Mapping
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller, FurtherNetwork
from kd_lightning.errors import ConfigError
from kd_lightning.functional import full_precision, kd_loss, match_spatial
from kd_lightning.models import Features, Network, Reads
from kd_lightning.models.composites import assembled


@full_precision
def residual_losses(student_map: Tensor, assistant_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of the student and the loss of the assistant, both means over all elements.

    The first is the mean of (F_s - F_t)^2. The second is the mean of (F_a - (F_t - F_s))^2, where the residual F_t -
    F_s is detached, so that this loss does not change the student (equations from memory, not verified).

    Args:
        student_map: Final map F_s of the student in the shape of the teacher's, N,C,H,W.
        assistant_map: Final map F_a of the assistant, N,C,H,W.
        teacher_map: Final map F_t of the teacher, N,C,H,W.
    """
    residual = (teacher_map - student_map).detach()
    return F.mse_loss(student_map, teacher_map), F.mse_loss(assistant_map, residual)


class ResidualKD(Distiller):
    """Residual distillation (Gao et al. 2020, "Residual Knowledge Distillation").

    Only the abstract of the paper could be read, not its body. *Of the paper* (its abstract): the student mimics the
    feature maps of the teacher, an assistant learns the residual error between them, and both are split from one given
    model, so that the cost does not grow. *From memory, not verified*: the two losses of `residual_losses`, and that
    the sum of the two networks' features is used after training. There is no released code. *Inferred*: everything
    else.

    The deployed network is the sum: the student's head reads the sum of the final features (the input of pooling) of
    student and assistant. `val/acc`, `test`, the evaluators, `predict`, `export`, the cost and `student.safetensors` (a
    `residual_sum`) are those of the sum. The default assistant has the architecture of the student, so the deployed
    network costs twice as much as the student. To keep the cost, halve the widths of both. The assistant has the mean,
    std and size of the student, and no classifier. If its width differs from that of the student, a linear map without
    bias maps its features to the student's width (`connector`); this map is kept. If the teacher has another width, a
    1x1 convolution without bias maps the features of both networks to this width during training (`regressor`). This
    convolution is linear: applied to the sum of the two networks' features, it returns the sum of the two results. The
    larger of two maps is average-pooled to the size of the smaller map. If all networks have the same number of tokens,
    the complete token sequences are compared, otherwise maps. Only the final features are compared, not those of
    several stages.

    Args:
        student: Network that is trained.
        assistant: Second network, which is trained and kept. Default: the architecture of the student, with new random
            weights.
        trained_logits: Logits that the cross-entropy and the soft targets train. `deployed`: the logits of the sum.
            Their gradient reaches the student, the assistant and the head. `student`: the logits of the student alone,
            as in the form from memory. The assistant then learns only the residual error.
        mimic_weight: Weight of the student's loss. The value is chosen for this project.
        residual_weight: Weight of the assistant's loss. The value is chosen for this project.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, optimizer and lr_scheduler.
    """

    def __init__(
        self,
        *,
        student: Network,
        assistant: Network | None = None,
        trained_logits: Literal["deployed", "student"] = "deployed",
        mimic_weight: float = 1.0,
        residual_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(student=student, **kwargs)
        self.set_weights(mimic_weight=mimic_weight, residual_weight=residual_weight)
        self.trained_logits = trained_logits
        if assistant is None:
            assistant = Network(student.name, num_classes=0, model_kwargs=student.model_kwargs)
        elif assistant.dtype is not None:
            raise ConfigError(
                f"assistant.dtype: {assistant.dtype} is given, but only a teacher can have a dtype; set "
                "trainer.precision"
            )
        assistant.mean, assistant.std = student.mean.clone(), student.std.clone()
        assistant.size, assistant.interpolation = student.size, student.interpolation
        deployed = assembled("residual_sum", student=student, assistant=assistant)
        self.assistant, self.connector = assistant, deployed.model.connector
        width, teacher_width = student.model.num_features, self.teacher.model.num_features
        same = width == teacher_width
        self.regressor = nn.Identity() if same else nn.Conv2d(width, teacher_width, 1, bias=False)
        self.deploy(deployed)

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        labelled = bool(ce_weight or kd_weight)
        if not self.mimic_weight and not labelled:
            raise ConfigError("mimic_weight: 0 is given, so no term trains the student; set mimic_weight above 0")
        if not self.residual_weight and not (labelled and self.trained_logits == "deployed"):
            raise ConfigError(
                "residual_weight: 0 is given, so no term trains the assistant, which is deployed; set residual_weight "
                "above 0"
            )

    @property
    def reads(self) -> Reads:
        return Reads(maps=1, final=True)

    @property
    def further(self) -> Mapping[str, FurtherNetwork]:
        return {"assistant": FurtherNetwork(self.assistant, self.reads)}

    def losses(self, student: Features, teacher: Features, batch: Batch, assistant: Features) -> dict[str, Tensor]:
        both = self.deployed.model.add(student.final, assistant.final)
        mimic, residual = self._losses_of_maps(student, assistant, teacher)
        terms = {"mimic": self.mimic_weight * mimic, "residual": self.residual_weight * residual}
        if not (self.ce_weight or self.kd_weight) or self.trained_logits == "student":
            return terms  # the base adds the terms of the student's logits
        logits = self.deployed.model.forward_head(both)
        if self.ce_weight:
            terms["ce"] = self.ce_weight * self.cross_entropy(logits, batch)
        if self.kd_weight:
            terms["kd"] = self.kd_weight * kd_loss(logits, teacher.logits, temperature=self.kd_temperature)
        return terms

    def _losses_of_maps(self, *seen: Features) -> tuple[Tensor, Tensor]:
        student, assistant, teacher = _final_maps(*seen)
        assistant = self.deployed.model.connect(assistant, 1)
        student, teacher_map = match_spatial(self.regressor(student), teacher)
        assistant, _ = match_spatial(self.regressor(assistant), teacher)
        return residual_losses(student, assistant, teacher_map)


def _final_maps(*seen: Features) -> list[Tensor]:
    """Return the final features of each network as N,C,H,W: all tokens as N,D,M,1, or the inputs of pooling as maps."""
    finals = [features.final for features in seen]
    if all(final.ndim == 3 and final.shape[1] == finals[0].shape[1] for final in finals):
        return [final.transpose(1, 2)[..., None] for final in finals]
    return [features.final_map for features in seen]
