"""Speed: what makes a run faster and leaves its numbers as they are, but for rounding."""

import logging
import warnings
from copy import deepcopy
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Speed(Callback):
    """What makes training faster; the numbers stay the same but for rounding.

    Args:
        channels_last: keep the networks' weights and maps with the channels innermost, as processors' vector units and
            tensor cores read them. Default: in half precision.
        compile: compile a training step's losses, with both networks in them, as one graph by torch.compile, in place
            (checkpoints keep their names). `reduce-overhead` and `max-autotune` replay it as a CUDA graph, and on a CPU
            do what `default` and `max-autotune-no-cudagraphs` do. The first step takes a minute or more. Where
            compiling fails, the run says so once and goes on without. Default: off.
    """

    def __init__(self, *, channels_last: bool | None = None, compile: Mode | None = None) -> None:
        self.channels_last, self.compile = channels_last, compile

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        half = trainer.precision.startswith(("16", "bf16"))
        if self.channels_last or (self.channels_last is None and half):
            for network in filter(None, (pl_module.student, getattr(pl_module, "teacher", None))):
                network.to(memory_format=torch.channels_last)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.compile:
            rank_zero_info("speed.compile: the first step compiles, which takes a minute or more")
            self.apply(pl_module)

    def apply(self, method: LightningModule) -> None:
        """Puts compiled losses into a method's place for its own, where they are asked for."""
        if self.compile:
            method.losses = CompiledLosses(method, **self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """As torch.compile takes them: training batches have one shape, and all others run uncompiled."""
        return {"mode": None if self.compile == "default" else self.compile, "dynamic": False}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        vars(pl_module).pop("losses", None)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is the same with the channels last or not (and safetensors takes none that has)."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value.contiguous() for name, value in state.items()}


class CompiledLosses:
    """A method's `losses`, compiled; what they log is noted in the graph and logged behind it, which keeps it whole.

    Args:
        method: whose.
        **settings: as for torch.compile.
    """

    def __init__(self, method: LightningModule, **settings: Any) -> None:
        self.method, self.notes, self.compiled = method, {}, False
        self.eager = type(method).losses.__get__(method)
        self.function = torch.compile(self.eager, **settings)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        if self.function is None:
            return self.eager(batch)
        if teacher := getattr(self.method, "teacher", None):
            teacher.eval()
        try:
            losses = self._noting(batch) if self.compiled else self._quietly(batch)
        except ConfigError:
            raise
        except Exception as error:
            self.function = None
            losses = self.eager(batch)  # what was the method's own fault is raised here
            reason = " ".join(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0].split())[:200]
            rank_zero_warn(f"speed.compile: failed, the run goes on uncompiled ({type(error).__name__}: {reason})")
            return losses
        for name, (value, kwargs) in self.notes.items():
            self.method.log(name, value, **kwargs)
        self.notes.clear()
        self.compiled = True
        return losses

    def _quietly(self, batch: Batch) -> dict[str, Tensor]:
        """The first call, without the pages that torch writes of what it cannot compile."""
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with warnings.catch_warnings(action="ignore"):
                return self._noting(batch)
        finally:
            logging.disable(before)

    def _noting(self, batch: Batch) -> dict[str, Tensor]:
        own = {name: vars(self.method).pop(name) for name in ("log", "log_dict") if name in vars(self.method)}
        self.notes.clear()
        self.method.log, self.method.log_dict = self._note, self._note_all
        torch.compiler.cudagraph_mark_step_begin()
        try:
            return self.function(batch)
        finally:
            del self.method.log, self.method.log_dict
            vars(self.method).update(own)

    def _note(self, name: str, value: Any, **kwargs: Any) -> None:
        self.notes[name] = (value, kwargs)

    def _note_all(self, values: dict[str, Any], **kwargs: Any) -> None:
        for name, value in values.items():
            self.notes[name] = (value, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the method has its own losses, uncompiled."""
        return type(self.method).losses.__get__(deepcopy(self.method, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.method, "losses")
