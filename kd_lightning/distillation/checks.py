"""Checks of a method: its weights, layers and networks, and the checkpoint that it loads."""

import inspect
import math
from abc import ABCMeta
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning.distillation.class_checks import check_class, check_reads
from kd_lightning.errors import ConfigError
from kd_lightning.models import Network, checkpoints, weights

_CASTS = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}


class CheckedWhenBuilt(ABCMeta):
    """Metaclass that calls `on_built` of a new object after the `__init__` of its class has returned.

    A base class can therefore check attributes that the `__init__` of a subclass sets. The attribute `given` of the
    object contains the names of the arguments with which the object was created. It does not include the arguments that
    a subclass passes to its base class.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        check_class(cls)
        built = super().__call__(*args, **kwargs)
        built.given = {*kwargs}
        check_reads(built)
        built.on_built()
        return built

    @property
    def __signature__(cls) -> inspect.Signature:
        signature = inspect.signature(cls.__init__)
        return signature.replace(parameters=[*signature.parameters.values()][1:])


def check_weight(field: str, value: float) -> None:
    """Raise an error if the weight of a loss term is negative or not finite.

    Raises:
        ConfigError: if the weight is negative or not finite. The message names the field.
    """
    if not 0 <= value < math.inf:
        raise ConfigError(f"{field}: {value} is not a valid weight; give 0 or a positive finite number")


def check_returned(method: LightningModule, terms: Any) -> dict[str, Tensor]:
    """Return what `losses` returned, which must be scalar float tensors by name.

    Raises:
        ConfigError: in all other cases. The message names the method, its file and the line of `losses`.
    """
    if isinstance(terms, dict) and all(_is_term(name, term) for name, term in terms.items()):
        return terms
    name, where = f"model: {type(method).__name__}.losses", _place_of_losses(method)
    if not isinstance(terms, dict):
        raise ConfigError(f"{name} returned {_described(terms)}; return a dict of terms by name, as tensors {where}")
    key, term = next((key, term) for key, term in terms.items() if not _is_term(key, term))
    if not isinstance(key, str):
        raise ConfigError(f"{name} returned a term with the name {key!r}; a name must be a str {where}")
    remedy = "take its mean or sum" if isinstance(term, Tensor) and term.ndim else "compute it from the features"
    raise ConfigError(
        f"{name} returned {_described(term)} as the term {key!r}, but a term is a float tensor without dimensions; "
        f"{remedy} {where}"
    )


def _place_of_losses(method: LightningModule) -> str:
    code = type(method).losses.__code__
    return f"({Path(code.co_filename).name}, line {code.co_firstlineno})"


@contextmanager
def losses_change_no_feature(method: LightningModule) -> Iterator[None]:
    """Raise an error if `losses`, called in the block, changes a feature of a network or the batch in place.

    The terms that the base class adds, such as the soft targets, would read the changed values.

    Raises:
        ConfigError: in this case. The message names the method, its file, the line of `losses`, and the features.
    """
    losses = method.losses

    def watched(*features: Any, **further: Any) -> Any:
        roles = ["student", *["teacher"] * hasattr(method, "teacher"), "batch"]
        seen = [*_tensors(dict(zip(roles, features, strict=False)) | further)]
        versions = [tensor._version for _, tensor in seen]
        terms = losses(*features, **further)
        if changed := [name for (name, x), version in zip(seen, versions, strict=True) if x._version != version]:
            raise ConfigError(
                f"model: {type(method).__name__}.losses changes {', '.join(changed[:3])} in place, and the other terms "
                f"would read the changed values; compute a new tensor, for example with x / 2 instead of x /= 2 "
                f"{_place_of_losses(method)}"
            )
        return terms

    own = vars(method).get("losses")  # a caller may have replaced the function of this instance
    method.losses = watched
    try:
        yield
    finally:
        del method.losses
        if own is not None:
            method.losses = own


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested features with their names, such as `teacher.maps[0]`."""
    if isinstance(value, Tensor):
        if not value.is_inference():  # such a tensor does not count its changes
            yield name, value
    elif isinstance(value, dict) or hasattr(value, "_asdict"):
        for key, inner in (value if isinstance(value, dict) else value._asdict()).items():
            yield from _tensors(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _tensors(inner, f"{name}[{number}]")


def _is_term(name: Any, term: Any) -> bool:
    return isinstance(name, str) and isinstance(term, Tensor) and term.ndim == 0 and term.is_floating_point()


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        shape = f"of shape {' x '.join(map(str, value.shape))}" if value.ndim else "without dimensions"
        return f"a tensor {shape} and type {str(value.dtype).removeprefix('torch.')}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def check_layer(field: str, number: int, *networks: Network) -> None:
    """Raise an error if one of the networks has no stage with this number. Stage 1 is the last stage.

    Raises:
        ConfigError: if there is no such stage. The message names `field` and the number of stages of the network.
    """
    for network in networks:
        stages = len(network.model.feature_info)
        if not 1 <= number <= stages:
            raise ConfigError(
                f"{field}: {number} is given, but {network.name} has {stages} stages; choose 1 to {stages}"
            )


def check_classes(method: str, student: Network) -> None:
    """Raise an error if a method that reads labels is given a student without classes, because the data have no labels.

    Raises:
        ConfigError: in this case. The message names the field.
    """
    if not student.num_classes:
        raise ConfigError(
            f"data.labeled: {method} reads labels, but the data have none, and no classes; choose a method without "
            "labels"
        )


def check_teacher(method: str, student: Network, teacher: Network, *, logits: bool) -> None:
    """Raise an error if the teacher has no weights, or if its logits are read and do not fit the student's classes.

    Args:
        method: Name of the method's class, for the message.
        student: Student of the method.
        teacher: Teacher of the method.
        logits: Whether the method reads the teacher's logits.

    Raises:
        ConfigError: in both cases, or if the logits of a single class are read. The message names the field.
    """
    if not teacher.has_weights:
        raise ConfigError(
            f"model.teacher: {teacher.name} has no weights; set model.teacher.checkpoint to a path, or "
            "model.teacher.pretrained to true"
        )
    if not logits:
        return
    if student.num_classes == 0:
        raise ConfigError(
            f"data.num_classes: {method} reads logits, but the data have no classes; set data.num_classes to "
            f"{teacher.num_classes}, the number of classes of the teacher"
        )
    check_two_classes(method, student)
    if teacher.num_classes != student.num_classes:
        raise ConfigError(
            f"model.teacher.num_classes: the teacher {teacher.name} has {teacher.num_classes} classes, but the student "
            f"and the data have {student.num_classes}, and {method} reads logits; train the teacher on these data first"
        )
    if teacher.fresh_classifier:
        raise ConfigError(
            f"model.teacher.num_classes: {method} reads logits, but the classifier of {teacher.name} is random, "
            f"because its weights were not trained for {teacher.num_classes} classes; remove model.teacher.num_classes"
        )


def check_two_classes(method: str, student: Network) -> None:
    """Raise an error if a method that compares the probabilities of classes is given a student with one class.

    Raises:
        ConfigError: in this case. The message names the field.
    """
    if student.num_classes == 1:
        raise ConfigError(
            f"data.num_classes: {method} compares the probabilities of classes, but there is only one class, whose "
            "probability is always 1; give images of at least two classes"
        )


def check_checkpoint(method: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Raise an error if a checkpoint does not fit the method, has tensors that are not finite, or another optimizer.

    The state of an optimizer can only be resumed by an optimizer of the same class.

    Raises:
        ConfigError: in these cases. The message names the field, and the optimizers or the first tensors.
    """
    saved_optimizer = checkpoint.get("trained_by", method.trained_by)
    if method._trainer is not None and method._trainer.state.fn == "fit" and saved_optimizer != method.trained_by:
        raise ConfigError(
            f"model.optimizer: the checkpoint was saved with {saved_optimizer}, and {method.trained_by} cannot resume "
            f"from its state; choose {saved_optimizer}, or load only the student (model.student.checkpoint)"
        )
    mismatch = checkpoints.mismatch(method.state_dict(), checkpoint["state_dict"])
    if mismatch:
        saved_student = checkpoint.get("network", {}).get("name", "another network")
        raise ConfigError(
            f"ckpt_path: the checkpoint does not fit {type(method).__name__} with student {method.student.name} "
            f"(the student of the checkpoint is {saved_student}): {mismatch}"
        )
    state = checkpoint["state_dict"]
    masks = {name for name, _ in method.named_buffers() if "running_" not in name}
    if problem := weights.unusable(method.state_dict(), state, masks):
        raise ConfigError(f"ckpt_path: the checkpoint contains {problem}; give an earlier checkpoint")


def check_labels(method: LightningModule, data: Any) -> None:
    """Raise an error if the terms of the method read labels, but the data have no labels.

    Raises:
        ConfigError: in this case. The message names the field.
    """
    if method.needs_labels and not data.labeled:
        own_terms_do = not hasattr(method, "teacher") or needs_labels_without_ce(method)
        remedy = "choose" if own_terms_do else "set model.ce_weight to 0, or choose"
        raise ConfigError(
            f"data.labeled: {type(method).__name__} reads labels, but the data have none; {remedy} a method without "
            "labels"
        )


def needs_labels_without_ce(method: LightningModule) -> bool:
    """Return whether the terms of a method would read labels with the `ce_weight` 0."""
    weight, method.ce_weight = method.ce_weight, 0.0
    try:
        return method.needs_labels
    finally:
        method.ce_weight = weight


def check_mixing(method: LightningModule, data: Any) -> None:
    """Raise an error if the terms of the method need one label per image, but the images are mixed.

    Raises:
        ConfigError: in this case. The message names the field.
    """
    if method.one_label and data.mixing:
        raise ConfigError(f"data.mixing: {type(method).__name__} needs one label per image; remove data.mixing")


def check_views(method: LightningModule, data: Any) -> None:
    """Raise an error if the data provide fewer views of each image than the method needs.

    Raises:
        ConfigError: in this case. The message names the field.
    """
    if data.views < method.min_views:
        raise ConfigError(
            f"data.views: {type(method).__name__} needs at least {method.min_views} views of each image, and "
            f"{data.views} is too few"
        )


def check_positions(method: LightningModule, student: Any, teacher: Any = None) -> None:
    """Raise an error if a feature map has fewer positions than the method needs (`min_positions`).

    Args:
        method: Method with the networks.
        student: Features of the student, for one pass or several passes.
        teacher: Features of the teacher. None if there is no teacher.

    Raises:
        ConfigError: in this case. The message names the network, and the fields for the size of the images.
    """
    needed = method.min_positions
    if needed == 1:
        return
    for role, seen in (("student", student), ("teacher", teacher)):
        for features in seen if isinstance(seen, list) else [seen] if seen else []:
            for height, width in (x.shape[-2:] for x in (*features.maps, *features.preactivations)):
                if height * width < needed:
                    raise ConfigError(
                        f"model.{role}: {type(method).__name__} needs feature maps with at least {needed} positions, "
                        f"but a map of {getattr(method, role).name} has {height} x {width}; enlarge the images "
                        f"(data.size or model.{role}.size), or choose a network with larger maps"
                    )


def check_dtype(teacher: Network, data: Any) -> None:
    """Raise an error if trainer.precision would cast the weights of the teacher to another dtype than `teacher.dtype`.

    Raises:
        ConfigError: in this case. The message names the field.
    """
    precision = data.trainer.precision if data.trainer else None
    if teacher.dtype not in (None, _CASTS.get(precision, teacher.dtype)):
        raise ConfigError(
            f"model.teacher.dtype: {teacher.dtype} is given, but trainer.precision {precision} casts the weights of "
            "all networks; remove model.teacher.dtype"
        )


def warn_about_idle_parameters(method: LightningModule, names: list[str]) -> None:
    """Warn about the trainable parameters with these names, which receive no gradient."""
    if names:
        rank_zero_warn(
            f"model: {len(names)} trainable parameters of {type(method).__name__} receive no gradient and keep their "
            f"initial values: {', '.join(names[:3])}"
        )
