"""Read checkpoints of any origin without executing code, and write checkpoints of this package."""

import argparse
import json
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.atomic import write_tensors
from kd_lightning.io.paths import check_regular
from kd_lightning.models.file_facts import checked

State = dict[str, Tensor]
_CONTAINERS = (
    "state_dict",
    "model",
    "net",
    "model_state_dict",
    "model_state",
    "state_dict_ema",
    "model_ema",
    "network",
)
_STUDENT = "student.safetensors"
"""File with the student in the folder of a run."""
STUDENT_PREFIX = "student.model."
"""Prefix of the student's weights in the checkpoint of a run."""
HEADS = ("fc", "linear", "classifier", "head")


def read(path: Path, field: str = "checkpoint") -> tuple[State, dict[str, Any]]:
    """Return the tensors of a checkpoint by name, and the facts about its network (mean, std, ...).

    Only files that this package wrote contain such facts. The file is a safetensors file, or a torch file that contains
    a state dict, directly or under one of the usual keys (`load`).

    Raises:
        ConfigError: if the file is not a checkpoint, is truncated, or would run code, or if a fact has a wrong type or
            an impossible value.
    """
    if path.suffix != ".safetensors":
        return find(load(path, field), path, field)
    _check_is_file(path, field)
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("network", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            return state, checked(facts, f"{field}: {path}")
    except ConfigError:
        raise
    except SafetensorError as error:
        raise ConfigError(f"{field}: {path} is corrupt or truncated ({error})") from error
    except Exception as error:
        raise ConfigError(f"{field}: {path} cannot be read: {one_line(error)}") from error


def load(path: Path, field: str = "checkpoint", *, mmap: bool = False) -> Any:
    """Return the content of a torch file.

    It is read with `weights_only`, which rejects a pickle that would run code. RepDistiller's files also contain an
    argparse.Namespace. It is allowed, because it contains only values and cannot run code.

    Args:
        path: path of the file.
        field: field of the config that contains the path, for the message.
        mmap: whether the tensors remain in the file until they are used. Files of torch before 1.6 are read completely.

    Raises:
        ConfigError: if the file cannot be read, is truncated, or would run code.
    """
    _check_is_file(path, field)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except Exception as error:  # torch.load raises many types of error for unreadable files
        reason = one_line(error)
        if type(error).__name__ == "UnpicklingError" or "weights_only" in str(error):
            reason = "it is a pickle with more than weights, and loading it could run code; save a state dict instead"
        raise ConfigError(f"{field}: {path} cannot be read: {reason}") from error


def _check_is_file(path: Path, field: str) -> None:
    if path.is_dir():
        advice = f"give {path / _STUDENT}" if (path / _STUDENT).is_file() else "give a file in it"
        raise ConfigError(f"{field}: {path} is a folder; {advice}")
    check_regular(path, field)


def find(content: Any, path: Path, field: str = "checkpoint") -> tuple[State, dict[str, Any]]:
    """Return the tensors in the content of a torch file by name, and the facts about its network.

    Args:
        content: content of the file.
        path: path of the file, for the message.
        field: field of the config that contains the path, for the message.

    Raises:
        ConfigError: if there is no state dict, or if a fact has a wrong type or an impossible value.
    """
    candidates = [content] + [content[key] for key in _CONTAINERS if isinstance(content, Mapping) and key in content]
    for state in candidates:
        if isinstance(state, Mapping) and state and all(map(_is_entry, state.items())):
            network = content.get("network")  # other programs write a name or weights there
            return dict(state), checked(network, f"{field}: {path}") if _is_table_of_facts(network) else {}
    shown = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise ConfigError(f"{field}: {path} contains no state dict (it contains {shown[:200]})")


def _is_entry(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _is_table_of_facts(entry: Any) -> bool:
    return isinstance(entry, Mapping) and not all(isinstance(value, Tensor) for value in entry.values())


def clean(state: State, model: nn.Module, field: str = "checkpoint") -> State:
    """Return the entries of a state dict that belong to `model`, with the names that `model` uses.

    A wrapper may have put any prefix before the keys (`module.`, `_orig_mod.`, `student.model.`, `backbone.`, ...). The
    prefix that occurs with most of the model's names is removed. If the classifier has another usual name (`linear`,
    `fc`, ...), it is renamed to the name that the model uses.

    In a checkpoint of a run, this is the prefix of the student, which may have an assistant of the same architecture.
    If `model` consists of several networks of the method, the method's other layers are left out.

    Raises:
        ConfigError: if two prefixes fit equally well, because the file contains two networks.
    """
    heads = classifiers(model)
    names = {name for name in model.state_dict() if not name.startswith(tuple(f"{head}." for head in heads))}
    votes = Counter(key[: -len(name)] for key in state for name in _endings(key) if name in names)
    best = votes.most_common(2)
    if best and votes[STUDENT_PREFIX] == best[0][1]:
        best = [(STUDENT_PREFIX, votes[STUDENT_PREFIX])]
    if len(best) == 2 and best[0][1] == best[1][1] and 2 * best[0][1] >= len(names):
        raise ConfigError(
            f"{field}: the file contains two networks that fit equally well, with the prefixes {best[0][0]!r} and "
            f"{best[1][0]!r}; save only one of them"
        )
    prefix = best[0][0] if best else ""
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    is_composite = any(name.startswith(STUDENT_PREFIX) for name in names)
    if is_composite:
        children = {name.partition(".")[0] for name in model.state_dict()}
        state = {key: value for key, value in state.items() if key.partition(".")[0] in children}
    if len(heads) == 1 and not is_composite and f"{heads[0]}.weight" not in state:
        head, other = heads[0], next((name for name in HEADS if f"{name}.weight" in state), None)
        if other:
            state = {f"{head}{k.removeprefix(other)}" if k.startswith(f"{other}.") else k: v for k, v in state.items()}
    for name, value in model.state_dict().items():  # old files lack the counts
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.zeros_like(value))
    return state


def classifiers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a model's classifiers. A distilled network has two; an encoder may have none."""
    names = model.default_cfg.get("classifier") if hasattr(model, "default_cfg") else None
    return (names,) if isinstance(names, str) else tuple(names or ())


def _endings(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return one line with the first keys in which two state dicts differ, or '' if the two do not differ."""
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in given and given[key].shape != expected[key].shape
    ]
    kinds = (("missing", missing), ("not expected", unexpected), ("of another shape", shapes))
    return "; ".join(f"{len(keys)} {kind}: {', '.join(keys[:3])}" for kind, keys in kinds if keys)


def write(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write the weights of a network, and the facts that are needed to use them, into a safetensors file."""
    write_tensors(path, state, {"network": facts})
