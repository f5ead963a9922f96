"""Embeddings of whole data sets."""

import torch
from rich.progress import track
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.models import Network


@torch.no_grad()
def embed(
    network: Network, loader: torch.utils.data.DataLoader, count: int, device: torch.device, *, quiet: bool = False
) -> Tensor:
    """The embeddings N,D float32 of a loader's `count` images in order, held once."""
    network.eval()
    embeddings = torch.empty((count, network.embedding_width), device=device)
    filled = 0
    for batch in track(loader, description=f"embedding with {network.name}", disable=quiet):
        seen = network.features(batch.images.to(device, non_blocking=True), embedding=True).embedding
        embeddings[filled : filled + len(seen)] = seen
        filled += len(seen)
    if filled < count:
        raise ConfigError(f"data.on_error: {count - filled} images cannot be read; all are needed here")
    return embeddings
