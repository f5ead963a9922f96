"""CKA between all stages of student and teacher."""

import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.errors import check_positive
from kd_lightning.metrics import linear_cka
from kd_lightning.models import Network
from kd_lightning.models.modes import eval_mode
from kd_lightning.reports.style import INK, label

GRID = 8


@torch.no_grad()
def stage_maps(
    network: Network, images: Tensor, *, grid: int | None = GRID, batch_size: int = 256
) -> dict[str, Tensor]:
    """Return the feature map N,C,H,W of each stage by its name, and the `embedding` N,D, in eval mode and float32.

    Args:
        network: network to run. Its mode (training or eval) is restored afterwards.
        images: images N,3,H,W that are not normalised.
        grid: side to which larger maps are reduced by average pooling. None means no pooling.
        batch_size: number of images per pass.
    """
    check_positive(batch_size=batch_size, **({} if grid is None else {"grid": grid}))
    names = [stage["module"] for stage in network.model.feature_info]
    device = next(network.parameters()).device
    parts: dict[str, list[Tensor]] = {name: [] for name in (*names, "embedding")}
    with eval_mode(network):
        for part in images.split(batch_size):
            features = network.features(part.to(device), maps=len(names), embedding=True)
            for name, part in zip(parts, (*features.maps, features.embedding), strict=True):
                parts[name].append(_at_most(part.float(), grid).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def stage_cka(student: Network, teacher: Network, images: Tensor, *, grid: int | None = GRID) -> pd.DataFrame:
    """Return unbiased linear CKA between each stage of the student (rows) and each stage of the teacher (columns).

    A map is flattened to one vector with all positions, as in the papers (Kornblith et al. 2019; Nguyen et al. 2021).
    An average over the positions would overestimate the similarity of early stages. Before this, larger maps are
    reduced to `grid` x `grid` by average pooling, which limits the memory.

    Args:
        student: any network.
        teacher: any network. The number and the shapes of its stages may differ from the student's.
        images: images N,3,H,W. The cost grows with N squared.
        grid: as in `stage_maps`.
    """
    student_maps, teacher_maps = (stage_maps(network, images, grid=grid) for network in (student, teacher))
    rows = {
        name: {
            teacher_stage: float(linear_cka(student_map, teacher_map))
            for teacher_stage, teacher_map in teacher_maps.items()
        }
        for name, student_map in student_maps.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def cka_heat_map(table: pd.DataFrame) -> Figure:
    """Plot the table of `stage_cka` as a heat map, with its value in each cell."""
    figure = Figure(
        figsize=(1.9 + 0.85 * table.shape[1], 1.3 + 0.5 * len(table)), layout="constrained", facecolor="white"
    )
    axes = figure.add_subplot()
    picture = axes.imshow(table.to_numpy(), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(table.shape[1]), [label(str(name), 16) for name in table.columns], fontsize=9)
    axes.set_yticks(range(len(table)), [label(str(name), 16) for name in table.index], fontsize=9)
    if table.shape[1] > 6:
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlabel("teacher", fontsize=9)
    axes.set_ylabel("student", fontsize=9)
    for row, values in enumerate(table.to_numpy()):
        for column, value in enumerate(values):
            ink = INK if value > 0.6 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink)
    bar = figure.colorbar(picture, ax=axes, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle("linear CKA between stages", fontsize=10)
    return figure


def _at_most(x: Tensor, grid: int | None) -> Tensor:
    if grid is None or x.ndim != 4 or max(x.shape[-2:]) <= grid:
        return x
    return F.adaptive_avg_pool2d(x, tuple(min(grid, side) for side in x.shape[-2:]))
