"""Messages about a trial of a step that failed: the network or the method, and the file and the line of the error."""

import re
import traceback
from pathlib import Path
from types import FrameType

from kd_lightning.batch import Batch
from kd_lightning.distillation.class_checks import names_in
from kd_lightning.distillation.student import StudentModule
from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.own_files import is_own, own_frame
from kd_lightning.models import Features, Network

_LONGEST_REASON = 200


def explained(error: Exception, method: StudentModule, batch: Batch) -> Exception:
    """Return an error of one line that names the network or the method in which an error was raised."""
    if isinstance(error, ConfigError):
        return error
    frames = [*traceback.walk_tb(error.__traceback__)]
    reason = f"{type(error).__name__}: {one_line(error, _LONGEST_REASON)}"
    images = images_of(batch)
    within = [frame.f_locals.get("self") for frame, _ in frames]
    for role, network in networks_of(method).items():
        if any(each is network for each in within):
            resized = (
                f", resized to {network.size} pixels" if network.size not in (None, batch.images.shape[-1]) else ""
            )
            return ConfigError(
                f"model.{role}: {network.name} cannot use {images}{resized} ({reason}); set data.size or "
                f"model.{role}.size to a size that the network accepts, change its model_kwargs, or choose another "
                "network"
            )
    file, line = _place(error, method, frames)
    remedy = "correct this line, or change" if is_own(file) else "change"
    return ConfigError(
        f"model: {type(method).__name__} cannot train with {images} ({reason}, in {Path(file).name}, line {line})"
        f"{_not_requested(error, frames)}; {remedy} the method's arguments, the networks or data.size; guard.try_step "
        "false shows the complete traceback"
    )


def _place(error: Exception, method: StudentModule, frames: list[tuple[FrameType, int]]) -> tuple[str, int]:
    """Return the file and the line of an error: the innermost line of a user's file, if there is one.

    If `losses` or `inputs` has the wrong arguments, Python raises the error in the line of the base class that calls
    it.
    """
    found = own_frame(error, methods=True)
    called = re.match(r"\w+\.(losses|inputs)\(\) ", str(error))
    if not found and isinstance(error, TypeError) and called:
        code = getattr(type(method), called[1]).__code__
        return code.co_filename, code.co_firstlineno
    frame, line = found or frames[-1]
    return frame.f_code.co_filename, line


def _not_requested(error: Exception, frames: list[tuple[FrameType, int]]) -> str:
    """Return a text about the features that a function reads although `reads` does not request them; '' if none."""
    if not isinstance(error, TypeError | AttributeError | IndexError):
        return ""
    for frame, _ in reversed(frames):
        seen = [each for value in frame.f_locals.values() for each in (value if isinstance(value, list) else [value])]
        features = [each._asdict() for each in seen if isinstance(each, Features)]
        read = names_in(frame.f_code) & {*Features._fields}
        empty = [name for name in sorted(read) if any(each[name] is None or each[name] == [] for each in features)]
        if empty:
            return f"; its `reads` does not request {' and '.join(empty)}, or a network has none"
    return ""


def images_of(batch: Batch) -> str:
    """Return the number and the size of the images of a batch, as a text."""
    return f"{len(batch.images)} images of {batch.images.shape[-1]} x {batch.images.shape[-2]} pixels"


def networks_of(method: StudentModule) -> dict[str, Network]:
    """Return all networks of a method by name."""
    teacher = {"teacher": method.teacher} if hasattr(method, "teacher") else {}
    return {"student": method.student, **teacher, **{name: each.network for name, each in method.further.items()}}
