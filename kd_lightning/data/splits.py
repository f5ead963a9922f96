"""Drawing some of the images, class by class."""

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError


def draw(
    labels: Tensor, rows: Tensor, share: float, *, seed: int, field: str, otherwise: str = "with an image of each class"
) -> tuple[Tensor, Tensor]:
    """Rows left and rows drawn, both in order, with each class in proportion (without labels: at random).

    Args:
        labels: N int64, of all images; -1 where there is none.
        rows: the rows to draw from.
        share: below 1 the share to draw, from 1 up the number.
        seed: of the draw.
        field: that an error names.
        otherwise: what else the error says one can do.

    Raises:
        ConfigError: where every class cannot have an image on both sides.
    """
    classes = labels[rows].unique().numel()
    count = round(share * len(rows)) if share < 1 else int(share)
    if not classes <= count <= len(rows) - classes:
        raise ConfigError(
            f"data.{field}: {share:g} means {count} of {len(rows)} images; with {classes} "
            f"class{'es' * (classes > 1)} it can be {classes} to {len(rows) - classes}, {otherwise}"
        )
    from sklearn.model_selection import train_test_split  # takes a second

    try:
        left, drawn = train_test_split(
            rows.numpy(), test_size=count, random_state=seed, stratify=labels[rows].numpy() if classes > 1 else None
        )
    except ValueError as error:
        raise ConfigError(f"data.{field}: {share:g} cannot be drawn class by class ({error})") from error
    return torch.from_numpy(left).sort().values, torch.from_numpy(drawn).sort().values
