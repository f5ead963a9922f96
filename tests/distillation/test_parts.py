"""The parts of a combination: what can be one, and one error line for what cannot."""

from functools import partial

import pytest
import torch
from helpers.factories import method
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Combined, Distiller
from kd_lightning.errors import ConfigError
from kd_lightning.methods import AT, KD, RKD, SP, STKD, Supervised

SHARED = "all parts share this argument; set"


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters)


def constant(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ConstantLR(optimizer)


def combined(*parts: object, **kwargs: object) -> Combined:
    return method(Combined, parts=list(parts), **kwargs)


class Steps(SP):
    """A method with a training step of its own."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return 0 * super().training_step(batch, batch_idx)

    def optimizer_step(self, *args: object) -> None:
        return


class FixesItsOwn(SP):
    """A method that gives its base arguments which the parts share."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(ce_weight=0.0, kd_weight=0.5, gather=False, optimizer=adam, **kwargs)


class Doubled(SP):
    """A method with images of its own."""

    def inputs(self, batch: Batch) -> Tensor:
        return torch.cat([batch.images, batch.images])


@pytest.mark.parametrize(
    ("parts", "kwargs", "line"),
    [
        ([], {}, r"model.parts: the list is empty; give at least one method"),
        ([SP, AT, SP], {}, r"model.parts: SP is given twice; .*"),
        (
            [partial(RKD, distance_weight=0.0, angle_weight=0.0)],
            {},
            r"model.parts: RKD: all its weights are 0; .*",
        ),
        (
            [KD],
            {},
            r"model.parts: KD cannot be a part, .*; remove this part, and set model.ce_weight and model.kd_weight",
        ),
        ([STKD], {}, r"model.parts: STKD cannot be a part, because it makes its own images, .*"),
        ([AT, Doubled], {}, r"model.parts: Doubled cannot be a part, because it makes its own images, .*"),
        ([partial(SP, ce_weight=0.5)], {}, f"model.parts: SP.ce_weight: {SHARED} model.ce_weight instead"),
        ([partial(SP, kd_weight=0.5)], {}, f"model.parts: SP.kd_weight: {SHARED} model.kd_weight instead"),
        ([partial(SP, gather=True)], {}, f"model.parts: SP.gather: {SHARED} model.gather instead"),
        ([partial(SP, optimizer=adam)], {}, f"model.parts: SP.optimizer: {SHARED} model.optimizer instead"),
        (
            [lambda **kw: SP(lr_scheduler=constant, **kw)],
            {},
            f"model.parts: SP.lr_scheduler: {SHARED} model.lr_scheduler instead",
        ),
        (
            [SP, Supervised],
            {},
            r"model.parts, number 2: Supervised is not a distiller; give a method with a teacher .*",
        ),
        ([partial(Supervised, ce_weight=1.0)], {}, r"model.parts, number 1: Supervised is not a distiller; .*"),
        ([lambda teacher, **kw: Supervised(**kw)], {}, r"model.parts, number 1: the factory returned Supervised; .*"),
        ([Distiller], {}, r"model.parts, number 1: Distiller is abstract; give the class of a method .*"),
        (
            [torch.nn.Linear(1, 1)],
            {},
            r"model.parts, number 1: Linear is given as an object; give the class of a method .*",
        ),
        (["SP"], {}, r"model.parts, number 1: str is given as an object; .*"),
        ([partial(Combined, parts=[SP])], {}, r"model.parts: Combined cannot be a part; give its parts instead"),
        (
            [Steps],
            {},
            r"model.parts: Steps cannot be a part, because its class defines optimizer_step, training_step, which .*",
        ),
        ([SP, AT], {"part_weights": [1.0]}, r"model.part_weights: 1 weights are given for 2 parts; give one per part"),
        ([SP, AT], {"part_weights": [1.0, -1.0]}, r"model.part_weights, at: -1.0 is not a valid weight; .*"),
        ([SP, AT], {"part_weights": [0.0, 0.0]}, r"model.part_weights: all weights are 0, so nothing is trained by .*"),
        ([partial(AT, layers=9)], {}, r"model.parts, number 1: layers: 9 is given, but cifar_resnet8 has 4 stages; .*"),
    ],
)
def test_parts_that_do_not_fit(parts: list, kwargs: dict, line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}$"):
        combined(*parts, **kwargs)


def test_what_a_class_fixes_for_its_base_is_no_setting() -> None:
    built = combined(FixesItsOwn, AT)
    assert {*built.weights} >= {"weight of fixesitsown", "weight of at"}
    assert not built.parts["fixesitsown"].gather
    assert built.parts["at"].gather
    with pytest.raises(ConfigError, match=r"FixesItsOwn.lr_batch_size: all parts share"):
        combined(partial(FixesItsOwn, lr_batch_size=8))
