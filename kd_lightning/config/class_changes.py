"""What happens to the arguments of a class if a later config or argument names another class for the same field.

jsonargparse 4.53 keeps all arguments whose names the new class has, such as the weight of another method or the path of
another data set. Here, an argument belongs to the class for which it was given, and only the arguments in `KEPT`
remain.
"""

import inspect
import sys
from typing import Any

from jsonargparse import Namespace, _typehints
from lightning.pytorch.utilities import rank_zero_only

from kd_lightning.config.classes import default_of, import_class
from kd_lightning.data import ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.redaction import printable, redacted

KEPT = {
    StudentModule: ("student", "teacher", "check_teacher", "optimizer", "lr_scheduler", "lr_batch_size", "lr_scaling"),
    ImageData: (
        "batch_size", "global_batch_size", "eval_batch_size", "num_workers", "memory_limit", "on_error", "views",
        "repeats", "mixing", "val_split", "split_seed", "predict_split", "seed",
    ),
}  # fmt: skip
"""Arguments that remain if another class with the same base class is named: networks and training, or batches,
loading and split. They do not depend on the method or on the images."""

_discard = _typehints.discard_init_args_on_class_path_change
_notices: dict[str, None] = {}


def _drop(parser_or_action: Any, before: Any, now: Any) -> None:
    """Remove the arguments of the former class, and then those that the new class does not have."""
    former, new = _class_of(before), _class_of(now)
    if former and new and isinstance(before, Namespace) and isinstance(before.get("init_args"), Namespace):
        if former is new:  # the same class by another path
            before["class_path"] = now["class_path"]
            return
        kept = next((names for base, names in KEPT.items() if issubclass(former, base) and issubclass(new, base)), ())
        arguments = before.init_args
        dropped = {}
        for name in [*vars(arguments)]:
            if name not in kept or name not in _arguments(new):
                value = arguments.pop(name)
                if value != default_of(former, name):
                    dropped[name] = value
        if dropped and not _typehints.sub_defaults.get():  # otherwise these are defaults that the user did not give
            settings = ", ".join(f"{name}={_text(value)}" for name, value in dropped.items())
            line = f"settings of {former.__name__} are dropped, because {new.__name__} replaces it: {settings}"
            _notices[printable(redacted(line))] = None
    _discard(parser_or_action, before, now)


_typehints.discard_init_args_on_class_path_change = _drop


def print_notices() -> None:
    """Print one line to stderr for each class whose settings were dropped, and forget these lines."""
    if rank_zero_only.rank == 0:
        for line in _notices:
            print(line, file=sys.stderr)
    _notices.clear()


def forget_notices() -> None:
    """Forget the lines of a command line that was rejected."""
    _notices.clear()


def _class_of(spec: Any) -> type | None:
    try:
        kind = import_class(str(spec["class_path"])) if spec and "class_path" in spec else None
    except (ImportError, TypeError):
        return None
    return kind if inspect.isclass(kind) else None


def _arguments(kind: type) -> set[str]:
    bases = (base for base in inspect.getmro(kind) if "__init__" in vars(base))
    return {name for base in bases for name in inspect.signature(base.__init__).parameters}


def _text(value: Any) -> str:
    text = _in_words(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _in_words(value: Any) -> str:
    content = value.as_dict() if isinstance(value, Namespace) else value
    if isinstance(content, list):
        return f"[{', '.join(map(_in_words, content))}]"
    if isinstance(content, dict):
        if "class_path" in content:
            return str(content["class_path"]).rpartition(".")[2]
        return "{" + ", ".join(f"{key}: {_in_words(item)}" for key, item in content.items() if item is not None) + "}"
    return str(content)
