"""Network: any timm model by name, which normalises its own input and gives its features without a hook."""

import json
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kd_lightning.batch import LARGEST_SIDE, as_float
from kd_lightning.errors import ConfigError
from kd_lightning.models import classifier, creation
from kd_lightning.models.extraction import extract
from kd_lightning.models.features import Features, Reads
from kd_lightning.models.masking import Masked, mask_token, masked_patches

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
                self.model = creation.create(name, pretrained, {**own_classes, **(model_kwargs or {})})
                trained_for = self.model.pretrained_cfg.get("num_classes")
            else:
                self.model = creation.create(name, False, model_kwargs or {})
                facts, trained_for = creation.load(self.model, name, checkpoint)
                if num_classes is not None and num_classes != trained_for:
                    self.model.reset_classifier(num_classes)
        self.num_classes: int = self.model.num_classes
        self.class_names = (
            creation.class_names(self.model, facts, pretrained) if self.num_classes == trained_for else None
        )
        self.fresh_classifier = not self.has_weights or self.num_classes != trained_for
        self.embedding_width: int = self.model.head_hidden_size
        config = resolve_model_data_config(self.model)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", _channels(mean or facts.get("mean") or config["mean"]), persistent=False)
        self.register_buffer("std", _channels(std or facts.get("std") or config["std"]), persistent=False)
        self.size = size or facts.get("size") or creation.own_size(self.model, pretrained)
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
        images: Tensor | Masked,
        *,
        maps: int = 0,
        preactivations: int = 0,
        tokens: bool = False,
        attention: bool = False,
        embedding: bool = False,
        logits: bool = False,
    ) -> Features:
        """Return what is asked for of images N,3,H,W, from one forward pass that computes nothing else.

        Args:
            images: uint8, or float in [0, 1]; or `Masked`, for a ViT some of whose patch tokens are replaced.
            maps: how many of the last stages' feature maps; the last one is what pooling reads, or, where a
                network widens it first (EfficientNet's head convolution), the last stage before that.
            preactivations: how many of the last stages' maps before their last activation: `maps` are the activation
                of these, with exceptions that the networks' docstrings name (`cifar_wrn_*`, `cifar_shufflenetv2`;
                linear bottlenecks have none, so the map itself). Of `cifar_*` and timm's ResNets, whose last
                activations do not work in place in this pass.
            tokens: the token sequence after the final norm.
            attention: the probabilities of the last block's attention before dropout, of ViTs. That block does not use
                fused attention in this pass, so that its other outputs may differ in rounding.
            embedding: what the classifier reads.
            logits: the classifier's output.

        Raises:
            ConfigError: if this network has no maps, pre-activations or attention that can be read, or no patch tokens
                for a mask.
        """
        reads = Reads(maps, preactivations, tokens, attention, embedding, logits)
        masking: AbstractContextManager = nullcontext()
        if isinstance(images, Masked):
            images, mask, token = images
            masking = masked_patches(self.name, self.model, mask, token)
        with self._precision(images), masking:
            seen = extract(self.name, self.model, self.normalize(images), reads)
        if not self.dtype:
            return seen
        return Features(*([*map(self._given, part)] if isinstance(part, list) else self._given(part) for part in seen))

    def mask_token(self) -> nn.Parameter:
        """Return a new learnable token for `Masked` images, which a method keeps as a parameter of its own.

        Raises:
            ConfigError: if this network has no patch tokens.
        """
        return mask_token(self.name, self.model)

    @property
    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """Return the linear classifier's weight K,D and bias K (None where it has none), with gradient.

        Raises:
            ConfigError: if it has no classifier (num_classes 0), two (distilled DeiT), or one that is not linear.
        """
        weight, bias = classifier.weight_and_bias(self.name, self.model)
        return self._given(weight), self._given(bias)

    def classify(self, x: Tensor) -> Tensor:
        """Return the logits N,K of vectors N,D (`embedding`), or the class maps N,K,H,W of maps N,D,H,W.

        Class maps are the classifier as a 1x1 convolution (Zhou et al. 2016), with its bias. Where the head is average
        pooling, their mean over the positions is the logits if x is what pooling reads: `maps[-1]` for most networks;
        for one with a head convolution (EfficientNet, cifar_mobilenetv2, cifar_shufflenetv2) that convolution's output,
        which has other channels than `maps[-1]`. Of ViTs that pool a class token x is `maps[-1]`, the patch tokens.

        Raises:
            ConfigError: as for `classifier`; for another shape or width; for maps of a network that has more between
                its last map and the classifier than pooling (ConvNeXt's norm, NFNet's activation, a hidden layer,
                attention pooling), which one image shows when maps are first classified.
        """
        weight, bias = classifier.weight_and_bias(self.name, self.model)
        if x.ndim == 4 and x.shape[1] == weight.shape[1] and not self._classifies_maps:
            raise ConfigError(
                f"{self.name}: this network has no class maps: more than pooling lies between its last map and the "
                "classifier; classify vectors"
            )
        with self._precision(x):
            return self._given(classifier.classify(self.name, weight, bias, x.to(self.dtype or x.dtype)))

    @cached_property
    def _classifies_maps(self) -> bool:
        side = self.size or self.model.pretrained_cfg["input_size"][-1]
        ramp = torch.arange(3 * side * side, device=self.mean.device).remainder(256).to(torch.uint8)
        with self._precision(ramp):
            return classifier.reads_maps(self.name, self.model, self.normalize(ramp.view(1, 3, side, side)))

    def _precision(self, images: Tensor) -> AbstractContextManager:
        return torch.autocast(images.device.type, enabled=False) if self.dtype else nullcontext()

    def _given(self, x: Any) -> Any:
        """Return an output in what the run computes in, where the network has a dtype of its own; None stays None."""
        return x.to(self.mean.dtype) if self.dtype and x is not None else x

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


def _channels(values: Any) -> Tensor:
    return torch.tensor(tuple(values), dtype=torch.float32).view(-1, 1, 1)
