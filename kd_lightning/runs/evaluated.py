"""The config of a command that evaluates a checkpoint, such as `test` and `predict`."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from kd_lightning.config.classes import import_class
from kd_lightning.data.new_images import NewImages
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import expand, resolve
from kd_lightning.models import checkpoints
from kd_lightning.runs import student_alone
from kd_lightning.runs.selected import CONFIG, argument_of_data, is_run, result

_KEPT = ("eval_batch_size", "num_workers", "on_error")
"""Arguments of the run's data that also concern new images."""


def use_weights(config: Namespace) -> None:
    """Change a config so that the student is built with the weights of `ckpt_path`, and not with its starting weights.

    The file with the starting weights may therefore be missing.
    """
    student, given = config.model.init_args.get("student"), config.get("ckpt_path")
    only_student = str(given).endswith(".safetensors")
    if given and student and (only_student or student.get("checkpoint") or student.get("pretrained")):
        student.checkpoint, student.pretrained = str(Path(given).absolute()), False
        config.ckpt_path = None if only_student else given


def use_student_alone(config: Namespace) -> None:
    """Change the config of `predict` so that only the student is built, with the weights of `ckpt_path`.

    The method and its teacher are not built, so that the weights of the teacher may be missing. If a file of another
    program or of an earlier version is not in the folder of a run, the method is built, because only the method knows
    whether it trains the student's classifier.

    Raises:
        ConfigError: if the weights cannot be read.
    """
    weights = resolve(config.ckpt_path, "ckpt_path")
    path = weights.with_name(CONFIG)
    student = student_alone.of_run({"model": config.model.as_dict()}, path, weights)
    if student.classifier_trained is None:
        use_weights(config)
        return
    arguments = Namespace(student=Namespace(**student.arguments), classifier_trained=student.classifier_trained)
    config.model = Namespace(class_path="kd_lightning.runs.trained_student._TrainedStudent", init_args=arguments)
    config.ckpt_path = None


def folder_of(config: Namespace) -> Path:
    """Return the folder of the run whose weights a command uses; the working directory if they are not of a run."""
    weights = config.get("ckpt_path") or (config.model.init_args.get("student") or {}).get("checkpoint")
    folder = expand(weights).parent if weights else Path()
    return folder if is_run(folder) else Path()


def report_starting_weights(config: Namespace, method: StudentModule) -> None:
    """Print one line about weights that no checkpoint of a run replaces; nothing if `ckpt_path` is given."""
    student = config.model.init_args.get("student")
    if config.get("ckpt_path") or not student or hasattr(method, "classifier_trained"):
        return
    weights = student.get("checkpoint") or f"the pretrained weights of {student.get('name')}"
    line = f"no checkpoint of a run is used: the student has the weights of model.student ({weights})"
    if method.student.fresh_classifier and method.trains_classifier:
        line += "; its classifier is new and random, so its classes mean nothing"
    rank_zero_info(line)


def report_size(config: Namespace) -> None:
    """Print one line if images are predicted with another size than that with which the run was trained.

    A `size` that is that of the run's own config is not reported. In a data set of the user, it may be something else
    than the side of the images.
    """
    weights = resolve(config.ckpt_path, "ckpt_path")
    given = (config.data.get("init_args") or Namespace()).get("size")
    if type(given) is not int or given == argument_of_data(weights.parent, "size"):
        return
    trained = checkpoints.read(weights, "ckpt_path")[1].get("side") or result(weights.parent, "data", "side")
    if type(trained) is int and given != trained:
        rank_zero_info(
            f"data.size: the images are resized to {given} pixels, but the run was trained with images of {trained} "
            "pixels"
        )


def moved_images(config: Namespace, line: str) -> str:
    """Return the end of an error message for images of a run that are no longer at their path; '' for other errors."""
    path = (config.data.get("init_args") or Namespace()).get("path")
    missing = line.startswith("data.path: ") and " does not exist" in line
    if not missing or path is None or path != argument_of_data(folder_of(config), "path"):
        return ""
    return "the run was trained with this path; if its images have been moved, give --data.path PATH"


def new_images(config: Namespace, paths: list[str]) -> Namespace:
    """Return the config of `NewImages`, which are prepared as the evaluation of the run prepares its images.

    Args:
        config: config of the command, with the data of the run.
        paths: paths of folders, images or lists of images.

    Raises:
        ConfigError: if the size of the run's images is unknown.
    """
    given = config.ckpt_path or config.model.init_args.student.checkpoint
    weights = resolve(given, "ckpt_path")
    facts = checkpoints.read(weights, "ckpt_path")[1]
    arguments = config.data.get("init_args") or Namespace()
    size = size_of_images(config.data.class_path, arguments, weights.parent, facts)
    if size is None:
        raise ConfigError(
            f"data.size: the size of the images with which {weights} was trained is unknown; give --data.size"
        )
    classes: dict[str, Any] = {"num_classes": facts.get("num_classes")}
    classes |= {fact: list(facts.get(fact) or []) for fact in ("class_names", "class_ids")}
    shape: dict[str, Any] = {"size": size, "crop_ratio": arguments.get("crop_ratio") or 1.0}
    kept = {name: arguments[name] for name in _KEPT if arguments.get(name) is not None}
    content = Namespace(paths=paths, **shape, **classes, **kept)
    return Namespace(class_path=f"{NewImages.__module__}.{NewImages.__name__}", init_args=content)


def size_of_images(class_path: str, arguments: Any, folder: Path, facts: dict[str, Any]) -> int | None:
    """Return the side of a run's images: as set in its config, as found by the run, or of the published data set.

    If they are unknown, return the side to which the network resizes its images.
    """
    found = (result(folder, "data", "side"), facts.get("side"))
    official = getattr(import_class(class_path), "official_side", None)
    sizes = (arguments.get("size"), *found, official, facts.get("size"))
    return next((size for size in sizes if type(size) is int and size > 0), None)
