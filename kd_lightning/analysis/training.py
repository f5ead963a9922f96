"""Train a method for a few steps, and record its loss terms."""

from typing import Any, NamedTuple

import pandas as pd
import torch
from lightning.pytorch import Callback, Trainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from kd_lightning.analysis.output import suppress_output
from kd_lightning.data import ImageData
from kd_lightning.distillation import Distiller, StudentModule
from kd_lightning.errors import check_positive
from kd_lightning.models import Features, Reads
from kd_lightning.models.modes import eval_mode
from kd_lightning.reports.style import WIDTH, label, styles, tidy

SMOOTH = 10
"""Number of steps over which the smoothed curves are averaged."""


class FeaturePair(NamedTuple):
    """Features that the two networks of a method compute for the same N images, without gradients."""

    student: Features
    teacher: Features
    aligned: tuple[Tensor, Tensor] | None
    """The vectors N,D of student and teacher that the losses compare (after the head), or None."""


class _Terms(Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: StudentModule, *args: Any) -> None:
        self.rows.append({name: float(value) for name, value in pl_module.loss_terms.items()})


def train_steps(method: StudentModule, data: ImageData, steps: int) -> pd.DataFrame:
    """Train a method for some steps on the CPU, and return its weighted loss terms by step, counted from 1.

    Args:
        method: method whose student is trained. It is in eval mode afterwards.
        data: data module with the training images.
        steps: number of optimizer steps. The learning rate schedule is that of a run of this length.
    """
    check_positive(steps=steps)
    terms, off = _Terms(), {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with suppress_output():
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=None,
            max_steps=steps,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            callbacks=[terms],
            **off,
        )
        trainer.fit(method, data)
    method.eval()
    return pd.DataFrame(terms.rows, index=pd.RangeIndex(1, len(terms.rows) + 1, name="step"))


@torch.no_grad()
def compute_features(method: Distiller, images: Tensor, *, maps: int = 1) -> FeaturePair:
    """Return the features of the deployed network and of the teacher: the last maps, the embedding and the logits.

    Both networks are in eval mode.

    Args:
        method: method with both networks. Its mode (training or eval) is restored afterwards.
        images: images N,3,H,W that are not normalised. They may be mixed images.
        maps: number of stages whose feature maps are returned, counted back from the last stage.
    """
    reads = method.reads | Reads(maps=maps, embedding=True, logits=True)
    with eval_mode(method):
        student = method.deployed.features(images, **reads._asdict())
        teacher = method.teacher_features(images, reads)
        return FeaturePair(student, teacher, method.aligned_pair(student, teacher))


def plot_loss_terms(tables: dict[str, pd.DataFrame]) -> Figure:
    """Plot the loss terms by step, with one row per method. Thin lines show each step, thick lines a mean of ten steps.

    Args:
        tables: results of `train_steps` by the method's name.
    """
    columns = max(len(table.columns) for table in tables.values())
    figure = Figure(figsize=(0.72 * WIDTH * columns, 1.6 * len(tables)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(tables), columns, squeeze=False)
    method_styles = styles(tables)
    for row, (name, table) in zip(panels, tables.items(), strict=True):
        for axes in row[len(table.columns) :]:
            axes.set_axis_off()
        for axes, term in zip(row, table.columns, strict=False):
            tidy(axes)
            color, smooth = method_styles[name].color, table[term].rolling(SMOOTH, 1, center=True).mean()
            axes.plot(table.index, table[term], color=color, linewidth=0.8, alpha=0.4)
            axes.plot(table.index, smooth, color=color, linewidth=1.6)
            axes.set_title(label(f"{name}: {term}", 40), fontsize=10)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels[-1]:
        axes.set_xlabel("step", fontsize=9)
    return figure
