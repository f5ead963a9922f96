"""Check that the device supports the precision of a run."""

from importlib.util import find_spec

import torch
from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT_STR_ALIAS_CONVERSION as _ALIASES
from lightning.pytorch.utilities import rank_zero_info

from kd_lightning.errors import ConfigError

_CHOICES = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


def check_precision(precision: str | int | None, accelerator: str) -> None:
    """Raise an error if the device does not support a precision. Warn about bfloat16 on a CPU without it.

    Without this check, Lightning would use another precision or fail later.

    Raises:
        ConfigError: if the device does not support the precision. The message lists the supported precisions.
    """
    full_name = _ALIASES.get(str(precision), str(precision))
    device = _device(accelerator)
    if full_name.startswith("transformer-engine") and device == "cuda" and find_spec("transformer_engine") is None:
        raise ConfigError(
            f"trainer.precision: {precision} needs the package transformer_engine, which is not installed"
        )
    choices = ", ".join(choice for choice in _CHOICES if _supports(device, choice))
    if precision is not None and not _supports(device, full_name):
        raise ConfigError(f"trainer.precision: {precision} is not supported on this {device}; choices: {choices}")
    if device == "cpu" and full_name.startswith("bf16") and not _cpu_has_bfloat16():
        rank_zero_info(
            f"trainer.precision: {precision} is slow on this CPU, which has no instructions for bfloat16; "
            "--trainer.precision 32-true is faster"
        )


def _device(accelerator: str) -> str:
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu" if accelerator in ("auto", "gpu", "cuda", "mps") else accelerator


def _cpu_has_bfloat16() -> bool:
    """Return whether the CPU computes in bfloat16; also return true if torch does not know."""
    if not hasattr(torch.cpu, "get_capabilities"):  # torch 2.11 and older
        return True
    return any(value is True for name, value in torch.cpu.get_capabilities().items() if "bf16" in name)


def _supports(device: str, precision: str) -> bool:
    if device == "cpu":  # on a CPU, Lightning replaces 16-mixed by bf16-mixed
        return precision != "16-mixed" and not precision.startswith("transformer-engine")
    if device == "cuda" and precision.startswith("bf16"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not (device == "mps" and precision.startswith(("64", "transformer-engine")))
