"""BranchEnsemble: branches on a shared stem, whose embeddings a gate fuses for one classifier (OKDMDE)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.models import classifier, creation
from kd_lightning.models.cifar import CifarModel
from kd_lightning.models.composites.base import Child, Composite, described, register
from kd_lightning.models.extraction import extract
from kd_lightning.models.features import Reads
from kd_lightning.models.network import Network


def cut(model: nn.Module, layer: int) -> nn.Module:
    """Replace the modules of a model up to a stage by identities, in place, and return the model.

    The model then computes its output from the map of that stage, if its modules are called in the order in which
    they are registered. `kd_lightning.distillation.branches` tests this.

    Args:
        model: A timm model.
        layer: Number of the stage, counted back from the last stage, which has the number 1.
    """
    if isinstance(model, CifarModel):
        model.skipped = len(model.feature_info) - layer + 1
    *path, last = model.feature_info[-layer]["module"].split(".")
    parent = model
    for name in path:
        _drop(parent, [*parent._modules].index(name))
        parent = parent.get_submodule(name)
    _drop(parent, [*parent._modules].index(last) + 1)
    return model


def _drop(parent: nn.Module, count: int) -> None:
    for name in [*parent._modules][:count]:
        parent._modules[name] = nn.Identity()


def new_branches(student: Network, count: int, layer: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return new branches that begin with a map of a student, without their classifiers, and the classifiers.

    Args:
        student: Network whose architecture and number of classes the branches have. Its classifier is linear.
        count: Number of branches, without the student.
        layer: Number of the stage of the map, counted back from the last stage, which has the number 1.
    """
    kwargs = {"num_classes": student.num_classes, "model_kwargs": student.model_kwargs}
    branches = [cut(Network(student.name, **kwargs).model, layer) for _ in range(count)]
    classifiers = [_linear(student.name, branch) for branch in branches if student.num_classes]
    for branch in branches:
        creation.set_classes(branch, 0)
    return branches, classifiers


def _linear(name: str, model: nn.Module) -> nn.Linear:
    """Return the classifier of a model, which may be a 1x1 convolution, as a linear layer."""
    weight, bias = classifier.weight_and_bias(name, model)
    classes, width = weight.shape
    layer = nn.utils.skip_init(nn.Linear, width, classes, bias=bias is not None, device=weight.device)
    layer.weight = nn.Parameter(weight.detach())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer


class Fusion(nn.Module):
    """A gate that weights the embeddings of M branches, and a classifier of their weighted sum.

    Args:
        width: Width D of an embedding.
        branches: Number M of branches.
        num_classes: Number K of classes.
    """

    def __init__(self, width: int, branches: int, num_classes: int) -> None:
        super().__init__()
        self.gate = nn.Linear(branches * width, branches, bias=False)
        self.classifier = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, embeddings: list[Tensor]) -> Tensor:
        """Return the fused embedding N,D of M embeddings N,D: sum_m g_m h_m with g = softmax(W [h_1, ..., h_M])."""
        shares = self.gate(torch.cat(embeddings, dim=1)).softmax(dim=1)
        return torch.stack([h * share[:, None] for h, share in zip(embeddings, shares.unbind(1), strict=True)]).sum(0)


class BranchEnsemble(Composite):
    """A student and further branches, which begin with a map of the student. The classifier reads the fused embedding.

    The branches have no classifiers. The student keeps its own, which is not used: the state dict contains a complete
    student.

    Args:
        student: The student, or its arguments `name` and `model_kwargs`. It is the first branch and contains the stem.
        branches: Number of branches, including the student, or the branches that `new_branches` has built, without the
            student. Given branches are not copied.
        layer: Number of the last stage that the branches share, counted back from the last stage, which has number 1.
        num_classes: Number of outputs of both classifiers. Default: that of the student.
    """

    def __init__(
        self, *, student: Child, branches: int | Iterable[nn.Module], layer: int, num_classes: int | None = None
    ) -> None:
        super().__init__(student=student, num_classes=num_classes)
        self.layer = layer
        others = new_branches(self.student, branches - 1, layer)[0] if isinstance(branches, int) else branches
        self.branches = nn.ModuleList(others)
        self.fusion = Fusion(self.head_hidden_size, len(self.branches) + 1, self.num_classes)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"student": described(self.student), "branches": len(self.branches) + 1, "layer": self.layer}

    @property
    def classifier_names(self) -> tuple[str, ...]:
        return ("fusion.classifier", *super().classifier_names)

    def get_classifier(self) -> nn.Module:
        return self.fusion.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.fusion.classifier = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the fused embedding N,D of normalised images."""
        seen = extract(self.student.name, self.student.model, x, Reads(maps=self.layer, embedding=True))
        name, shared = self.student.name, seen.maps[0]
        others = (extract(name, branch, shared, Reads(embedding=True)).embedding for branch in self.branches)
        return self.fusion([seen.embedding, *others])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x if pre_logits else self.fusion.classifier(x)

    def forward_intermediates(
        self, x: Tensor, indices: int | list[int] | None = None, intermediates_only: bool = False, **kwargs: Any
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of the student, as timm does, and the fused embedding."""
        settings = {"norm": kwargs.get("norm", False), "output_fmt": kwargs.get("output_fmt", "NCHW")}
        _, maps = self.student.model.forward_intermediates(x, indices=indices, **settings)
        return maps if intermediates_only else (self.forward_features(x), maps)


register(BranchEnsemble, "branch_ensemble")
