"""The trial of a step before a run: it changes nothing, and names the network or the loss that fails."""

import contextlib
import copy
import random
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import factories
from helpers.factories import EVERY_METHOD, CombinedOfThree, some_by_default
from torch import Tensor, nn

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.data import Digits
from kd_lightning.distillation import StudentModule
from kd_lightning.distillation.step_memory import StepMemory
from kd_lightning.distillation.trial import try_step
from kd_lightning.distillation.unchanged import unchanged
from kd_lightning.errors import ConfigError
from kd_lightning.methods import KD, SP, Supervised
from kd_lightning.mixing import Mixing
from kd_lightning.models import Features, Network


def tried(method: StudentModule, data: Digits, folder: Path, **kwargs: object) -> set[str]:
    """Call the trial where `fit` calls it, in `prepare_data`, without training."""
    names: list[set[str]] = []

    def check(data: Digits) -> None:
        names.append(try_step(method, data))
        raise InterruptedError

    data.checks = [check]
    with pytest.raises(InterruptedError):
        factories.trainer(folder, **kwargs).fit(method, datamodule=data)
    return names[0]


def state(method: nn.Module) -> dict[str, object]:
    """Everything that a trial could change, as copies."""
    tensors = {name: value.clone() for name, value in method.state_dict().items()}
    hidden = {f"hidden {name}": b.clone() for name, b in method.named_buffers() if name not in tensors}
    modes = {f"mode of {name}": module.training for name, module in method.named_modules()}
    grads = {f"gradient of {name}": p.grad for name, p in method.named_parameters()}
    drawn = {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": np.random.get_state()[1].tobytes()}
    return {**tensors, **hidden, **modes, **grads, **drawn, "terms": dict(getattr(method, "loss_terms", {}))}


def same(before: dict[str, object], after: dict[str, object]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        equal = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        assert equal, name


@pytest.mark.parametrize("kind", some_by_default(EVERY_METHOD, "SEED", "CombinedOfThree"))
def test_a_trial_changes_nothing(kind: type[StudentModule], tmp_path: Path) -> None:
    method = factories.method(kind)
    before = state(method)
    names = tried(method, factories.digits(), tmp_path)
    assert {"train/loss", "train/lr"} < names
    same(before, state(method))


@pytest.mark.parametrize(
    ("settings", "trainer"),
    [
        ({}, {"precision": "bf16-mixed"}),
        ({}, {"precision": "bf16-true"}),
        ({"views": 2, "mixing": Mixing(mixup=0.8, cutmix=1.0)}, {}),
        ({"labels": False}, {"accumulate_grad_batches": 2}),
    ],
)
def test_a_run_is_the_same_with_and_without_a_trial(settings: dict, trainer: dict, tmp_path: Path) -> None:
    ends = []
    for tries in (True, False):
        torch.manual_seed(0)
        labeled = settings.get("labels", True)
        method = factories.method(CombinedOfThree, **({} if labeled else {"ce_weight": 0.0, "kd_weight": 0.0}))
        data = factories.digits(**{name: value for name, value in settings.items() if name != "labels"})
        data.labeled = labeled
        data.checks = [partial(try_step, method)] if tries else []
        factories.trainer(tmp_path, **trainer).fit(method, datamodule=data)
        ends.append(factories.weights(method))
        ends.append(method.parts["seed"].queue.clone())
    assert torch.equal(ends[0], ends[2])
    assert torch.equal(ends[1], ends[3])


def test_a_small_trial_takes_less_than_two_seconds(tmp_path: Path) -> None:
    method = factories.method(CombinedOfThree)
    taken = []

    def timed(data: Digits) -> None:
        begun = time.process_time()
        try_step(method, data)
        taken.append(time.process_time() - begun)

    data = factories.digits()
    data.checks = [timed]
    factories.trainer(tmp_path, limit_train_batches=1).fit(method, datamodule=data)
    assert taken[0] < 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("convnext_atto", "model.student: convnext_atto cannot use 2 images of 8 x 8 pixels"),
        ("cifar_vgg8", None),
    ],
)
def test_a_network_that_cannot_take_the_images_is_named(name: str, words: str | None, tmp_path: Path) -> None:
    method = Supervised(student=Network(name, num_classes=10))
    before = state(method)
    data = factories.digits()
    data.checks = [partial(try_step, method)]
    if words is None:
        tried(method, data, tmp_path)
        return
    with pytest.raises(ConfigError) as raised:
        factories.trainer(tmp_path).fit(method, datamodule=data)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    same(before, state(method))


class Broken(SP):
    """A loss that fails."""

    def losses(self, student: object, teacher: object, batch: object) -> dict[str, Tensor]:
        return {"broken": torch.zeros(3) @ torch.zeros(4)}


def test_a_loss_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    method = factories.method(Broken)
    data = factories.digits()
    data.checks = [partial(try_step, method)]
    with pytest.raises(ConfigError, match=r"model: Broken cannot train with 2 images .*in test_trial.py, line \d+"):
        factories.trainer(tmp_path).fit(method, datamodule=data)


class Infinite(Supervised):
    """A term that is not finite, although the student's outputs are."""

    def losses(self, student: object, batch: object) -> dict[str, Tensor]:
        return {"own": torch.full((), torch.inf, requires_grad=True)}


def with_large_weights(network: Network) -> Network:
    """Make the outputs infinite, as weights that overflow do."""
    with torch.no_grad():
        network.classifier[0].fill_(3e38)
    return network


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: factories.method(KD, teacher=with_large_weights(copy.deepcopy(factories.shared_teacher()))),
            r"^model\.teacher: the logits of cifar_resnet20\.digits have values that are not finite for 2 images of "
            r"8 x 8 pixels, so that train/kd is nan; check the weights, mean, std and dtype",
        ),
        (
            lambda: factories.method(Supervised, student=with_large_weights(factories.student())),
            r"^model\.student: the logits of cifar_resnet8 have values that are not finite .*, so that train/ce is",
        ),
        (lambda: factories.method(Infinite), r"^model: train/own is inf for 2 images .* arguments of Infinite"),
    ],
)
def test_a_term_that_is_not_finite_is_named_with_its_network(make: Callable, line: str, tmp_path: Path) -> None:
    method, data = make(), factories.digits()
    data.checks = [partial(try_step, method)]
    with pytest.raises(ConfigError, match=line):
        factories.trainer(tmp_path).fit(method, datamodule=data)
    data.checks = [partial(try_step, method, nonfinite="skip"), lambda data: 1 / 0]
    with pytest.warns(UserWarning, match=line), pytest.raises(ZeroDivisionError):
        factories.trainer(tmp_path).fit(method, datamodule=data)


class Steep(Supervised):
    """A finite term whose gradient is not finite."""

    def losses(self, student: object, batch: object) -> dict[str, Tensor]:
        return {"own": (student.logits * 0).sum().sqrt()}


def test_gradients_that_are_not_finite_are_warned_about(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"^model: the gradients of \d+ parameters are not finite: student\.model\."):
        tried(factories.method(Steep), factories.digits(), tmp_path)


class Idle(Supervised):
    """A term that reads no trained parameter, beside the cross-entropy."""

    def losses(self, student: object, batch: object) -> dict[str, Tensor]:
        return {"own": student.logits.detach().mean()}


def test_a_term_that_trains_nothing_is_warned_about(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"^model: train/own depends on no trained parameter, .*; only train/ce trains"
    ):
        tried(factories.method(Idle), factories.digits(), tmp_path)


def test_a_method_that_trains_nothing_is_refused(tmp_path: Path) -> None:
    method, data = factories.method(Supervised), factories.digits()
    method.requires_grad_(False)
    data.checks = [partial(try_step, method)]
    with pytest.raises(ConfigError, match=r"^model: the losses of Supervised do not depend on any trainable parameter"):
        factories.trainer(tmp_path).fit(method, datamodule=data)


class Logs(Supervised):
    """A loss that logs a value itself."""

    def losses(self, student: object, batch: object) -> dict[str, Tensor]:
        self.log("train/own", 1.0)
        return super().losses(student, batch)


def test_a_loss_that_logs_can_be_tried(tmp_path: Path) -> None:
    method = factories.method(Logs)
    tried(method, factories.digits(), tmp_path)
    assert not {"log", "log_dict"} & vars(method).keys()


def test_a_batch_that_does_not_fit_in_the_memory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_lightning.distillation.step_memory.host_memory", lambda: (10**8, 3 * 10**5))
    method, data = factories.method(SP), factories.digits()
    data.checks = [partial(try_step, method)]
    with pytest.raises(ConfigError, match=r"data.batch_size: a step with 50 images of 8 x 8 pixels needs more than"):
        factories.trainer(tmp_path).fit(method, datamodule=data)


def test_images_that_a_network_enlarges_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_lightning.distillation.step_memory.host_memory", lambda: (2**34, 2**34))
    data = factories.digits()
    data.setup("fit")
    memory = StepMemory(torch.device("cpu"), data)
    memory.check_images(224)
    with pytest.raises(ConfigError, match=r"8192 x 8192 pixels needs more than 40.3 GB"):
        memory.check_images(8192)


class Keeper(nn.Module):
    """A module with state of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("bank", torch.zeros(2))
        self.rows, self.pairs, self.seen = [torch.zeros(1)], {"a": [1]}, deque([1], maxlen=2)
        self.count, self.names, self.drawn = 0, {1}, torch.Generator().manual_seed(1)


def test_state_of_every_kind_is_restored() -> None:
    keeper = Keeper()
    keeper.weight.grad = torch.full((2,), 3.0)
    given = keeper.weight, keeper.bank, keeper.rows, keeper.pairs, keeper.weight.grad
    before = copy.deepcopy({name: value for name, value in vars(keeper).items() if name != "drawn"})
    generator = keeper.drawn.get_state()
    with contextlib.suppress(InterruptedError), unchanged(keeper):
        keeper.double()
        keeper.weight.data.mul_(2)
        keeper.weight.grad.mul_(2)
        keeper.bank.add_(1)
        keeper.rows[0].add_(1)
        keeper.rows.append(torch.ones(1))
        keeper.pairs["a"].append(2)
        keeper.seen.append(5)
        keeper.names.add(2)
        keeper.count, keeper.more = 1, nn.Linear(1, 1)
        torch.rand(1, generator=keeper.drawn)
        raise InterruptedError
    assert given[0] is keeper.weight
    assert given[1] is keeper.bank
    assert given[2] is keeper.rows
    assert given[3] is keeper.pairs
    assert repr(before) == repr({name: value for name, value in vars(keeper).items() if name != "drawn"})
    assert torch.equal(keeper.weight.grad, torch.full((2,), 3.0))
    assert torch.equal(keeper.drawn.get_state(), generator)


def test_alone_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with distributed.alone():
        assert distributed.world_size() == 1
        assert torch.equal(distributed.gather(torch.ones(2)), torch.ones(2))
    assert distributed.world_size() == 2


class Undeclared(SP):
    """A loss that reads a feature which `reads` does not request."""

    def losses(self, student: object, teacher: object, batch: object) -> dict[str, Tensor]:
        return {"broken": student.tokens.mean()}


class FewArguments(SP):
    """A loss that the base class cannot call."""

    def losses(self, student: object, teacher: object) -> dict[str, Tensor]:
        return {"broken": student.embedding.mean()}


class InPlace(SP):
    """A method that changes the teacher's map."""

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        teacher.maps[0][:1].mul_(2)
        return super().losses(student, teacher, batch)


def test_a_feature_that_is_changed_in_place_is_named(tmp_path: Path) -> None:
    method = factories.method(InPlace)
    with pytest.raises(ConfigError) as raised:
        tried(method, Digits(batch_size=8), tmp_path)
    line = InPlace.losses.__code__.co_firstlineno
    assert str(raised.value) == (
        "model: InPlace.losses changes teacher.maps[0] in place, and the other terms would read the changed values; "
        f"compute a new tensor, for example with x / 2 instead of x /= 2 (test_trial.py, line {line})"
    )
    assert "losses" not in vars(method)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Undeclared, r"\d+\); its `reads` does not request tokens, or a network has none; correct this line"),
        (
            FewArguments,
            r"takes 3 positional arguments but 4 were given, in test_trial.py, line \d+\); correct this line",
        ),
    ],
)
def test_a_common_fault_of_a_method_is_named(kind: type[SP], words: str, tmp_path: Path) -> None:
    data = factories.digits()
    data.checks = [partial(try_step, factories.method(kind))]
    with pytest.raises(ConfigError, match=words):
        factories.trainer(tmp_path).fit(data.checks[0].args[0], datamodule=data)
