"""Network: any timm model by name, which normalises its own input and gives its features without a hook."""

import json
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from typing import Any, Literal, final

import timm
import torch
import torch.nn.functional as F
from timm.data import ImageNetInfo, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kd_lightning.batch import LARGEST_SIDE, as_float
from kd_lightning.errors import ConfigError, nearest, one_line
from kd_lightning.io.paths import resolve
from kd_lightning.models import checkpoints
from kd_lightning.models.features import Features

Channels = tuple[float, float, float]


@final
class Network(nn.Module):
    """A timm model with its own normalisation in front: takes images as uint8 or in [0, 1].

    Args:
        name: any model that timm knows (`cifar_resnet20`, `vit_small_patch14_dinov2.lvd142m`, `hf_hub:...`).
        pretrained: load the weights that timm has for the name (from a hub, or shipped here: `cifar_resnet20.digits`).
        checkpoint: path of a local file with weights (safetensors, torch, or a checkpoint of this project).
        num_classes: width of the classifier; the weights' own where none is given, 0 where they are a backbone alone.
            Another width than the weights' keeps the backbone and starts a fresh classifier. 0 removes it: the logits
            are then the embedding.
        mean: the mean that the model's input is normalised by, one value a channel; default: the weights' own.
        std: the standard deviation, likewise.
        size: side in pixels that images are resized to; default: the size the weights were trained at where timm
            or the file says it, the only size that the model takes (ViTs), else the images' own.
        dtype: what a teacher computes in, weights included, whatever trainer.precision is: `bfloat16` and `float16`
            take half its memory. Default: as trainer.precision says.
        model_kwargs: further arguments for the timm model (`drop_path_rate: 0.1`, `shortcut: B`, `img_size: 32`).

    Raises:
        ConfigError: for an unknown name (with the nearest), arguments that the model does not take, weights that are
            missing, unreadable or another architecture's (with the first keys that differ).
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        checkpoint: str | None = None,
        num_classes: int | None = None,
        mean: Channels | None = None,
        std: Channels | None = None,
        size: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pretrained and checkpoint:
            raise ConfigError(f"{name}: pretrained and checkpoint are both given; keep one of them")
        for field, number in (("num_classes", num_classes), ("size", size)):
            if number is not None and number < (0 if field == "num_classes" else 1):
                raise ConfigError(f"{name}: {field} is {number}; it must be positive")
        if size is not None and size > LARGEST_SIDE:
            raise ConfigError(f"{name}: size is {size}; it can be up to {LARGEST_SIDE} pixels")
        if std is not None and min(std) <= 0:
            raise ConfigError(f"{name}: std is {std}; every channel's must be above 0")
        self.name, self.frozen = name, False
        facts: dict[str, Any] = {}
        own_classes = {} if num_classes is None else {"num_classes": num_classes}
        self.has_weights = pretrained or checkpoint is not None
        # weights that are loaded cost no random numbers: a seed gives the same student whatever its teacher is
        with torch.random.fork_rng(devices=[], enabled=self.has_weights):
            if checkpoint is None:
                self.model = _create(name, pretrained, {**own_classes, **(model_kwargs or {})})
                trained_for = self.model.pretrained_cfg.get("num_classes")
            else:
                self.model = _create(name, False, model_kwargs or {})
                facts, trained_for = _load(self.model, name, checkpoint)
                if num_classes is not None and num_classes != trained_for:
                    self.model.reset_classifier(num_classes)
        self.num_classes: int = self.model.num_classes
        self.class_names = _class_names(self.model, facts, pretrained) if self.num_classes == trained_for else None
        self.fresh_classifier = not self.has_weights or self.num_classes != trained_for
        self.embedding_width: int = self.model.head_hidden_size
        config = resolve_model_data_config(self.model)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", _channels(mean or facts.get("mean") or config["mean"]), persistent=False)
        self.register_buffer("std", _channels(std or facts.get("std") or config["std"]), persistent=False)
        self.size = size or facts.get("size") or _own_size(self.model, pretrained)
        self.interpolation = "bicubic" if config["interpolation"] == "bicubic" else "bilinear"
        self.dtype = getattr(torch, dtype) if dtype else None
        if dtype:
            self.model.to(self.dtype)

    def freeze(self) -> "Network":
        """Makes the network a constant: no gradients, and eval mode whatever `.train()` it is sent."""
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Network":
        """As torch's, except that a frozen network stays in eval mode."""
        return super().train(mode and not self.frozen)

    def normalize(self, images: Tensor) -> Tensor:
        """Images N,3,H,W (uint8, or float in [0, 1]) as the model wants them: size, mean, std, dtype."""
        x = as_float(images)
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode=self.interpolation, antialias=True).clamp(0, 1)
        return ((x - self.mean.float()) / self.std.float()).to(self.dtype or self.mean.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Logits N,K of images N,3,H,W (uint8, or float in [0, 1])."""
        with self._precision(images):
            return self._given(self.model(self.normalize(images)))

    def features(
        self,
        images: Tensor,
        *,
        maps: int = 0,
        preactivations: int = 0,
        tokens: bool = False,
        attention: bool = False,
        embedding: bool = False,
        logits: bool = False,
    ) -> Features:
        """What is asked for of images N,3,H,W, in one forward pass that computes nothing else.

        Args:
            images: uint8, or float in [0, 1].
            maps: how many of the last stages' feature maps; the last one is what pooling reads, or, where a
                network widens it first (EfficientNet's head convolution), the last stage before that.
            tokens: the token sequence after the final norm.
            embedding: what the classifier reads.
            logits: the classifier's output.

        Raises:
            ConfigError: if timm cannot give maps of this model.
        """
        if maps and not hasattr(self.model, "forward_intermediates"):
            raise ConfigError(f"{self.name}: timm gives no feature maps of this model; choose another network")
        with self._precision(images):
            seen = self._seen(images, maps, tokens, embedding, logits)
        maps_given = [self._given(part) for part in seen.maps]
        others = {name: self._given(part) for name, part in seen._asdict().items() if isinstance(part, Tensor)}
        return seen._replace(maps=maps_given, **others)

    def _seen(self, images: Tensor, maps: int, tokens: bool, embedding: bool, logits: bool) -> Features:
        x, model = self.normalize(images), self.model
        if not (maps or tokens or embedding or logits):
            return Features()
        if not (tokens or embedding or logits):
            return Features(_intermediates(model, x, maps, only=True))
        if not (maps or tokens or embedding):
            return Features(logits=model(x))
        final, taken = _intermediates(model, x, maps) if maps else (model.forward_features(x), [])
        vectors = model.forward_head(final, pre_logits=True) if embedding else None
        scores = None
        if logits:
            classifier = model.get_classifier()
            reads_vectors = isinstance(classifier, nn.Linear) and vectors is not None
            scores = classifier(vectors) if reads_vectors else model.forward_head(final)
        sequence = final if tokens and final.ndim == 3 else None
        return Features(taken, tokens=sequence, embedding=vectors, logits=scores)

    def _precision(self, images: Tensor) -> AbstractContextManager:
        return torch.autocast(images.device.type, enabled=False) if self.dtype else nullcontext()

    def _given(self, x: Tensor) -> Tensor:
        """An output of a network with a dtype of its own, in what the rest of the run computes in."""
        return x.to(self.mean.dtype) if self.dtype else x

    def facts(self) -> dict[str, Any]:
        """What a file must say beside the weights so that they are used as they were trained."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "size": self.size,
        }

    def fingerprint(self) -> str:
        """Changes with any weight, and with mean, std and size."""
        digest = sha256(json.dumps(self.facts(), sort_keys=True).encode())
        for name, value in self.model.state_dict().items():
            digest.update(
                name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def macs(self, side: int) -> int:
        """Multiply-accumulates of one image of `side` pixels, counted by torch (half of its FLOPs)."""
        was_training = self.training
        self.eval()
        with FlopCounterMode(display=False) as counter:
            self(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.mean.device))
        self.train(was_training)
        return counter.get_total_flops() // 2


def _create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    local = not name.startswith(("hf_hub:", "hf-hub:", "local-dir:"))
    base, _, tag = name.partition(".")
    if local and not timm.is_model(base):
        raise ConfigError(f"name: timm has no model {name!r}{nearest(base, timm.list_models())}")
    if local and tag and not timm.is_model_pretrained(name):
        raise ConfigError(f"name: timm has no weights {name!r}{nearest(name, timm.list_pretrained(f'{base}.*'))}")
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{name}: timm refuses model_kwargs {kwargs}: {error}") from error
    except (OSError, RuntimeError) as error:
        if not pretrained and local and not kwargs:
            raise
        if not pretrained and local:
            raise ConfigError(f"{name}: timm refuses model_kwargs {kwargs}: {error}") from error
        reason = one_line(error)
        raise ConfigError(
            f"{name}: its weights cannot be had ({reason}); give a local file as checkpoint instead"
        ) from error


def _load(model: nn.Module, name: str, checkpoint: str) -> tuple[dict[str, Any], int]:
    """Loads a checkpoint into the model, which takes on its number of classes; returns the file's facts and that."""
    field = f"{name}: checkpoint"
    path = resolve(checkpoint, field)
    state, facts = checkpoints.read(path, field)
    state = checkpoints.clean(state, model, f"{field}: {path}")
    classifier = model.default_cfg.get("classifier")
    head = state.get(f"{classifier}.weight")
    classes = model.num_classes if head is None else head.shape[0]
    if head is None and isinstance(classifier, str):
        classes = 0  # a backbone alone, as self-supervised teachers are
    if classes != model.num_classes:
        model.reset_classifier(classes)
    differs = checkpoints.mismatch(model.state_dict(), state)
    if differs:
        written_by = f" (it is a {facts['name']})" if facts.get("name", name) != name else ""
        raise ConfigError(f"{field}: {path} does not fit this model{written_by}: {differs}")
    masks = {name for name, _ in model.named_buffers() if "running_" not in name}  # these may well hold infinities
    if broken := checkpoints.not_finite({name: value for name, value in state.items() if name not in masks}):
        raise ConfigError(f"{field}: {path} holds numbers that are not finite, in {broken}")
    model.load_state_dict(state)
    return facts, classes


def _class_names(model: nn.Module, facts: dict[str, Any], pretrained: bool) -> list[str] | None:
    """The classes in the classifier's order: as the file says, or ImageNet-1k's WordNet ids where timm's tag does."""
    if pretrained and model.num_classes == 1000 and str(model.pretrained_cfg.get("tag")).endswith("in1k"):
        return ImageNetInfo("imagenet-1k").label_names()
    return facts.get("class_names")


def _own_size(model: nn.Module, pretrained: bool) -> int | None:
    """The side that the model must have (its patch embedding says so) or that its weights were trained at."""
    patches = getattr(model, "patch_embed", None)
    if getattr(patches, "img_size", None) and getattr(patches, "strict_img_size", True):
        return patches.img_size[0]
    if pretrained or model.pretrained_cfg.get("fixed_input_size"):
        return model.pretrained_cfg["input_size"][-1]
    return None


def _intermediates(model: nn.Module, x: Tensor, count: int, only: bool = False) -> Any:
    return model.forward_intermediates(x, indices=count, norm=True, stop_early=only, intermediates_only=only)


def _channels(values: Any) -> Tensor:
    return torch.tensor(tuple(values), dtype=torch.float32).view(-1, 1, 1)
