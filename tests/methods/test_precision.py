"""Every method in every precision: values are finite for extreme inputs, and close to those of float32."""

import copy
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers.factories import (
    EVERY_METHOD,
    changed,
    digits,
    method,
    some_by_default,
    student,
    terms_of_all_stages,
    trainer,
    weights,
    with_views,
    with_weights,
)
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller, StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.methods import TinTeM
from kd_lightning.models import Network

PLUGINS: dict[str, Callable[[], Precision]] = {
    "32-true": Precision,
    "bf16-mixed": partial(MixedPrecision, "bf16-mixed", "cpu"),
    "16-mixed": partial(MixedPrecision, "16-mixed", "cpu"),
    "bf16-true": partial(HalfPrecision, "bf16-true"),
    "16-true": partial(HalfPrecision, "16-true"),
    "64-true": DoublePrecision,
}
VIT = {"img_size": 8, "patch_size": 4, "depth": 2, "num_heads": 2}
CASES = {kind.__name__: (kind, False) for kind in EVERY_METHOD} | {"TinTeM, tokens": (TinTeM, True)}
every_case = pytest.mark.parametrize("case", CASES)


@cache
def real(count: int = 32) -> Batch:
    data = digits()
    data.setup("fit")
    return with_views(data.datasets["train"].take(torch.arange(count)))


def build(case: str, classes: int = 10, *, trained: bool = False) -> StudentModule:
    """The method of a case, with a teacher that knows the digits where `trained`: a copy of what was built once."""
    built = copy.deepcopy(_built(case, classes, trained))
    torch.manual_seed(0)
    return built


@cache
def _built(case: str, classes: int, trained: bool) -> StudentModule:
    kind, tokens = CASES[case]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        return _made(kind, tokens, Path(folder), classes, trained)


def _made(kind: type[StudentModule], tokens: bool, folder: Path, classes: int, trained: bool) -> StudentModule:
    if tokens:
        name, ours = "vit_tiny_patch16_224", {"embed_dim": 16, **VIT}
        teacher = with_weights(folder, name, classes, embed_dim=32, **VIT)
        return method(kind, teacher, student=Network(name, num_classes=classes, model_kwargs=ours))
    teacher = None if trained else with_weights(folder, "cifar_resnet8", classes)
    return method(kind, teacher, student=student(classes))


class Step(NamedTuple):
    """Losses of a training step by name, and its gradients."""

    terms: dict[str, float]
    gradients: list[Tensor]


def step(built: StudentModule, given: Batch, precision: str, device: str = "cpu") -> Step:
    """Return a step as Lightning computes it. For 16-mixed, lower the scale until no gradient overflows."""
    plugin = MixedPrecision(precision, device) if precision.endswith("mixed") else PLUGINS[precision]()
    built = plugin.convert_module(built).to(device)
    given = changed(given, lambda column: column.to(device))
    built.log = built.log_dict = lambda *args, **kwargs: None  # there is no trainer
    with plugin.forward_context():
        found = terms_of_all_stages(built, given)
        total = torch.stack([*found.values()]).sum()
    assert all(loss.shape == () and loss.dtype in (torch.float32, torch.float64) for loss in found.values())
    trained = [parameter for parameter in built.parameters() if parameter.requires_grad]
    scale = 65536.0 if precision == "16-mixed" else 1.0
    while True:
        (total * scale).backward(retain_graph=True)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        if precision != "16-mixed" or scale < 2**-16 or all(gradient.isfinite().all() for gradient in gradients):
            return Step({name: loss.item() for name, loss in found.items()}, gradients)
        built.zero_grad()
        scale /= 2


def networks(built: StudentModule) -> list[Network]:
    return [built.student, *([built.teacher] if isinstance(built, Distiller) else [])]


@torch.no_grad()
def gaps(built: StudentModule) -> None:
    """Make the first logit exceed the last by 10,000 in the student, and the last exceed the first in the teacher."""
    for number, network in enumerate(networks(built)):
        head = network.model.get_classifier()
        head.bias += (-1) ** number * torch.linspace(5000, -5000, len(head.bias))


@torch.no_grad()
def norms(built: StudentModule, *, weight: float, bias: float, last: bool = False) -> None:
    """Set weight and bias of all normalisation layers of both networks, or only of the last layer of each."""
    for network in networks(built):
        affine = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm) and m.weight is not None]
        for norm in affine[-1:] if last else affine:
            norm.weight.fill_(weight)
            norm.bias.fill_(bias)


@torch.no_grad()
def dead(built: StudentModule) -> None:
    """Set all features of the student to 0."""
    for norm in built.student.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.LayerNorm):
            norm.weight.zero_()
            norm.bias.zero_()


class Extreme(NamedTuple):
    rig: Callable[[StudentModule], None] = lambda built: None
    change: Callable[[Batch], Batch] = lambda batch: batch
    classes: int = 10


def only(count: int, batch: Batch) -> Batch:
    return changed(batch, lambda column: column[:count])


EXTREMES = {
    "gaps of 1e4": Extreme(gaps),
    "two classes": Extreme(change=lambda batch: batch._replace(labels=batch.labels % 2), classes=2),
    "one image": Extreme(change=partial(only, 1)),
    "one image of two classes": Extreme(gaps, lambda batch: only(1, batch)._replace(labels=batch.labels[:1] % 2), 2),
    "two images": Extreme(change=partial(only, 2)),
    "the same image": Extreme(change=lambda batch: batch._replace(images=batch.images[:1].expand(32, -1, -1, -1))),
    "constant features": Extreme(partial(norms, weight=0.0, bias=2.0)),
    "all-zero features": Extreme(partial(norms, weight=0.0, bias=0.0)),
    "the student's all zero": Extreme(dead),
    "features of 1e3": Extreme(partial(norms, weight=1000.0, bias=0.0, last=True)),
    "all black": Extreme(change=lambda batch: batch._replace(images=torch.zeros_like(batch.images))),
    "float": Extreme(change=lambda batch: batch._replace(images=batch.images / 255)),
    "larger, channels last": Extreme(
        change=lambda batch: batch._replace(
            images=batch.images.repeat(1, 1, 3, 3)[:, :, :20, :20].contiguous(memory_format=torch.channels_last)
        )
    ),
}
BY_DEFAULT = {
    ("gaps of 1e4", "bf16-mixed"),
    ("gaps of 1e4", "16-mixed"),
    ("two classes", "32-true"),
    ("one image", "bf16-true"),
    ("constant features", "bf16-mixed"),
    ("all-zero features", "16-mixed"),
}
"""Pairs of extreme and precision in the default run; all other pairs are in `e2e`."""


@pytest.mark.parametrize(
    ("extreme", "precision"),
    [
        pytest.param(extreme, precision, marks=[] if (extreme, precision) in BY_DEFAULT else pytest.mark.e2e)
        for extreme in EXTREMES
        for precision in ("32-true", "bf16-mixed", "16-mixed", "bf16-true")
    ],
)
@every_case
def test_values_and_gradients_are_finite(case: str, extreme: str, precision: str) -> None:
    rig, change, classes = EXTREMES[extreme]
    given = change(real())
    if classes == 2 and case == "AICSD":
        with pytest.raises(ConfigError, match="2 classes"):
            build(case, classes)
        return
    built = build(case, classes)
    rig(built)
    if getattr(built, "normalises_vectors", False) and len(given.images) == 1:  # it raises an error for such data
        return
    found = step(built, given, precision)
    assert all(torch.isfinite(torch.tensor(value)) for value in found.terms.values()), found.terms
    assert len(found.gradients) > 10
    assert all(gradient.isfinite().all() for gradient in found.gradients)


@pytest.mark.parametrize(
    "precision", [pytest.param(name, marks=[] if name == "bf16-mixed" else pytest.mark.e2e) for name in PLUGINS]
)
@every_case
def test_values_are_within_two_percent_of_float32s(case: str, precision: str) -> None:
    exact = step(build(case, trained=True), real(), "32-true").terms
    rounded = step(build(case, trained=True), real(), precision).terms
    assert rounded == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("kind", EVERY_METHOD)
def test_too_few_images_are_refused(kind: type[StudentModule]) -> None:
    built = build(kind.__name__, trained=True)
    least = built.min_batch_size
    if least > 1:
        with pytest.raises(ConfigError, match=f"{least - 1} is too few"):
            built.check_data(digits(batch_size=least - 1))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("kind", some_by_default(EVERY_METHOD, "KD"))
def test_it_trains_in_low_precision(kind: type[StudentModule], precision: str, tmp_path: Path) -> None:
    built = method(kind)
    before = weights(built)
    run = trainer(tmp_path, precision=precision, max_epochs=max(1, len(built.training_stages)))
    run.fit(built, digits())
    assert all(torch.isfinite(value) for value in run.callback_metrics.values())
    assert torch.isfinite(weights(built)).all()
    assert not torch.equal(weights(built), before)
