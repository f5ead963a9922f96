"""Checks of the code of a method's class: properties that are functions, and hooks that omit those of the base."""

import re

import pytest
import torch
from helpers import factories
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.methods import SP
from kd_lightning.models import Reads


class ReadsFunction(SP):
    def reads(self) -> Reads:
        return Reads(embedding=True)


class ReadsList(SP):
    @property
    def reads(self) -> list[str]:
        return ["embedding"]


class LabelsFunction(SP):
    def needs_labels(self) -> bool:
        return False


class EpochHook(SP):
    def on_train_epoch_start(self) -> None:
        self.epochs = 1


class Mixin:
    def setup(self, stage: str) -> None:
        self.stage = stage


class WithMixin(Mixin, SP):
    """A class whose hook is in a class that is not a method."""


class SaveHook(SP):
    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["mine"] = 1


class OwnStep(SP):
    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        return self.training_terms(batch)["sp"]


class NoViewsCheck(SP):
    def check_data(self, data: object) -> None:
        self.checked = True


class BelowEpochHook(EpochHook):
    """A class whose own code is correct, below a class whose code is not."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            ReadsFunction,
            "model: ReadsFunction.reads is a function (test_class_checks.py, line N); write @property above",
        ),
        (LabelsFunction, "model: LabelsFunction.needs_labels is a function (test_class_checks.py, line N); write"),
        (ReadsList, "model: ReadsList.reads returned a value of type list; return Reads(...)"),
        (
            EpochHook,
            "model: EpochHook.on_train_epoch_start (test_class_checks.py, line N) does not call "
            "super().on_train_epoch_start(...), which the base class needs",
        ),
        (SaveHook, "model: SaveHook.on_save_checkpoint (test_class_checks.py, line N) does not call super()."),
        (WithMixin, "model: Mixin.setup (test_class_checks.py, line N) does not call super().setup(...), which"),
        (OwnStep, "model: OwnStep.training_step (test_class_checks.py, line N) does not call super()."),
        (NoViewsCheck, "model: NoViewsCheck.check_data (test_class_checks.py, line N) does not call super()."),
        (BelowEpochHook, "model: EpochHook.on_train_epoch_start (test_class_checks.py, line N) does not call"),
    ],
)
def test_code_that_would_disable_the_base_class(kind: type[SP], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        factories.method(kind)
    assert re.sub(r"line \d+", "line N", str(raised.value)).startswith(words)


class Correct(SP):
    """Hooks that the base class does not define need no `super()`, and a call may be in an inner function."""

    needs_labels = True

    def on_train_batch_end(self, outputs: Tensor, batch: object, batch_idx: int) -> None:
        self.ended = batch_idx

    def on_train_epoch_start(self) -> None:
        SP.on_train_epoch_start(self)

    @torch.no_grad()
    def on_fit_start(self) -> None:
        def begin() -> None:
            super(Correct, self).on_fit_start()

        begin()


def test_correct_code_is_accepted() -> None:
    assert factories.method(Correct).needs_labels is True
