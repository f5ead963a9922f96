"""CKA between all stages of teacher and student: which layer of one is like which of the other."""

import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.errors import check_positive
from kd_lightning.metrics import linear_cka
from kd_lightning.models import Network
from kd_lightning.reports.style import INK, label

GRID = 8


@torch.no_grad()
def stage_maps(
    network: Network, images: Tensor, *, grid: int | None = GRID, batch_size: int = 256
) -> dict[str, Tensor]:
    """Every stage's map N,C,H,W by its name in the network, and the `embedding` N,D, in eval mode and float32.

    Args:
        network: its mode is put back.
        images: N,3,H,W as the data have them.
        grid: maps of more than grid x grid positions are averaged to that many; None: they are left as they are.
        batch_size: images that are read at a time.
    """
    check_positive(batch_size=batch_size, **({} if grid is None else {"grid": grid}))
    names = [stage["module"] for stage in network.model.feature_info]
    device, was_training = next(network.parameters()).device, network.training
    network.eval()
    parts: dict[str, list[Tensor]] = {name: [] for name in (*names, "embedding")}
    for some in images.split(batch_size):
        seen = network.features(some.to(device), maps=len(names), embedding=True)
        for name, part in zip(parts, (*seen.maps, seen.embedding), strict=True):
            parts[name].append(_at_most(part.float(), grid).cpu())
    network.train(was_training)
    return {name: torch.cat(found) for name, found in parts.items()}


def stage_cka(student: Network, teacher: Network, images: Tensor, *, grid: int | None = GRID) -> pd.DataFrame:
    """Linear CKA (unbiased) between each stage of the student (rows) and each of the teacher (columns).

    Maps are flattened, positions and all, as in the papers (Kornblith et al. 2019; Nguyen et al. 2021): where
    something is seen is part of what a map says, and averaging over positions would make early stages look more alike
    than they are. Maps larger than `grid` x `grid` are averaged to that first, which bounds the memory.

    Args:
        student: any network.
        teacher: any network; number and shapes of the stages may differ.
        images: N,3,H,W; the steps grow with N squared.
        grid: as `stage_maps` takes it.
    """
    ours, theirs = (stage_maps(network, images, grid=grid) for network in (student, teacher))
    rows = {
        name: {other: float(linear_cka(mine, their)) for other, their in theirs.items()} for name, mine in ours.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def cka_heat_map(table: pd.DataFrame) -> Figure:
    """The table of `stage_cka` in colours, each number written into its cell for grey prints."""
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
