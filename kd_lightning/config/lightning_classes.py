"""Lightning's callbacks, loggers, profilers and strategies that a config cannot use, and packages that they need."""

import inspect
import re
import traceback
from collections.abc import Iterator
from typing import Any

from kd_lightning.config.classes import import_class
from kd_lightning.errors import ConfigError, one_line

_BASES = {
    "trainer.callbacks": "lightning.pytorch.callbacks.Callback",
    "trainer.logger": "lightning.pytorch.loggers.Logger",
    "trainer.profiler": "lightning.pytorch.profilers.Profiler",
    "trainer.strategy": "lightning.pytorch.strategies.Strategy",
}
_SHARDED = "it splits networks over devices, but evaluation, export and checkpoints need complete networks; choose ddp"
_TPU = "it needs a TPU, which this package does not support; "
_COPIES = "it trains in copies of this process, which would not get the result of the run; choose ddp"
REFUSED = {
    "BackboneFinetuning": (
        "it needs an attribute `backbone`, which no method has; give a class of your own that derives from "
        "BaseFinetuning, or evaluate a frozen student with LinearProbe"
    ),
    **dict.fromkeys(
        ("BaseFinetuning", "Logger", "Profiler"), "it is abstract; give a class of your own that derives from it"
    ),
    "BatchSizeFinder": (
        "it would replace data.batch_size after config.yaml is written, and a resumed run could find another number; "
        "set data.batch_size (an error about full memory names a smaller number)"
    ),
    "SpikeDetection": (
        "Lightning cannot read its state from a checkpoint, so the run could neither be tested nor resumed; "
        "choose EarlyStopping with a divergence_threshold, or guard.nonfinite"
    ),
    "LitLogger": "Lightning's Trainer (2.6) does not accept it; choose WandbLogger, MLFlowLogger or TensorBoardLogger",
    **dict.fromkeys(("XLAProfiler", "xla"), f"{_TPU}choose simple, advanced or pytorch"),
    **dict.fromkeys(("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"), _SHARDED),
}
"""For each class of Lightning that a config cannot name, the reason and what to use instead."""
_STRATEGIES = {"xla|XLA|tpu": f"{_TPU}choose ddp", "fsdp|deepspeed": _SHARDED, "spawn|fork|notebook": _COPIES}
"""For patterns of the strategies' names, and of the argument `start_method`, the reason."""
_MISSING = (
    r"Neither `([\w-]+)` nor",
    r"Requirement '([\w.-]+)",
    r"No module named '([\w-]+)",
    r"pip install (?:-U )?['\"]?([\w.-]+)",
)


def check_lightning_classes(trainer: dict[str, Any]) -> None:
    """Raise an error for a class or a strategy of Lightning that cannot work with the methods of this package.

    Args:
        trainer: Arguments of the trainer, in which classes are mappings of `class_path` and `init_args`.

    Raises:
        ConfigError: in this case. The message is the reason and what to use instead.
    """
    for field in _BASES:
        for name, settings in _named(trainer.get(field.removeprefix("trainer."))):
            method = str((settings.get("init_args") or {}).get("start_method", ""))
            for one in (method, name):
                if line := refusal(field, one):
                    raise ConfigError(line)


def refusal(field: str, name: str) -> str:
    """Return the message about a class or a strategy of Lightning that cannot be used; '' if it can be used.

    Args:
        field: Field of the config, such as `trainer.callbacks`.
        name: Name of the class without its module, or name of the strategy.
    """
    reason = REFUSED.get(name) if field in _BASES else None
    if field == "trainer.strategy":
        reason = next((why for pattern, why in _STRATEGIES.items() if re.search(pattern, name)), reason)
    return f"{field}: {name} cannot be used, because {reason}" if reason else ""


def _named(given: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the settings of each class of Lightning, and of each strategy that is given as text."""
    for one in given if isinstance(given, list | tuple) else [given]:
        if isinstance(one, str):
            yield one, {}
        elif isinstance(one, dict) and "class_path" in one:
            kind = import_class(one["class_path"])
            if inspect.isclass(kind) and kind.__module__.startswith("lightning."):
                yield kind.__name__, one


def missing_package(message: str) -> str | None:
    """Return the name of the package that an error message reports as missing. Return None for all other messages."""
    return next((found[1] for pattern in _MISSING if (found := re.search(pattern, message))), None)


def needs_package(name: str, package: str) -> str:
    """Return the message about a class that needs a package which is not installed."""
    return f"{name} needs the package {package}, which is not installed; run: pip install {package}"


def construction_error(error: BaseException | None) -> str:
    """Return the message about a callback, logger, profiler or strategy whose constructor failed.

    Return '' for all other exceptions.

    Args:
        error: Exception of jsonargparse, which wraps the exception of the constructor.
    """
    from lightning.pytorch.utilities.exceptions import MisconfigurationException  # slow, and only needed here

    bases = {field: import_class(path) for field, path in _BASES.items()}
    line = _collected(str(error), bases)
    while error is not None:
        if isinstance(error, ValueError | TypeError | ImportError | AssertionError | MisconfigurationException):
            for frame, _ in traceback.walk_tb(error.__traceback__):
                one = frame.f_locals.get("self") if frame.f_code.co_name == "__init__" else None
                field = next((field for field, base in bases.items() if isinstance(one, base)), "")
                if field:
                    package = missing_package(str(error)) if isinstance(error, ImportError) else None
                    name = type(one).__name__
                    line = f"{field}: {needs_package(name, package) if package else f'{name}: {one_line(error)}'}"
        error = error.__cause__ or error.__context__
    return line


def _collected(message: str, bases: dict[str, type]) -> str:
    """Return the message about a constructor whose error jsonargparse (4.53) lists with the types that it tried."""
    reasons = re.findall(r"^ *- (?!Expected an? )(.+)$", message, re.MULTILINE)
    path = re.search(r"Given value: Namespace\(class_path='([\w.]+)'", message)
    kind = import_class(path[1]) if path else None
    field = next((field for field, base in bases.items() if inspect.isclass(kind) and issubclass(kind, base)), "")
    return f"{field}: {kind.__name__}: {reasons[-1]}" if field and reasons else ""
