"""Base of models that consist of several networks: children, timm's interface and registration."""

from collections.abc import Mapping
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from kd_lightning.models import creation
from kd_lightning.models.network import Network

Child = Network | Mapping[str, Any]
"""A network, or its arguments `name` and `model_kwargs`."""
default_cfgs: dict[str, Any] = {}  # timm's register_model reads it
_INHERITED = ("input_size", "interpolation", "crop_pct", "mean", "std")


class Composite(nn.Module):
    """Base of models that consist of a student and further modules.

    The student is the child `student`, a Network. Only its model is used: the input is already normalised. The
    student's classifier has the name `student.model.<name>`, as in the checkpoint of a run.

    Args:
        student: The student, or its arguments `name` and `model_kwargs`.
        num_classes: Number of outputs of the classifier. Default: that of the student.

    Raises:
        ValueError: if the arguments do not describe a network of timm or of this package.
    """

    def __init__(self, *, student: Child, num_classes: int | None = None) -> None:
        super().__init__()
        self.student = child("student", student, num_classes)
        self.num_classes = self.student.num_classes
        model = self.student.model
        self.num_features = model.num_features
        self.head_hidden_size = self.student.embedding_width
        stages = getattr(model, "feature_info", [])
        self.feature_info = [{**info, "module": f"student.model.{info.get('module', '')}"} for info in stages]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments with which the model can be built again, as values of JSON."""
        return {"student": described(self.student)}

    @property
    def classifier_names(self) -> tuple[str, ...]:
        """Names of the classifiers in the state dict."""
        names = self.student.model.default_cfg.get("classifier") or ()
        return tuple(f"student.model.{name}" for name in ([names] if isinstance(names, str) else names))

    def described(self) -> dict[str, Any]:
        """Return timm's description of the model: the student's, without its weights."""
        student, config = self.student, self.student.model.pretrained_cfg
        inherited = {key: config[key] for key in _INHERITED if config.get(key) is not None}
        if student.size is not None:  # the student may have been built for one size, such as a ViT
            inherited |= {"input_size": (3, student.size, student.size), "fixed_input_size": True}
        names = self.classifier_names
        return {**inherited, "num_classes": self.num_classes, "classifier": names[0] if len(names) == 1 else names}

    def get_classifier(self) -> nn.Module:
        return self.student.model.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        if global_pool is not None:
            raise ValueError("global_pool: a model of several networks has the pooling of its student; remove it")
        set_classes(self.student, num_classes)
        self.num_classes = num_classes

    def forward_features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.student.model.forward_head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def child(field: str, given: Child, num_classes: int | None) -> Network:
    """Return a network of a composite, with the given number of classes. A given network is not copied.

    Raises:
        ValueError: if the arguments are others than `name` and `model_kwargs`, or if the name refers to other files.
    """
    arguments = {"name": given.name} if isinstance(given, Network) else given
    name = arguments.get("name") if isinstance(arguments, Mapping) else None
    if not isinstance(name, str) or {*arguments} - {"name", "model_kwargs"}:
        raise ValueError(f"{field}: give name and model_kwargs of a network")
    if ":" in name:  # hf_hub:, local-dir:
        raise ValueError(f"{field}.name: {name} is described in other files; choose a network of timm or cifar_*")
    network = given if isinstance(given, Network) else Network(**arguments, num_classes=num_classes)
    if num_classes is not None and network.num_classes != num_classes:
        set_classes(network, num_classes)
    return network


def set_classes(network: Network, num_classes: int) -> None:
    """Replace the classifier of a network by a new one with another number of classes; 0 removes it."""
    creation.set_classes(network.model, num_classes)
    network.num_classes, network.fresh_classifier, network.class_names = num_classes, True, None


def described(network: Network) -> dict[str, Any]:
    """Return the arguments with which a network can be built again."""
    return {"name": network.name, "model_kwargs": network.model_kwargs}


def assembled(name: str, *, student: Network, **others: Any) -> Network:
    """Return a Network of a composite that consists of given networks, which are not copied.

    The composite has the classes, mean, std and size of the student.

    Raises:
        ConfigError: if the networks cannot be combined.
    """
    kwargs = {"student": student, **others}
    network = Network(name, num_classes=student.num_classes, size=student.size, model_kwargs=kwargs)
    network.model_kwargs, network.class_names = network.model.arguments, student.class_names
    network.mean, network.std, network.interpolation = student.mean, student.std, student.interpolation
    return network


def is_composite(name: str | None) -> bool:
    """Return whether a name is that of a registered composite."""
    return name in default_cfgs


def register(kind: type[Composite], name: str) -> None:
    """Register a composite with timm under a name."""
    default_cfgs.update(generate_default_cfgs({name: {"num_classes": -1, "input_size": None}}))

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        not_used = ("in_chans", "img_size", "global_pool")  # timm adds them from its description
        model = build_model_with_cfg(kind, name, pretrained, kwargs_filter=not_used, **kwargs)
        if not pretrained:
            model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, **model.described()}
        return model

    create.__name__ = name
    register_model(create)
