"""Draw a subset of images, stratified by class."""

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError


def stratified_split(
    labels: Tensor,
    rows: Tensor,
    share: float,
    *,
    seed: int,
    field: str,
    hint: str = "both parts need an image of each class",
) -> tuple[Tensor, Tensor]:
    """Return the remaining rows and the drawn rows, both sorted. If there are labels, the draw is stratified by class.

    Args:
        labels: Labels of all images, N int64, -1 for images without a label.
        rows: Rows from which some are drawn.
        share: Share of the rows that are drawn. A value of 1 or more is the number of rows.
        seed: Seed of the draw.
        field: Full name of the config field in error messages.
        hint: Last sentence of the error message.

    Raises:
        ConfigError: if the number of rows is too small or too large to have an image of every class in both parts.
    """
    classes = labels[rows].unique().numel()
    count = round(share * len(rows)) if share < 1 else int(share)
    if not classes <= count <= len(rows) - classes:
        raise ConfigError(
            f"{field}: {share:g} means {count} of {len(rows)} images, but with {classes} class{'es' * (classes > 1)} "
            f"the number of images must be {classes} to {len(rows) - classes}; {hint}"
        )
    from sklearn.model_selection import train_test_split  # takes a second

    try:
        remaining, drawn = train_test_split(
            rows.numpy(), test_size=count, random_state=seed, stratify=labels[rows].numpy() if classes > 1 else None
        )
    except ValueError as error:
        raise ConfigError(
            f"{field}: {share:g} cannot be drawn stratified by class ({error}); give another number or share; {hint}"
        ) from error
    return torch.from_numpy(remaining).sort().values, torch.from_numpy(drawn).sort().values
