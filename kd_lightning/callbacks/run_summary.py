"""RunSummary: the networks, images and settings of a run, as tables."""

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Group
from rich.table import Table

from kd_lightning.callbacks.protocol import Protocol
from kd_lightning.data import ImageData
from kd_lightning.io.console import titled, wide
from kd_lightning.models import Network
from kd_lightning.optim import base_rate
from kd_lightning.words import counted, listed

_NEVER_WRAPPED = 10_000
"""Columns of the tables in a log file, where a wrapped or cut path cannot be copied."""


class RunSummary(Callback):
    """Prints the networks, the images and the protocol before the first step.

    Two values are also logged. `run/global_batch` is the number of images per optimizer step. `run/learning_rate` is
    the learning rate without the factor of the schedule.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule
        if not trainer.is_global_zero or data is None:
            return
        effective = {"run/global_batch": pl_module.global_batch, "run/learning_rate": base_rate(trainer)}
        for logger in trainer.loggers:
            logger.log_metrics(effective, step=0)
        wide(_NEVER_WRAPPED).print(_networks(pl_module, data.side), _settings(trainer, pl_module, data))


def _networks(method: LightningModule, side: int) -> Group:
    table = Table()
    for column in ("", "network", "weights", "parameters", "MACs", "embedding", "input"):
        table.add_column(column, overflow="fold", justify="left" if column in ("", "network", "weights") else "right")
    for role in ("teacher", "student"):
        network: Network | None = getattr(method, role, None)
        if network is not None:
            size = f"{side} px" if network.size in (None, side) else f"{side} to {network.size} px"
            table.add_row(
                role,
                network.name,
                _weights(network),
                f"{network.parameter_count():,}",
                _macs(network, side),
                str(network.embedding_width),
                size,
            )
    return titled(type(method).__name__, table)


def _weights(network: Network) -> str:
    if not network.has_weights:
        return "random"
    return "loaded, new classifier" if network.fresh_classifier else "loaded"


def _macs(network: Network, side: int) -> str:
    macs = network.macs(side)
    return "not counted" if macs is None else f"{macs / 1e6:,.1f} M"


def _settings(trainer: Trainer, method: LightningModule, data: ImageData) -> Table:
    table = Table(show_header=False)
    counts = [f"{len(images):,} {split}" for split, images in data.datasets.items()]
    table.add_row("images", f"{data.name}: {', '.join(counts)}; {counted(data.num_classes, 'class', 'classes')}")
    if data.held_out:
        table.add_row("held out", data.held_out)
    origins = {images.origin: [] for images in data.datasets.values()}
    for split, images in data.datasets.items():
        origins[images.origin].append(split)
    table.add_row("storage", "; ".join(f"{listed(splits)} {origin}" for origin, splits in origins.items()))
    table.add_row("batch", _batch(trainer, method, data))
    rate = f"{base_rate(trainer):.4g}"
    if method.lr_batch_size:
        rate += f", {method.lr_scaling} scaling of the rate for {method.lr_batch_size} images"
    if method.head_lr_scale != 1:
        rate += f", {method.head_lr_scale:g} times this rate for the classifier"
    table.add_row("learning rate", rate)
    if method.freeze:
        table.add_row("fine-tuning", "only the classifier is trained; the backbone is frozen")
    elif method.probe_epochs:
        epochs = f"{method.probe_epochs} epoch{'s' * (method.probe_epochs > 1)}"
        table.add_row("fine-tuning", f"{epochs} of the classifier alone, then of all layers")
    for each in (each for each in method.staged if each.has_own_stages):
        (first, second), count = each.training_stages, each.first_epochs(trainer.max_epochs)
        verb = "trains" if count == 1 else "train"
        table.add_row("stages", f"{counted(count, 'epoch')} {verb} {first.trains}; the others train {second.trains}")
    table.add_row("length", f"{_length(trainer)}, precision {trainer.precision}")
    protocol = next((c for c in trainer.callbacks if isinstance(c, Protocol)), None)
    if protocol is not None:
        validated = (
            counted(len(data.datasets["val"]), "validation image") if "val" in data.datasets else "no validation"
        )
        tested = "is tested once, at the end" if protocol.test and data.labeled else "is the result and is not tested"
        table.add_row("protocol", f"{validated}; the {protocol.select} epoch {tested}")
    table.add_row("folder", str(trainer.default_root_dir))
    return table


def _length(trainer: Trainer) -> str:
    """Return the limits of the run's length as text. -1 means that there is no limit of this kind."""
    limits = {"epoch": trainer.max_epochs, "step": trainer.max_steps}
    given = [f"{most:,} {unit}{'s' * (most != 1)}" for unit, most in limits.items() if most not in (None, -1)]
    return f"{'at most ' * (len(given) > 1)}{' and '.join(given)}" if given else "no limit"


def _batch(trainer: Trainer, method: LightningModule, data: ImageData) -> str:
    parts = [str(data.batch_size)]
    if trainer.world_size > 1:
        parts.append(f"on each of {trainer.world_size} devices")
    if trainer.accumulate_grad_batches > 1:
        parts.append(f"accumulated over {trainer.accumulate_grad_batches} batches")
    return " ".join(parts) + (f": {method.global_batch} per step" if len(parts) > 1 else "")
