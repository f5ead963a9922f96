"""Tests of every method in the package. They find new methods by themselves."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from helpers.factories import (
    EVERY_METHOD,
    METHODS,
    CombinedOfThree,
    digits,
    method,
    shared_teacher,
    student,
    terms_of_all_stages,
    trainer,
    weights,
    with_views,
    with_weights,
)
from torch import Tensor

from kd_lightning import Network, methods
from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller, StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.methods import KD, SP, CoSS, FitNet, Supervised, TinTeM
from kd_lightning.optim import WarmupMultiStep

DISTILLERS = [kind for kind in EVERY_METHOD if issubclass(kind, Distiller)]
every_method = pytest.mark.parametrize("kind", EVERY_METHOD)


def images(count: int, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def batch(pixels: Tensor, classes: int = 10) -> Batch:
    rows = torch.arange(len(pixels))
    return with_views(Batch(pixels, rows % classes, rows, rows))


def terms(built: StudentModule, given: Batch) -> dict[str, Tensor]:
    built.log = lambda *args, **kwargs: None  # there is no trainer
    return terms_of_all_stages(built, given)


def test_the_methods_are_found_and_known_in_yaml() -> None:
    assert {Supervised, KD, SP} <= {*METHODS}
    assert {kind.__name__ for kind in METHODS} <= {*methods.__all__}


@every_method
def test_the_gradient_reaches_all_that_is_trained_and_never_the_teacher(kind: type[StudentModule]) -> None:
    built = method(kind)
    if hasattr(built, "teacher"):
        built.teacher.requires_grad_(True)  # even then, the teacher gets no gradient
    found = terms(built, batch(images(12)))
    assert all(loss.shape == () and loss.dtype == torch.float32 for loss in found.values())
    sum(found.values()).backward()
    if hasattr(built, "teacher"):
        assert all(parameter.grad is None for parameter in built.teacher.parameters())
    for name, parameter in built.named_parameters():
        if parameter.requires_grad:  # DistributedDataParallel raises an error for a parameter without a gradient
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@every_method
def test_numbers_that_make_no_sense_are_refused(kind: type[StudentModule], value: float) -> None:
    numbers = {n: p.default for n, p in inspect.signature(kind).parameters.items() if isinstance(p.default, float)}
    assert numbers or not issubclass(kind, Distiller)
    teacher, network = shared_teacher(), student()  # nothing is built that could change them
    for name in {*numbers, "ce_weight"}:
        with pytest.raises(ConfigError, match=f"{name}: {value}"):
            method(kind, teacher, student=network, **{name: value})


@every_method
def test_weights_that_are_all_0_are_refused(kind: type[StudentModule]) -> None:
    weights = {name: 0.0 for name in inspect.signature(kind).parameters if name.endswith("_weight")}
    if kind is not CoSS:  # CoSS's scale cannot be 0
        others = {FitNet: {"layer": 1}, CombinedOfThree: {"part_weights": [0.0] * 3}}.get(kind, {})
        with pytest.raises(ConfigError, match="nothing is trained"):
            method(kind, shared_teacher(), **{**weights, "ce_weight": 0.0}, **others)


@every_method
def test_a_terms_weight_is_its_factor(kind: type[StudentModule]) -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    arguments = [name for name, default in defaults.items() if name.endswith("_weight") and default]
    net, given = student().eval(), batch(images(12))

    def seeded(**kwargs: object) -> StudentModule:
        torch.manual_seed(0)  # heads
        return method(kind, shared_teacher(), student=net, **kwargs).eval()

    plain = terms(seeded(), given)
    absent = {name for name in arguments if name.removesuffix("_weight") not in plain}
    assert absent <= ({"local_weight", "map_weight"} if kind is TinTeM else set())  # these two terms need tokens
    for name in sorted({*arguments} - absent):
        term, default = name.removesuffix("_weight"), defaults[name]
        twice = terms(seeded(**{name: 2 * default}), given)
        torch.testing.assert_close(twice.pop(term), 2 * plain[term])
        assert all(torch.equal(value, plain[other]) for other, value in twice.items())


@pytest.mark.parametrize("kind", DISTILLERS)
def test_every_term_but_the_labels_asks_the_teacher(kind: type[Distiller]) -> None:
    built, given = method(kind).eval(), batch(images(12))
    before = terms(built, given)
    with torch.no_grad():
        for parameter in built.teacher.parameters():
            parameter += 0.3 * parameter.std(correction=0) * torch.randn_like(parameter)
        for parameter in built.teacher.model.get_classifier().parameters():
            parameter.neg_()  # changes the teacher's decisions as well
    after = terms(built, given)
    independent = re.findall(r"`(\w+)` does not depend on the teacher", " ".join((inspect.getdoc(kind) or "").split()))
    for name, value in before.items():
        if name in {"ce", *independent}:
            assert torch.equal(value, after[name]), f"{name} depends on the teacher"
        else:  # a contrast has a large constant part
            assert (value - after[name]).abs() > 1e-6 * value.abs(), name


@every_method
def test_a_method_that_reads_labels_says_so(kind: type[StudentModule]) -> None:
    """Otherwise a run without labels, whose labels are all -1, would begin."""
    given, network = batch(images(12)), student()

    def build() -> StudentModule:
        torch.manual_seed(0)  # heads and queues
        return method(kind, shared_teacher(), student=network, ce_weight=0.0).eval()

    try:
        built = build()
    except ConfigError:  # without labels, it has no term, or its classifier would not be trained
        return
    terms_of = [terms(build(), given._replace(labels=labels)) for labels in (given.labels, given.labels.flip(0))]
    reads = any(not torch.equal(terms_of[0][name], terms_of[1][name]) for name in terms_of[0])
    assert built.needs_labels or not reads, f"override needs_labels in {kind.__name__}: its losses read batch.labels"


@every_method
def test_one_class_is_refused_or_gives_finite_terms(kind: type[StudentModule], one_class_teacher: Network) -> None:
    """The probability of a single class is always 1."""
    refused = ""
    try:
        built = method(kind, one_class_teacher, student=student(classes=1))
    except ConfigError as error:
        refused = str(error)
    if refused:
        assert refused.startswith("data.num_classes: ")
    else:
        assert all(term.isfinite() for term in terms(built, batch(images(12), classes=1)).values())


@pytest.fixture(scope="module")
def one_class_teacher(tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("one_class")
    return with_weights(folder, "cifar_resnet8", classes=1, channels=[4, 4, 8, 16])


@every_method
def test_a_resumed_run_ends_bit_equal_to_one_that_never_stopped(kind: type[StudentModule], tmp_path: Path) -> None:
    def fit(epochs: int, resume: Path | None = None) -> StudentModule:
        torch.manual_seed(0)
        built = method(kind, lr_scheduler=lambda optimizer: WarmupMultiStep(optimizer, milestones=[1], gamma=0.5))
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(built, digits(max_train_samples=40, batch_size=20, val_split=0), ckpt_path=resume)
        if resume is None:
            run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return built

    half, whole = fit(1), fit(2)
    resumed = fit(2, tmp_path / "1.ckpt")
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(weights(half), weights(whole))
