"""OutOfMemory: if memory runs out, report what used the memory, and which settings may help."""

import resource
import sys
from collections.abc import Iterable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.data.images import StoredImages
from kd_lightning.errors import RunError, one_line

_SIGNS = ("out of memory", "can't allocate memory", "Cannot allocate memory", "ALLOC_FAILED", "bad_alloc")
_MANY = 2**26


class OutOfMemory(Callback):
    """Adds a note to an out-of-memory exception: the memory use of each part of the run, and settings that may help.

    The function `explained` converts the exception to an error of one line that contains this note.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_out_of_memory(exception) and trainer.datamodule is not None:
            exception.add_note(_report(trainer, pl_module))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error of torch (device or host) or of Python."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in _SIGNS))


def explained(error: BaseException | None) -> RunError | None:
    """Return an out-of-memory exception as a one-line error with its notes. Return None for other exceptions.

    If a constructor needs too much memory, jsonargparse raises another exception, whose cause or context is the first.
    """
    while not is_out_of_memory(error):
        error = error.__cause__ or error.__context__
        if error is None:
            return None
    message = one_line(error)
    return RunError(f"out of memory: {'. '.join(getattr(error, '__notes__', []) or [message])}")


def _report(trainer: Trainer, method: LightningModule) -> str:
    data, device = trainer.datamodule, trainer.strategy.root_device
    teacher = getattr(method, "teacher", None)
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    sizes = {
        "the teacher": _bytes([] if teacher is None else teacher.state_dict().values()),
        "the student and the additional layers (heads)": _bytes(method.state_dict().values()),
        "the gradients": _bytes(parameter.grad for parameter in trained if parameter.grad is not None),
        "the optimizer": _bytes(
            value
            for optimizer in trainer.optimizers
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ),
        "images": _bytes(_images(data, device)),
    }
    parts = [f"{name} {_mib(size)}" for name, size in sizes.items() if size]
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        rest = torch.cuda.max_memory_allocated(device) - sum(sizes.values())
        parts.append(f"activations for the backward pass at most {_mib(rest)}")
        place = f"{device}, {_mib(total)}, {_mib(free)} free"
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        parts.append("the rest: activations for the backward pass, and libraries")
        place = f"{device.type}, {_mib(peak)} used by the process at its peak"
    batch = data.batch_size if trainer.training else data.eval_batch_size
    where = f"in epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1}, " if trainer.training else ""
    hints = _hints(trainer, method)
    advice = f". What may help: {'; '.join(hints)}" if hints else ""
    return f"{where}{batch} images per batch ({place}). Memory use: {', '.join(parts)}{advice}"


def _hints(trainer: Trainer, method: LightningModule) -> list[str]:
    """Return the settings that may reduce the memory use, or [] if all of them are already in use."""
    data, hints = trainer.datamodule, []
    if not trainer.training:
        if data.eval_batch_size > 1:
            hints.append(f"data.eval_batch_size {data.eval_batch_size // 2}")
    elif data.batch_size > 1:
        field = "batch_size" if data.global_batch_size is None else "global_batch_size"
        half, often = (data.global_batch_size or data.batch_size) // 2, 2 * trainer.accumulate_grad_batches
        hints.append(
            f"data.{field} {half} with trainer.accumulate_grad_batches {often} (BatchNorm and losses that compare "
            "images across the batch then use half as many images)"
        )
    if str(trainer.precision).startswith(("32", "64")):
        hints.append("trainer.precision bf16-mixed")
    teacher = getattr(method, "teacher", None)
    if teacher is not None and (teacher.dtype or teacher.mean.dtype) == torch.float32:
        hints.append("model.teacher.dtype bfloat16")
    if _bytes(_images(data, trainer.strategy.root_device)) > _MANY:
        hints.append("data.memory_limit 0 (workers then read the images from their files)")
    return hints


def _images(data: ImageData, device: torch.device) -> list[Tensor]:
    """Return the tensors of images that are stored on the device, without duplicates."""
    stored = (images.images for images in data.datasets.values() if isinstance(images, StoredImages))
    return [*{tensor.data_ptr(): tensor for tensor in stored if tensor.device.type == device.type}.values()]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
