"""The inputs of a run, such as the teacher and the images: a description to recognise them when a run is resumed."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn

from kd_lightning.data import ImageData
from kd_lightning.data.description import describe_split
from kd_lightning.errors import ConfigError
from kd_lightning.runs.state_form import check_form, odd


def describe(method: LightningModule, data: ImageData) -> dict[str, Any]:
    """Return a description of the teacher, of the classes and of the images of each split.

    It also describes further networks of the method, such as an assistant, if their starting weights are not random.
    No image file is read. The description contains the names of all files, and the sizes of at most 10,000 files per
    split. For images in memory it also contains a hash of the pixels of up to 256 images.
    """
    teacher = getattr(method, "teacher", None)
    described: dict[str, Any] = {"classes": [*data.class_names]}
    if teacher is not None:
        described["teacher"] = teacher.fingerprint()
    further = {name: declared.network for name, declared in method.further.items()}
    if given := {name: network.fingerprint() for name, network in further.items() if network.has_weights}:
        described["further"] = given
    if data.neighbors:
        described["neighbours"] = sha256(data.neighbors.rows.numpy().tobytes()).hexdigest()
    return described | {split: describe_split(images) for split, images in data.datasets.items()}


def check_inputs(content: Mapping[str, Any], now: dict[str, Any], path: Path, *, allowed: bool) -> None:
    """Raise an error if the inputs have changed since a checkpoint was saved; if this is allowed, print a warning.

    The rule is the same for a run that is resumed and for a new run that begins from the checkpoint, because the result
    of either would belong to neither of the inputs.

    Args:
        content: content of the checkpoint, with a description of the inputs. A checkpoint of an earlier version of this
            package has no description; then a warning is printed.
        now: description of the current inputs.
        path: path of the checkpoint, for the message.
        allowed: value of `protocol.allow_changed_inputs`.

    Raises:
        ConfigError: if the inputs have changed, or if the description has another form. The message says what has
            changed, or names the entry.
    """
    if "inputs" not in content:
        rank_zero_warn(
            f"ckpt_path: {path} has no description of its inputs, so that it is unknown whether the teacher or the "
            "images have changed"
        )
        return
    before = content["inputs"]
    _check_description(before, now, path)
    changes = "; ".join(_changes(before, now))
    if not changes:
        return
    if not allowed:
        raise ConfigError(
            f"ckpt_path: the inputs of the run have changed since it was saved: {changes}; restore these inputs, begin "
            "a new run without ckpt_path, or set protocol.allow_changed_inputs to true"
        )
    rank_zero_warn(f"ckpt_path: the inputs differ from those of the checkpoint: {changes}")


def _check_description(before: Any, now: dict[str, Any], path: Path) -> None:
    """Raise an error if a description has another form than the current one, or lacks a part that each one has."""
    if not isinstance(before, Mapping):
        raise odd(path, "inputs", "has another form")
    check_form({"classes": ["cat"], "train": {}}, before, "inputs", path)
    for name, part in before.items():
        if name in _SPLITS:
            check_form({"images": 0, "labels": ""}, part, f"inputs.{name}", path)
            part = {key: value for key, value in part.items() if key != "images"}
            check_form(dict.fromkeys(part, ""), part, f"inputs.{name}", path)
            if not part.keys() & {"names", "pixels"} and now.get(name, {}).keys() & {"names", "pixels"}:
                raise odd(path, f"inputs.{name}.names", "is missing")
        elif name in ("teacher", "neighbours"):
            check_form("", part, f"inputs.{name}", path)
        elif name == "further":
            check_form(dict.fromkeys(part, "") if isinstance(part, Mapping) else {}, part, "inputs.further", path)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if before.get("teacher") != now.get("teacher"):
        yield "the teacher has other weights, or another mean, std or size"
    earlier, later = (each.get("further", {}) for each in (before, now))
    for name in sorted(earlier.keys() | later.keys()):
        if earlier.get(name) != later.get(name):
            yield f"the {name} has other starting weights, or another mean, std or size"
    if before.get("neighbours") != now.get("neighbours"):
        yield "the table of data.neighbors has other neighbours"
    old, new = before["classes"], now["classes"]
    if [*old] != [*new]:
        first = next((f"{a} is now {b}" for a, b in zip(old, new, strict=False) if a != b), "")
        yield f"the classes ({first or f'{len(old)} before, {len(new)} now'})"
    for split in _SPLITS:
        described, earlier = now.get(split), before.get(split)
        if described is None or earlier is None:
            if split == "val" and described is not earlier:
                yield f"there are {'now' if described else 'no longer'} validation images"
            continue
        if earlier["images"] != described["images"]:
            yield f"the number of {split} images ({earlier['images']} before, {described['images']} now)"
            continue
        for part, words in _PARTS.items():
            if part in earlier and part in described and earlier[part] != described[part]:
                yield f"the {words} of the {split} images"
                break


_SPLITS = ("train", "val", "test")
"""Splits of the images. The images of the test are not read if `protocol.test` is false."""
_PARTS = {"names": "file names", "labels": "labels", "sizes": "file sizes", "pixels": "pixels"}
"""Parts of the description of a split, in words."""
