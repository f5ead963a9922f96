"""Nearest neighbours in a teacher's eyes: found once, kept in a table, drawn into batches beside their anchors."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Literal, final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kd_lightning.data.images import ImageDataset
from kd_lightning.data.teacher import Teacher
from kd_lightning.errors import ConfigError
from kd_lightning.io.atomic import write_tensors
from kd_lightning.io.paths import resolve

SAMPLED = 256
"""Images whose pixels stand for all of a data set in its fingerprint."""


def nearest_neighbors(
    embeddings: Tensor,
    k: int,
    *,
    chunk: int = 1024,
    columns: int = 65536,
    engine: Literal["torch", "faiss"] = "torch",
) -> Tensor:
    """The k nearest neighbours of every row by cosine, exactly: N,k int64, nearest first, never the row itself.

    A row is left out by its index, so that an exact duplicate of it stays. Blocks of `chunk` x `columns`
    similarities are computed in float32 and merged into the best k so far: beside the N,D embeddings (1.28 M x 2048:
    10.5 GB in float32, half of that if they are given in float16 or bfloat16) memory is bounded by a few times
    chunk x columns x 4 bytes (0.3 GB).

    Args:
        embeddings: N,D of any floating dtype, on any device.
        k: fewer than N.
        chunk: rows at a time.
        columns: candidates at a time.
        engine: `faiss` searches with its exact index on the CPU, which copies all rows as float32.

    Raises:
        ConfigError: for k out of range, an embedding that is not finite, or faiss where it is not installed.
    """
    count = len(embeddings)
    if not 1 <= k < count:
        raise ConfigError(f"k: {k} neighbours of {count} images; it can be 1 to {count - 1}")
    if engine == "faiss":
        return _by_faiss(_unit(embeddings).cpu(), k, chunk)
    found = torch.empty((count, k), dtype=torch.int64, device=embeddings.device)
    with torch.autocast(embeddings.device.type, enabled=False):
        for start in range(0, count, chunk):
            rows = _unit(embeddings[start : start + chunk])
            own = torch.arange(start, start + len(rows), device=rows.device)[:, None]
            best = torch.empty((len(rows), 0), device=rows.device)
            where = torch.empty((len(rows), 0), dtype=torch.int64, device=rows.device)
            for left in range(0, count, columns):
                similar = rows @ _unit(embeddings[left : left + columns]).T
                ids = torch.arange(left, left + similar.shape[1], device=rows.device).expand_as(similar)
                similar = similar.masked_fill(ids == own, -2.0)  # below any cosine
                top = similar.topk(min(k, similar.shape[1]), dim=1)
                best, where = torch.cat([best, top.values], 1), torch.cat([where, top.indices + left], 1)
                keep = best.topk(min(k, best.shape[1]), dim=1)
                best, where = keep.values, where.gather(1, keep.indices)
            found[start : start + len(rows)] = where
    return found


def _by_faiss(rows: Tensor, k: int, chunk: int) -> Tensor:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("engine: faiss is not installed (pip install faiss-cpu); choose torch") from error
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows.numpy())
    parts = []
    for own in torch.arange(len(rows)).split(chunk):
        ids = torch.from_numpy(index.search(rows[own].numpy(), k + 1)[1])
        last = torch.argsort((ids == own[:, None]).to(torch.uint8), dim=1, stable=True)  # itself, if it is among them
        parts.append(torch.gather(ids, 1, last)[:, :k])
    return torch.cat(parts)


def _unit(rows: Tensor) -> Tensor:
    rows = rows.float()
    if not rows.isfinite().all():
        raise ConfigError("embeddings: the teacher gives values that are not finite; nothing is near them")
    return F.normalize(rows, dim=1)


def data_fingerprint(images: ImageDataset) -> str:
    """Says which images these are: their number, indices, and the pixels of up to 256 of them, not augmented."""
    rows = torch.linspace(0, len(images) - 1, min(SAMPLED, len(images))).long()
    pixels = images.subset(rows).take(torch.arange(len(rows))).images.cpu()
    digest = sha256(images.indices.numpy().tobytes())
    digest.update(repr(tuple(pixels.shape)).encode())
    digest.update(pixels.contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_table(path: Path, neighbors: Tensor, images: ImageDataset, teacher: Teacher) -> None:
    """Writes a table of neighbours with what it was made of.

    Args:
        path: of the file, a .safetensors.
        neighbors: N,K int64, rows of `images`.
        images: what was embedded.
        teacher: what embedded them.
    """
    facts = {"data": data_fingerprint(images), "teacher": teacher.fingerprint(), "teacher_name": teacher.name}
    write_tensors(path, {"neighbors": neighbors.to(torch.int32), "indices": images.indices}, facts)


@final
class Neighbors:
    """Batches of anchors with some of their nearest neighbours, from a table that `kd_lightning build-neighbors` wrote.

    Args:
        path: of the table.
        count: neighbours that come with each anchor (CoSS: 15).
        candidates: nearest neighbours that they are drawn from, without replacement (CoSS: 31).

    Raises:
        ConfigError: for a table that is missing, too narrow, or was made of other images or by another teacher.
    """

    def __init__(self, path: str, *, count: int = 15, candidates: int = 31) -> None:
        if not 1 <= count <= candidates:
            raise ConfigError(f"data.neighbors.count: {count} is not from 1 to candidates, {candidates}")
        self.path, self.count, self.candidates = path, count, candidates
        self.rows = torch.empty(0, 0)
        self.facts: dict[str, str] = {}

    def load(self, images: ImageDataset) -> None:
        """Reads the table of these images; `rows` is then N,candidates int64."""
        path = resolve(self.path, "data.neighbors.path")
        try:
            with safe_open(path, "pt") as file:
                table, indices = file.get_tensor("neighbors").long(), file.get_tensor("indices")
                self.facts = {key: json.loads(value) for key, value in file.metadata().items() if key != "format"}
        except (SafetensorError, OSError, AttributeError, ValueError) as error:
            raise ConfigError(f"data.neighbors.path: {path} is no table of neighbours ({error})") from error
        if table.shape[1] < self.candidates:
            raise ConfigError(
                f"data.neighbors.candidates: {path} has {table.shape[1]} neighbours an image, fewer than "
                f"{self.candidates}"
            )
        if not torch.equal(indices, images.indices) or self.facts.get("data") != data_fingerprint(images):
            raise ConfigError(f"data.neighbors.path: {path} was made of other images; {self._remedy}")
        self.rows = table[:, : self.candidates]

    def check_teacher(self, teacher: Teacher) -> None:
        """Refuses a table that another teacher made, or the same with another mean, std, size or weights."""
        if self.facts.get("teacher") != teacher.fingerprint():
            raise ConfigError(
                f"data.neighbors.path: {self.path} was made by another teacher ({self.facts.get('teacher_name')}, "
                f"its weights or preprocessing differ from {teacher.name}'s); {self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        return "make it anew: python -m kd_lightning build-neighbors --config CONFIG"
