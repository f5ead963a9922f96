"""States of callbacks in a checkpoint: those that a run saves are accepted, and odd ones are refused."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.factories import digits, method, trainer
from lightning.pytorch import callbacks as lightning
from lightning.pytorch.callbacks import Callback

from kd_lightning.callbacks import EMA, NonFiniteGuard, Protocol
from kd_lightning.callbacks.checkpoint_state import check_states, restrict_states
from kd_lightning.callbacks.learning_rate import RunLearningRateFinder
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.methods import KD

Content = dict[str, Any]
PATH = Path("run/last.ckpt")


class Theirs(Callback):
    """A callback of another package, whose state has another form at each save."""

    def state_dict(self) -> dict[str, Any]:
        return {"x": 1}


def made(folder: Path) -> list[Callback]:
    protocol = Protocol()
    protocol.checkpoints(folder, validated=False)
    finder = RunLearningRateFinder(lightning.LearningRateFinder(num_training_steps=16))
    return [
        *(NonFiniteGuard(), protocol, EMA(), finder, Theirs()),
        lightning.EarlyStopping("train/ce", patience=5, check_on_train_epoch_end=True),
        lightning.Timer("00:01:00:00"),
        lightning.ModelCheckpoint(folder, monitor="train/ce"),
        lightning.EMAWeightAveraging(),
        lightning.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1),
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """The merged checkpoints of three runs, because two of the callbacks replace the student's weights."""
    content: Content = {"callbacks": {}}
    for part in (slice(0, -2), slice(-2, -1), slice(-1, None)):
        folder = tmp_path_factory.mktemp("run")
        unset = {"enable_progress_bar": None, "enable_checkpointing": None}
        fitted = trainer(folder, *made(folder)[part], max_epochs=2, limit_train_batches=2, **unset)
        fitted.fit(method(KD, check_teacher=False), digits(batch_size=25))
        fitted.save_checkpoint(folder / "a.ckpt", weights_only=False)
        loaded = torch.load(folder / "a.ckpt", weights_only=True)
        content = {**content, **loaded, "callbacks": {**content["callbacks"], **loaded["callbacks"]}}
    return content


@pytest.fixture
def student(tmp_path: Path) -> StudentModule:
    built = method(KD, check_teacher=False)
    built.trainer = SimpleNamespace(callbacks=made(tmp_path), default_root_dir=str(tmp_path), ckpt_path=None)
    return built


def test_states_that_a_run_saves_are_accepted(saved: Content, student: StudentModule, tmp_path: Path) -> None:
    states = {key: state for key, state in saved["callbacks"].items() if "ModelCheckpoint" not in key}
    assert len(states) > 7
    before = copy.deepcopy(states)
    check_states(student, saved | {"callbacks": states | {"NotInThisRun": {"x": "y"}}}, PATH)
    assert str(states) == str(before)
    check_states(student, saved | {"callbacks": {"Theirs": {"x": "of another form"}}}, PATH)
    new = {key: each.state_dict() for each in made(tmp_path) if (key := each.state_key) in states}
    check_states(student, saved | {"callbacks": new}, PATH)  # as they are before the first step


ODD: list[tuple[str, str, Any, str]] = [
    ("NonFiniteGuard", "skipped", "x", "has another form"),
    ("NonFiniteGuard", "skipped", True, "has another form"),
    ("Protocol", "seconds", "x", "has another form"),
    ("Protocol", "seconds", math.inf, "is inf"),
    ("EMA", "latest_update_step", -1, "is -1"),
    ("EMA", "latest_update_step", None, "has another form"),
    ("LearningRateFinder", "found", "x", "has another form"),
    ("LearningRateFinder", "found", -0.1, "is -0.1"),
    ("EarlyStopping", "wait_count", "x", "has another form"),
    ("EarlyStopping", "wait_count", -3, "is -3"),
    ("EarlyStopping", "best_score", "x", "has another form"),
    ("EarlyStopping", "best_score", torch.tensor(math.nan), "has another form"),
    ("EarlyStopping", "best_score", torch.zeros(3), "has another form"),
    ("EarlyStopping", "stopping_reason", "x", "has another form"),
    ("EarlyStopping", "stopping_reason_message", 5, "has another form"),
    ("Timer", "time_elapsed", "x", "has another form"),
    ("Timer", "time_elapsed", {"train": "x"}, "has another form"),
    ("StochasticWeightAveraging", "n_averaged", "x", "has another form"),
    ("StochasticWeightAveraging", "average_model_state", "x", "has another form"),
]


@pytest.mark.parametrize(("kind", "key", "value", "words"), ODD)
def test_odd_states(kind: str, key: str, value: Any, words: str, saved: Content, student: StudentModule) -> None:
    (name,) = (name for name in saved["callbacks"] if name.partition("{")[0] == kind)
    states = {name: saved["callbacks"][name] | {key: value}}
    with pytest.raises(ConfigError, match=r"^ckpt_path: [^\n]*$") as raised:
        check_states(student, saved | {"callbacks": states}, PATH)
    assert f"its entry callbacks.{name}.{key}" in str(raised.value)
    assert words in str(raised.value)


AVERAGES: list[tuple[str, Callable[[Any], Any]]] = [
    ("ema", lambda average: "x"),
    ("ema", lambda average: {}),
    ("ema", lambda average: {name: value[:1] if value.ndim else value for name, value in average.items()}),
    ("ema", lambda average: {name: value * math.nan for name, value in average.items()}),
    ("ema", lambda average: average | {"n_averaged": "x"}),
    ("current_model_state", lambda state: {}),
    ("current_model_state", lambda state: dict.fromkeys(state, 1)),
    ("averaging_state", lambda state: {"n_averaged": torch.ones(3)}),
]


@pytest.mark.parametrize(("name", "change"), AVERAGES)
def test_odd_averages(name: str, change: Callable, saved: Content, student: StudentModule) -> None:
    with pytest.raises(ConfigError, match=rf"^ckpt_path: .* its entry {name} [^\n]*$"):
        check_states(student, saved | {"callbacks": {}, name: change(saved[name])}, PATH)


def test_the_patience_is_that_of_the_config(saved: Content, student: StudentModule) -> None:
    (name,) = (name for name in saved["callbacks"] if name.startswith("EarlyStopping"))
    content = {"callbacks": {name: saved["callbacks"][name] | {"patience": 10**6}}}
    restrict_states(student.trainer, content, PATH)
    assert content["callbacks"][name]["patience"] == 5
