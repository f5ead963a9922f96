"""The inputs of a run, the teacher and the images: a description to recognise them when the run is resumed."""

import os
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn

from kd_lightning.data import ImageData
from kd_lightning.data.files import Files
from kd_lightning.data.images import ImageDataset, StoredImages
from kd_lightning.data.neighbors import data_fingerprint
from kd_lightning.errors import ConfigError

_MOST_FILES = 10_000
"""Number of files of a split whose sizes are read."""


def describe(method: LightningModule, data: ImageData) -> dict[str, Any]:
    """Return a description of the teacher, of the classes and of the images of each split.

    No image file is read. It contains the names of all files, and the sizes of at most 10,000 files per split. For
    images in memory it also contains a hash of the pixels of up to 256 images.
    """
    teacher = getattr(method, "teacher", None)
    described: dict[str, Any] = {"classes": [*data.class_names]}
    if teacher is not None:
        described["teacher"] = teacher.fingerprint()
    if data.neighbors:
        described["neighbours"] = sha256(data.neighbors.rows.numpy().tobytes()).hexdigest()
    return described | {split: _describe_split(images) for split, images in data.datasets.items()}


def _describe_split(images: ImageDataset) -> dict[str, Any]:
    described: dict[str, Any] = {"images": len(images), "labels": sha256(images.labels.numpy().tobytes()).hexdigest()}
    if isinstance(images, StoredImages):
        described["pixels"] = data_fingerprint(images)
        names = images.names
        names = names.subset(images.places) if isinstance(names, Files) else names and images.paths()
    else:
        names = images.sources.names
    if isinstance(names, Files):
        described["names"] = sha256(b"\n".join(names.relative.tolist())).hexdigest()
        rows = np.linspace(0, len(names) - 1, min(len(names), _MOST_FILES)).astype(int)
        sizes = [_size(os.path.join(os.fsencode(names.root), names.relative[row])) for row in rows]
        described["sizes"] = sha256(repr(sizes).encode()).hexdigest()
    elif names:
        described["names"] = sha256("\n".join(map(str, names)).encode("utf-8", "replace")).hexdigest()
    return described


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def check_inputs(before: Any, now: dict[str, Any], *, resumes: bool, allowed: bool) -> None:
    """Raise an error if the inputs of a resumed run have changed; warn if they may.

    Args:
        before: description in the checkpoint; None if it has no description.
        now: description of the current inputs.
        resumes: whether the run continues in its folder. Otherwise, a new run begins from the checkpoint.
        allowed: value of `protocol.allow_changed_inputs`.

    Raises:
        ConfigError: in this case. The message says what has changed.
    """
    changes = "; ".join(_changes(before, now)) if isinstance(before, dict) else ""
    if not changes:
        return
    if resumes and not allowed:
        raise ConfigError(
            f"ckpt_path: the inputs of the run have changed since it was saved: {changes}; restore these inputs, begin "
            "a new run, or set protocol.allow_changed_inputs to true"
        )
    rank_zero_warn(f"ckpt_path: the inputs differ from those of the checkpoint: {changes}")


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if before.get("teacher") != now.get("teacher"):
        yield "the teacher has other weights, or another mean, std or size"
    if before.get("neighbours") != now.get("neighbours"):
        yield "the table of data.neighbors has other neighbours"
    old, new = before.get("classes"), now["classes"]
    if isinstance(old, list) and old != new:
        first = next((f"{a} is now {b}" for a, b in zip(old, new, strict=False) if a != b), "")
        yield f"the classes ({first or f'{len(old)} before, {len(new)} now'})"
    for split, described in now.items():
        earlier = before.get(split)
        if not (isinstance(described, dict) and isinstance(earlier, dict)):
            continue
        if earlier.get("images") != described["images"]:
            yield f"the number of {split} images ({earlier.get('images')} before, {described['images']} now)"
            continue
        for part, words in _PARTS.items():
            if part in earlier and part in described and earlier[part] != described[part]:
                yield f"the {words} of the {split} images"
                break


_PARTS = {"names": "file names", "labels": "labels", "sizes": "file sizes", "pixels": "pixels"}
"""Parts of the description of a split, in words."""
