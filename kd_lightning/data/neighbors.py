"""Nearest neighbours in a teacher's embedding. They are computed once and stored, and then sampled for each anchor."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Literal, final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kd_lightning.data.class_order import Teacher
from kd_lightning.data.images import ImageDataset
from kd_lightning.errors import ConfigError
from kd_lightning.io.atomic import write_tensors
from kd_lightning.io.paths import resolve

FINGERPRINT_IMAGES = 256
"""Number of images whose pixels are hashed for the fingerprint of a data set."""


def nearest_neighbors(
    embeddings: Tensor,
    k: int,
    *,
    chunk: int = 1024,
    columns: int = 65536,
    engine: Literal["torch", "faiss"] = "torch",
) -> Tensor:
    """Return the exact k nearest neighbours of every row by cosine: N,k int64, nearest first, without the row itself.

    A row is excluded by its index. Exact duplicates of the row are therefore included. Blocks of `chunk` x `columns`
    similarities are computed in float32 and merged into the best k so far. A block needs a few times
    chunk x columns x 4 bytes of memory (0.3 GB), in addition to the N,D embeddings. For example, 1.28 M x 2048
    embeddings need 10.5 GB in float32, and half of that in float16 or bfloat16.

    Args:
        embeddings: Embeddings N,D of any floating dtype, on any device.
        k: Number of neighbours, less than N.
        chunk: Number of rows per block.
        columns: Number of candidates per block.
        engine: Library that computes the neighbours. `faiss` uses its exact index on the CPU, which copies all rows as
            float32.

    Raises:
        ConfigError: if k is out of range, if an embedding is not finite, or if faiss is chosen but not installed.
    """
    count = len(embeddings)
    if not 1 <= k < count:
        raise ConfigError(f"k: {k} is given, but with {count:,} images k must be 1 to {count - 1:,}")
    if engine == "faiss":
        return _by_faiss(_unit(embeddings).cpu(), k, chunk)
    neighbors = torch.empty((count, k), dtype=torch.int64, device=embeddings.device)
    with torch.autocast(embeddings.device.type, enabled=False):
        for start in range(0, count, chunk):
            rows = _unit(embeddings[start : start + chunk])
            row_indices = torch.arange(start, start + len(rows), device=rows.device)[:, None]
            best = torch.empty((len(rows), 0), device=rows.device)
            neighbor_ids = torch.empty((len(rows), 0), dtype=torch.int64, device=rows.device)
            for first_column in range(0, count, columns):
                similarities = rows @ _unit(embeddings[first_column : first_column + columns]).T
                ids = torch.arange(first_column, first_column + similarities.shape[1], device=rows.device).expand_as(
                    similarities
                )
                similarities = similarities.masked_fill(ids == row_indices, -2.0)  # below any cosine
                chunk_best = similarities.topk(min(k, similarities.shape[1]), dim=1)
                best, neighbor_ids = (
                    torch.cat([best, chunk_best.values], 1),
                    torch.cat([neighbor_ids, chunk_best.indices + first_column], 1),
                )
                merged = best.topk(min(k, best.shape[1]), dim=1)
                best, neighbor_ids = merged.values, neighbor_ids.gather(1, merged.indices)
            neighbors[start : start + len(rows)] = neighbor_ids
    return neighbors


def _by_faiss(rows: Tensor, k: int, chunk: int) -> Tensor:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("engine: faiss is not installed (pip install faiss-cpu); choose torch") from error
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows.numpy())
    parts = []
    for row_indices in torch.arange(len(rows)).split(chunk):
        ids = torch.from_numpy(index.search(rows[row_indices].numpy(), k + 1)[1])
        last = torch.argsort((ids == row_indices[:, None]).to(torch.uint8), dim=1, stable=True)  # the row itself
        parts.append(torch.gather(ids, 1, last)[:, :k])
    return torch.cat(parts)


def _unit(rows: Tensor) -> Tensor:
    rows = rows.float()
    if not rows.isfinite().all():
        raise ConfigError(
            "embeddings: the teacher's embeddings are not finite, so they have no neighbours; check the teacher's "
            "weights, mean and std"
        )
    return F.normalize(rows, dim=1)


def data_fingerprint(images: ImageDataset) -> str:
    """Return a hash of the images: of their number, their indices, and the pixels of up to 256 unaugmented images."""
    rows = torch.linspace(0, len(images) - 1, min(FINGERPRINT_IMAGES, len(images))).long()
    pixels = images.subset(rows).take(torch.arange(len(rows))).images.cpu()
    digest = sha256(images.indices.numpy().tobytes())
    digest.update(repr(tuple(pixels.shape)).encode())
    digest.update(pixels.contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_table(path: Path, neighbors: Tensor, images: ImageDataset, teacher: Teacher) -> None:
    """Write a table of neighbours with the fingerprints of the data and the teacher.

    Args:
        path: Path of the .safetensors file.
        neighbors: Neighbours N,K int64, as rows of `images`.
        images: Images whose neighbours are written.
        teacher: Network that computed the embeddings of the images.
    """
    facts = {"data": data_fingerprint(images), "teacher": teacher.fingerprint(), "teacher_name": teacher.name}
    write_tensors(path, {"neighbors": neighbors.to(torch.int32), "indices": images.indices}, facts)


@final
class Neighbors:
    """Batches of anchors with some of their nearest neighbours, from the table of `kd_lightning build-neighbors`.

    Args:
        path: Path of the table.
        count: Number of neighbours per anchor (CoSS: 15).
        candidates: Number of nearest neighbours from which `count` are drawn without replacement (CoSS: 31).

    Raises:
        ConfigError: if the table is missing, has too few neighbours, or belongs to other images or another teacher.
    """

    def __init__(self, path: str, *, count: int = 15, candidates: int = 31) -> None:
        if not 1 <= count <= candidates:
            raise ConfigError(f"data.neighbors.count: {count} is not from 1 to candidates ({candidates})")
        self.path, self.count, self.candidates = path, count, candidates
        self.rows = torch.empty(0, 0)
        self.facts: dict[str, str] = {}

    def load(self, images: ImageDataset) -> None:
        """Read the table for these images and set `rows` to N,candidates int64."""
        path = resolve(self.path, "data.neighbors.path")
        try:
            with safe_open(path, "pt") as file:
                table, indices = file.get_tensor("neighbors").long(), file.get_tensor("indices")
                self.facts = {key: json.loads(value) for key, value in file.metadata().items() if key != "format"}
        except (SafetensorError, OSError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"data.neighbors.path: {path} is not a table of neighbours ({error}); {self._remedy}"
            ) from error
        if table.shape[1] < self.candidates:
            raise ConfigError(
                f"data.neighbors.candidates: {path} has {table.shape[1]} neighbours per image, fewer than "
                f"{self.candidates}; give at most {table.shape[1]}, or create the table again with a larger --k"
            )
        if not torch.equal(indices, images.indices) or self.facts.get("data") != data_fingerprint(images):
            raise ConfigError(f"data.neighbors.path: {path} was created from other images; {self._remedy}")
        self.rows = table[:, : self.candidates]

    def check_teacher(self, teacher: Teacher) -> None:
        """Raise an error if the table was created with another teacher, or with other weights, mean, std or size."""
        if self.facts.get("teacher") != teacher.fingerprint():
            raise ConfigError(
                f"data.neighbors.path: {self.path} was created with another teacher "
                f"({self.facts.get('teacher_name')}), whose weights or preprocessing differ from "
                f"{teacher.name}; {self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        return "create it again: python -m kd_lightning build-neighbors --config CONFIG"
