"""The student of a run, built without the teacher: from the folder of the run, or from student.safetensors alone."""

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from kd_lightning.errors import ConfigError
from kd_lightning.models import checkpoints
from kd_lightning.runs.selected import CONFIG

_NEEDED = ("name", "model_kwargs", "num_classes", "mean", "std", "classifier_trained", "side")
"""Facts without which a file of weights does not replace the folder of its run."""
_DOWNLOADED = ("hf_hub:", "hf-hub:", "local-dir:")
"""Beginnings of the names of networks that are described in other files, on a hub or in a folder."""


class StudentAlone(NamedTuple):
    """The arguments of a student's `Network`, and facts about it."""

    arguments: dict[str, Any]
    classifier_trained: bool | None
    """Whether the run has trained the classifier. None if it is unknown, because the file is not of a run."""
    facts: dict[str, Any]
    """Facts in the file of the weights: classes, side and crop of the images, ..."""


def of_run(config: dict[str, Any], path: Path, weights: Path, field: str = "ckpt_path") -> StudentAlone:
    """Return the student of a run with the weights of a file. The weights of the teacher are not read.

    Args:
        config: content of config.yaml, perhaps with changed arguments of the student.
        path: path of config.yaml. It need not exist.
        weights: checkpoint of the run, or its student.safetensors.
        field: field of the path of the weights, for error messages.

    Raises:
        ConfigError: if the weights cannot be read, or if the config names no student.
    """
    facts = checkpoints.read(weights, field)[1]
    student = (config["model"].get("init_args") or {}).get("student")
    if not (isinstance(student, dict) and isinstance(student.get("name"), str)):
        raise ConfigError(
            f"{path}: the name of the student is missing (model.init_args.student.name); give the files of a run"
        )
    kept = ("name", "mean", "std", "size", "model_kwargs")  # the weights determine the number of classes
    deploys_more = facts.get("model_kwargs") is not None and facts.get("name") != student["name"]
    described = facts if deploys_more else student
    arguments = {key: described[key] for key in kept if described.get(key) is not None}
    arguments["checkpoint"] = str(weights.absolute())
    trained = facts.get("classifier_trained")
    if trained is None and path.is_file():  # an earlier version wrote the file
        trained = _trains_classifier(path, arguments, facts.get("num_classes"), field)
    return StudentAlone(arguments, trained, facts)


def is_alone(weights: Path) -> bool:
    """Return whether a file is a student that is not in the folder of a run."""
    return weights.suffix == ".safetensors" and not weights.with_name(CONFIG).is_file()


def of_file(weights: Path, field: str = "ckpt_path") -> StudentAlone:
    """Return the student of a file that is not in the folder of a run, according to the metadata of the file.

    Raises:
        ConfigError: if the file cannot be read, or if its metadata do not suffice. The message names what is missing.
    """
    facts = checkpoints.read(weights, field)[1]
    if missing := [fact for fact in _NEEDED if facts.get(fact) is None]:
        raise ConfigError(
            f"{field}: {weights} cannot be used without the folder of its run, because its metadata lack "
            f"{', '.join(missing)}; give the folder of the run"
        )
    if facts["name"].startswith(_DOWNLOADED):
        raise ConfigError(
            f"{field}: {weights} cannot be used without the folder of its run, because its network {facts['name']} is "
            "described in other files; give the folder of the run"
        )
    arguments = {name: facts[name] for name in ("name", "model_kwargs", "mean", "std", "size")}
    arguments["checkpoint"] = str(weights.absolute())
    return StudentAlone(arguments, facts["classifier_trained"], facts)


def _trains_classifier(path: Path, student: dict[str, Any], classes: int | None, field: str) -> bool:
    """Return whether the method of a run trains the student's classifier; the student also replaces the teacher."""
    from kd_lightning.runs.loading import build, read_config  # this module imports the parser, which few commands need

    changed = read_config(path, field)
    arguments = changed["model"]["init_args"]
    arguments["student"] = {**arguments["student"], "pretrained": False, "checkpoint": student["checkpoint"]}
    noise = {"class_path": "kd_lightning.data.RandomImages", "init_args": {"classes": max(1, classes or 0)}}
    changed["data"] = noise if classes is not None else changed["data"]  # the images of the run are not needed
    if not isinstance(arguments.get("teacher"), dict):
        return build(changed, path)[0].trains_classifier
    with_teacher = deepcopy(changed)
    arguments["teacher"] = {key: student.get(key) for key in ("name", "checkpoint", "model_kwargs")}
    try:
        return build(changed, path)[0].trains_classifier
    except ConfigError:  # some methods have conditions that only the teacher fulfils
        return build(with_teacher, path)[0].trains_classifier
