"""Hooks of a combination's parts: each runs, after the combination's own, and the base's run once."""

from pathlib import Path

import torch
from helpers.factories import method, trainer
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Combined
from kd_lightning.distillation.part_hooks import HOOKS
from kd_lightning.methods import AT, SP


class Averaging(SP):
    """A method with hooks of its own, and a module that checkpoints do not hold."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.frozen = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)
        self.seen: list[str] = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int:
        super().on_train_batch_start(batch, batch_idx)
        return -1

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        self.seen.append(f"zero_grad {optimizer}")

    def on_train_batch_end(self, outputs: Tensor, batch: Batch, batch_idx: int) -> None:
        self.seen.append(f"batch {batch_idx}")

    def on_validation_epoch_end(self) -> None:
        self.seen.append(f"validated, {self._current_fx_name}")

    def teardown(self, stage: str) -> None:
        self.seen.append(f"teardown {stage}")

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith("frozen.")}
        checkpoint["averaged"] = 3

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        frozen = {f"frozen.{name}": value for name, value in self.frozen.state_dict().items()}
        checkpoint["state_dict"] |= frozen
        self.seen.append(f"loaded {checkpoint['averaged']}")
        super().on_load_checkpoint(checkpoint)


class Watching(AT):
    """A second method with a hook."""

    batches = 0

    def on_train_batch_end(self, outputs: Tensor, batch: Batch, batch_idx: int) -> None:
        self.batches += 1


def combined(**kwargs: object) -> Combined:
    return method(Combined, parts=[Averaging, Watching], **kwargs)


def test_hooks_of_parts_run() -> None:
    built = combined()
    first, second = built.parts.values()
    built._current_fx_name = "on_validation_epoch_end"
    built.on_before_zero_grad("optimizer")
    for number in range(2):
        built.on_train_batch_end(None, None, number)
    built.on_validation_epoch_end()
    built.teardown("fit")
    expected = ["zero_grad optimizer", "batch 0", "batch 1", "validated, on_validation_epoch_end", "teardown fit"]
    assert first.seen == expected
    assert second.batches == 2
    assert {hook for hook, parts in built.parts_with.items() if parts} <= HOOKS


def test_a_hooks_answer_is_kept(tmp_path: Path) -> None:
    built = combined()
    run = trainer(tmp_path)
    built.trainer = run
    assert built.on_train_batch_start(None, 0) == -1


def test_a_checkpoint_is_a_parts_own_and_the_base_writes_it_once(tmp_path: Path) -> None:
    def adam(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters)

    built, run = combined(optimizer=adam), trainer(tmp_path)
    built.trainer = run
    whole = built.state_dict()
    checkpoint = {"state_dict": dict(whole)}
    built.on_save_checkpoint(checkpoint)
    left_out = {*whole} - {*checkpoint["state_dict"]}
    assert {name.split(".")[0] for name in left_out} == {"parts"}
    assert {name for name in left_out if name.startswith("parts.")} == {
        "parts.averaging.frozen.weight",
        "parts.averaging.frozen.bias",
    }
    assert checkpoint["trained_by"] == "Adam"  # the combination's, not the part's
    assert checkpoint["averaged"] == 3
    again = combined(optimizer=adam)
    again.on_load_checkpoint(checkpoint)
    assert again.parts["averaging"].seen == ["loaded 3"]
    loaded = again.load_state_dict(checkpoint["state_dict"])
    assert not loaded.missing_keys
    assert not loaded.unexpected_keys
