"""OKDMDE: branches on a shared stem teach each other by their fused output, without a teacher (Li et al. 2020)."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule
from kd_lightning.distillation.branches import check_cut
from kd_lightning.distillation.checks import check_classes
from kd_lightning.errors import ConfigError, check_temperature
from kd_lightning.functional import full_precision, kd_loss, mixed_cross_entropy
from kd_lightning.models import Features, Network, Reads
from kd_lightning.models.composites import assembled, new_branches
from kd_lightning.models.extraction import extract


def classifier_diversity(weights: Sequence[Tensor]) -> Tensor:
    """Return the sum over all pairs i < j of the Frobenius norm of W_i^T W_j, which is a matrix D,D.

    The norm is not squared. It is smallest if the classifiers read orthogonal features, but smaller weights make it
    smaller as well.

    Args:
        weights: Weights W_m of the linear classifiers of the branches, each K,D.
    """
    return _diversity(*weights)


@full_precision
def _diversity(*weights: Tensor) -> Tensor:
    return torch.stack([(one.T @ other).norm() for one, other in combinations(weights, 2)]).sum()


def ensemble_losses(
    branch_logits: Sequence[Tensor],
    fused_logits: Tensor,
    labels: Tensor,
    partner_labels: Tensor | None = None,
    mix_lambda: Tensor | None = None,
    *,
    temperature: float = 3.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropies of the branches, that of the fused logits, and the divergences of the branches.

    The first is the sum over the branches. The third is the sum over the branches of T^2 KL(fused || branch), a mean
    over the samples, where the fused logits are detached.

    Args:
        branch_logits: Logits of M branches, each N,K.
        fused_logits: Logits of the ensemble, N,K.
        labels: Classes, N int64.
        partner_labels: Classes of mixed-in images, N int64, or None.
        mix_lambda: Shares of `labels`, N, or None.
        temperature: Temperature T of both softmaxes.
    """
    mixed = (labels, partner_labels, mix_lambda)
    target = fused_logits.detach()
    return (
        torch.stack([mixed_cross_entropy(logits, *mixed) for logits in branch_logits]).sum(),
        mixed_cross_entropy(fused_logits, *mixed),
        torch.stack([kd_loss(logits, target, temperature=temperature) for logits in branch_logits]).sum(),
    )


class OKDMDE(StudentModule):
    """Multi-branch diversity enhancement (Li et al. 2020, "Online Knowledge Distillation via Multi-branch Diversity
    Enhancement").

    Only the abstract of the paper could be read, not its body: how it fuses the branches is not known. *Of the paper*
    (its abstract): no teacher, a feature fusion module, and a classifier diversity loss. *Of third-party code*: the
    terms, temperature 3, the norm of the diversity and its weight. That code detaches the classifiers, so that its
    diversity has no gradient, does not detach the fused target, and averages the divergence over samples and classes.
    Here, the classifiers are not detached, the target is, and the divergence is a mean over the samples. *From memory,
    not verified*: the gate. There is no released code of the authors.

    The first branch is the student. The other branches begin with the student's map of a stage. They have the same
    layers after this stage as the student, with their own random weights. A gate weights the embeddings h_m of all
    branches by softmax(W [h_1, ..., h_M]); the fused classifier reads their weighted sum. The terms are `ce` (the sum
    of the branches' cross-entropies), `fused_ce`, `branch_kd` (T^2 KL from the fused to each branch) and `diversity`.
    Labels are needed.

    Args:
        student: Network that is trained. It must have stages that can be cut (`cifar_*`, timm's ResNets, ...).
        branches: Number of branches, including the student: 3 or 4 in third-party code.
        layer: Number of the last stage that all branches share, counted back from the last stage, which has number 1.
            With 2, each branch has its own last stage. The value is chosen for this project.
        keep: Network that is evaluated, saved and exported. `branch`: the student. `ensemble`: all branches with the
            gate and the fused classifier; `student.safetensors` is then a `branch_ensemble`.
        temperature: Temperature of both softmaxes of `branch_kd`.
        ce_weight: Weight of the sum of the branches' cross-entropies.
        fused_ce_weight: Weight of the cross-entropy of the fused logits.
        branch_kd_weight: Weight of the divergences.
        diversity_weight: Weight of the classifier diversity.
        **kwargs: Arguments of every method, such as optimizer and lr_scheduler.
    """

    needs_labels = True

    def __init__(
        self,
        *,
        student: Network,
        branches: int = 3,
        layer: int = 2,
        keep: Literal["branch", "ensemble"] = "branch",
        temperature: float = 3.0,
        ce_weight: float = 1.0,
        fused_ce_weight: float = 1.0,
        branch_kd_weight: float = 1.0,
        diversity_weight: float = 5e-8,
        **kwargs: Any,
    ) -> None:
        super().__init__(student=student, ce_weight=ce_weight, **kwargs)
        check_classes(type(self).__name__, student)
        check_temperature(temperature=temperature)
        if branches < 2:
            raise ConfigError(f"branches: {branches} is given, but OKDMDE needs 2 or more branches")
        self.set_weights(
            fused_ce_weight=fused_ce_weight, branch_kd_weight=branch_kd_weight, diversity_weight=diversity_weight
        )
        if fused_ce_weight == 0 and (branch_kd_weight or keep == "ensemble"):
            raise ConfigError(
                "fused_ce_weight: 0 is given, but the fused logits, which no term would train, are the target of "
                "branch_kd and the output of keep: ensemble; set fused_ce_weight above 0"
            )
        if keep == "branch" and not (ce_weight or branch_kd_weight) and any(self.weights.values()):
            raise ConfigError(
                "ce_weight: 0 is given, and branch_kd_weight is 0, so no term trains the classifier of the student, "
                "which is deployed; set one of them above 0, or keep to ensemble"
            )
        check_cut("layer", layer, student)
        student.classifier  # noqa: B018 (raises an error if there is no linear classifier)
        self.layer, self.temperature = layer, temperature
        others, classifiers = new_branches(student, branches - 1, layer)
        ensemble = assembled("branch_ensemble", student=student, branches=others, layer=layer)
        self.branches, self.fusion = ensemble.model.branches, ensemble.model.fusion
        self.classifiers = nn.ModuleList(classifiers)
        if keep == "ensemble":
            self.deploy(ensemble)

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layer, embedding=True, logits=True)

    def losses(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        name = self.student.name
        reads, shared = Reads(embedding=True), student.maps[0]
        embeddings = [extract(name, branch, shared, reads).embedding for branch in self.branches]
        logits = [layer(embedding) for layer, embedding in zip(self.classifiers, embeddings, strict=True)]
        logits.insert(0, student.logits)
        fused = self.fusion.classifier(self.fusion([student.embedding, *embeddings]))
        labels = (batch.labels, batch.partner_labels, batch.mix_lambda)
        ce, fused_ce, branch_kd = ensemble_losses(logits, fused, *labels, temperature=self.temperature)
        for key, output in (("acc", student.logits), ("fused_acc", fused)):
            self.record(key, lambda output=output: (output.argmax(dim=1) == batch.labels).float().mean())
        diversity = classifier_diversity([self.student.classifier[0], *(layer.weight for layer in self.classifiers)])
        terms = {"ce": ce, "fused_ce": fused_ce, "branch_kd": branch_kd, "diversity": diversity}
        return {name: self.weights[f"{name}_weight"] * term for name, term in terms.items()}
