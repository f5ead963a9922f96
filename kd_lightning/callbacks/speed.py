"""Speed: settings that make training faster, and change its results only by rounding."""

import logging
import warnings
from copy import deepcopy
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from kd_lightning.errors import ConfigError

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Speed(Callback):
    """Settings that make training faster, and change its results only by rounding.

    Args:
        channels_last: Whether the networks store weights and feature maps in torch's memory format channels_last.
            Vector units and tensor cores can read this format directly. Default: true if trainer.precision is half
            precision, otherwise false.
        compile: Mode of torch.compile. It compiles both networks and all losses of a training step as one graph. The
            names in checkpoints do not change. On a GPU, `reduce-overhead` and `max-autotune` run the step as a CUDA
            graph. On a CPU, `reduce-overhead` is the same as `default`, and `max-autotune` the same as
            `max-autotune-no-cudagraphs`. The first step takes a minute or more. If the compilation fails, the run warns
            once and continues uncompiled. Default: no compilation.
    """

    def __init__(self, *, channels_last: bool | None = None, compile: Mode | None = None) -> None:
        self.channels_last, self.compile = channels_last, compile

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        half = trainer.precision.startswith(("16", "bf16"))
        if self.channels_last or (self.channels_last is None and half):
            pl_module.to(memory_format=torch.channels_last)  # with all further networks and layers, and the teacher

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.compile:
            rank_zero_info("speed.compile: the first step is compiled, which takes a minute or more")
            self.apply(pl_module)

    def apply(self, method: LightningModule) -> None:
        """Replace a method's `weighted_terms` by a compiled function if `compile` is set."""
        if self.compile:
            method.weighted_terms = CompiledTerms(method, **self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of torch.compile. Only training batches are compiled, and they all have the same shape."""
        return {"mode": None if self.compile == "default" else self.compile, "dynamic": False}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        vars(pl_module).pop("weighted_terms", None)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store contiguous weights, as safetensors requires. Checkpoints then do not depend on `channels_last`."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value.contiguous() for name, value in state.items()}


class CompiledTerms:
    """The compiled `weighted_terms` of a method.

    Args:
        method: Method whose function is compiled.
        **settings: Arguments of torch.compile.
    """

    def __init__(self, method: LightningModule, **settings: Any) -> None:
        self.method, self.compiled = method, False
        self.eager = type(method).weighted_terms.__get__(method)
        self.function = torch.compile(self.eager, **settings)

    def __call__(self, *inputs: Any) -> dict[str, Tensor]:
        if self.function is None:
            return self.eager(*inputs)
        if teacher := getattr(self.method, "teacher", None):
            teacher.eval()
        torch.compiler.cudagraph_mark_step_begin()
        try:
            terms = self.function(*inputs) if self.compiled else self._silently(*inputs)
        except ConfigError:
            raise
        except Exception as error:
            self.function = None
            terms = self.eager(*inputs)  # an error in the method itself is raised here
            reason = " ".join(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0].split())[:200]
            rank_zero_warn(
                f"speed.compile: the compilation failed ({type(error).__name__}: {reason}); the run continues "
                "uncompiled"
            )
            return terms
        self.compiled = True
        return terms

    def _silently(self, *inputs: Any) -> dict[str, Tensor]:
        """Call the function for the first time. Suppress torch's long messages about code that it cannot compile."""
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with warnings.catch_warnings(action="ignore"):
                return self.function(*inputs)
        finally:
            logging.disable(before)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return the uncompiled function of the copied method."""
        return type(self.method).weighted_terms.__get__(deepcopy(self.method, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.method, "weighted_terms")
