"""The share of nearest neighbours that unrelated embeddings of a few images have in common."""

NEIGHBORS = 10
"""Number of neighbours of `val/neighbors` and `test/neighbors`."""
HIGH = 0.1
"""Share above which a warning names it."""


def neighbors_by_chance(images: int, k: int = NEIGHBORS) -> float:
    """Return the share of the k nearest neighbours among N images that two unrelated embeddings share: k / (N - 1)."""
    others = max(images - 1, 1)
    return min(k, others) / others


def high_chance(metric: str, images: int, k: int = NEIGHBORS) -> str | None:
    """Return a line if the share by chance is above HIGH, otherwise None."""
    share = neighbors_by_chance(images, k)
    if share <= HIGH:
        return None
    return f"{metric}: with {images:,} images, embeddings that are unrelated also reach about {share:.2f}"
