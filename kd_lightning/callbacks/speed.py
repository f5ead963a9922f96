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
        compile: compile a training step, both networks and all losses, as one graph by torch.compile, in place
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
        """Have a method's training terms computed by a compiled function, if compiling is asked for."""
        if self.compile:
            method.training_terms = CompiledTerms(method, **self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of torch.compile: training batches have one shape, and all others run uncompiled."""
        return {"mode": None if self.compile == "default" else self.compile, "dynamic": False}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        vars(pl_module).pop("training_terms", None)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is the same with the channels last or not (and safetensors takes none that has)."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value.contiguous() for name, value in state.items()}


class CompiledTerms:
    """A method's `training_terms`, compiled.

    Args:
        method: the method.
        **settings: arguments of torch.compile.
    """

    def __init__(self, method: LightningModule, **settings: Any) -> None:
        self.method, self.compiled = method, False
        self.eager = type(method).training_terms.__get__(method)
        self.function = torch.compile(self.eager, **settings)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        if self.function is None:
            return self.eager(batch)
        if teacher := getattr(self.method, "teacher", None):
            teacher.eval()
        torch.compiler.cudagraph_mark_step_begin()
        try:
            terms = self.function(batch) if self.compiled else self._silently(batch)
        except ConfigError:
            raise
        except Exception as error:
            self.function = None
            terms = self.eager(batch)  # an error of the method's own is raised here
            reason = " ".join(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0].split())[:200]
            rank_zero_warn(f"speed.compile: failed, the run goes on uncompiled ({type(error).__name__}: {reason})")
            return terms
        self.compiled = True
        return terms

    def _silently(self, batch: Batch) -> dict[str, Tensor]:
        """Call the function for the first time, without the pages that torch writes about what it cannot compile."""
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with warnings.catch_warnings(action="ignore"):
                return self.function(batch)
        finally:
            logging.disable(before)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return the copied method's own function, uncompiled."""
        return type(self.method).training_terms.__get__(deepcopy(self.method, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.method, "training_terms")
