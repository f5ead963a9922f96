"""Network: a timm model by name, which normalises its own input and returns its features."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from kd_lightning.batch import as_float
from kd_lightning.errors import ConfigError
from kd_lightning.models import classifier, counting, creation, file_facts, weights
from kd_lightning.models.extraction import extract, has_preactivations, stage_map
from kd_lightning.models.features import Features, Reads
from kd_lightning.models.masking import Masked, mask_token, masked_patches

Channels = tuple[float, float, float]


@final
class Network(nn.Module):
    """A timm model that normalises its own input. The input is images as uint8, or as float in [0, 1].

    Args:
        name: Name of a timm model (`resnet18`, `vit_small_patch14_dinov2.lvd142m`, `hf_hub:...`) or of a network of
            this package (`cifar_resnet20`).
        pretrained: Whether to load the pretrained weights of this name. Weights of timm are downloaded. Weights of this
            package (`cifar_resnet20.digits`) need no download.
        checkpoint: Path of a local file with weights: a safetensors file, a torch file, or a checkpoint of a run.
        num_classes: Number of outputs of the classifier. With 0, there is no classifier, and the logits are the
            embedding. If the number differs from that of the loaded weights, the classifier is new and random. Default:
            the number of classes of the weights, or 0 if the weights contain only a backbone.
        mean: Mean of each channel, which is subtracted from the input. Default: the mean with which the weights were
            trained, if timm or the checkpoint file states it. Otherwise the mean that timm states for this model. For
            `cifar_*` this is the mean of ImageNet, because these networks do not know the data set.
        std: Standard deviation of each channel, by which the input is divided. The default is chosen as for `mean`.
        size: Side in pixels to which images are resized. Default: `img_size` of model_kwargs, or the only side that the
            model accepts. Otherwise: the side at which the weights were trained, if timm or the checkpoint file
            contains this side. If the side is unknown, images are not resized.
        dtype: Number format of the weights and computations, independent of trainer.precision. Only a teacher can have
            this argument. `bfloat16` and `float16` halve the memory. Default: the format of trainer.precision.
        model_kwargs: Further arguments of the model (`drop_path_rate: 0.1`, `shortcut: B`, `img_size: 32`).

    Raises:
        ConfigError: if the name is unknown, if the model does not accept the arguments or would be unusable with them,
            or if the weights are missing, unreadable, not finite or from another architecture. The message contains the
            nearest names, or the first keys that differ.
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
            raise ConfigError(f"{name}: pretrained and checkpoint are both given; give only one of them")
        file_facts.check_given({"num_classes": num_classes, "mean": mean, "std": std, "size": size}, name)
        kwargs = model_kwargs or {}
        creation.check_kwargs(name, kwargs)
        self.name, self.model_kwargs, self.frozen = name, kwargs, False
        facts: dict[str, Any] = {}
        own_classes = {} if num_classes is None else {"num_classes": num_classes}
        self.has_weights = pretrained or checkpoint is not None
        # loading weights must not change the random state: a seed gives the same student with any teacher
        with torch.random.fork_rng(devices=[], enabled=self.has_weights):
            if checkpoint is None:
                self.model = creation.create(name, pretrained, {**own_classes, **kwargs})
                trained_for = self.model.pretrained_cfg.get("num_classes")
            else:
                self.model = creation.create(name, False, kwargs)
                facts, trained_for = weights.load(self.model, name, checkpoint, kwargs)
                if num_classes is not None and num_classes != trained_for:
                    creation.set_classes(self.model, num_classes)
        self.num_classes: int = self.model.num_classes
        self.class_names = (
            creation.class_names(self.model, facts, pretrained) if self.num_classes == trained_for else None
        )
        self.fresh_classifier = not self.has_weights or self.num_classes != trained_for
        self.embedding_width: int = creation.embedding_width(self.model)
        config = resolve_model_data_config(self.model)
        file_facts.check_given({"mean": config["mean"], "std": config["std"]}, f"{name}: the configuration of timm")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", _channels(mean or facts.get("mean") or config["mean"]), persistent=False)
        self.register_buffer("std", _channels(std or facts.get("std") or config["std"]), persistent=False)
        trained = facts.get("size") or creation.trained_size(self.model, pretrained, kwargs)
        self.size: int | None = _size(name, self.model, size, kwargs) or trained
        self.interpolation = "bicubic" if config["interpolation"] == "bicubic" else "bilinear"
        self.dtype = getattr(torch, dtype) if dtype else None
        if self.dtype:
            if too_large := weights.too_large(self.model, self.dtype):
                raise ConfigError(
                    f"{name}: dtype is {dtype}, but some values are too large for it ({', '.join(too_large[:3])}); "
                    "choose bfloat16 or float32"
                )
            self.model.to(self.dtype)

    def freeze(self) -> "Network":
        """Turn off gradients, set eval mode permanently, and return the network. `.train()` then has no effect."""
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Network":
        """Set the mode as in torch; a frozen network stays in eval mode."""
        return super().train(mode and not self.frozen)

    def normalize(self, images: Tensor) -> Tensor:
        """Return the input of the model for images N,3,H,W (uint8, or float in [0, 1]): resized and normalised."""
        x = as_float(images)
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode=self.interpolation, antialias=True).clamp(0, 1)
        return ((x - self.mean.float()) / self.std.float()).to(self.dtype or self.mean.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits N,K of images N,3,H,W (uint8, or float in [0, 1])."""
        with self._precision(images):
            return self._in_run_dtype(self.model(self.normalize(images)))

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
        final: bool = False,
    ) -> Features:
        """Return the requested features of images N,3,H,W, from one forward pass that computes only these features.

        Args:
            images: Images as uint8, or as float in [0, 1]. For a ViT, `Masked` images replace some patch tokens.
            maps: Number of last stages whose feature maps are returned. The last map is the input of pooling. In a
                network with a head convolution (EfficientNet), it is the input of this convolution. In `cifar_wrn_*`,
                it is the input of the final BatchNorm, unless the argument `activated` is true.
            preactivations: Number of last stages whose maps before the last activation are returned, for `cifar_*` and
                timm's ResNets. The activations of these maps are `maps`. The docstrings of `cifar_wrn_*` and
                `cifar_shufflenetv2` describe exceptions. Linear bottlenecks have no activation. For them, the map is
                returned. In this pass, the last activations of timm's ResNets do not work in place.
            tokens: Whether the token sequence after the final norm is returned.
            attention: Whether the attention probabilities of the last block before dropout are returned, for ViTs. In
                this pass, the block does not use fused attention. Its other outputs may therefore differ by rounding.
            embedding: Whether the input of the classifier is returned.
            logits: Whether the output of the classifier is returned.
            final: Whether the input of pooling is returned: the final map, or the tokens of a ViT.

        Raises:
            ConfigError: if this network has no maps, pre-activations or attention that can be read, or if the images
                are masked and the network has no patch tokens.
        """
        reads = Reads(maps, preactivations, tokens, attention, embedding, logits, final)
        masking: AbstractContextManager = nullcontext()
        if isinstance(images, Masked):
            images, mask, token = images
            masking = masked_patches(self.name, self.model, mask, token)
        with self._precision(images), masking:
            seen = extract(self.name, self.model, self.normalize(images), reads)
        if not self.dtype:
            return seen
        return Features(
            *([*map(self._in_run_dtype, part)] if isinstance(part, list) else self._in_run_dtype(part) for part in seen)
        )

    def stage_map(self, images: Tensor, number: int) -> Tensor:
        """Return the map N,C,H,W of one stage for images N,3,H,W. The layers after this stage are not computed.

        It is the element `-number` of the maps that `features` returns.

        Args:
            images: Images as uint8, or as float in [0, 1].
            number: Number of the stage, counted back from the last stage, which has the number 1.

        Raises:
            ConfigError: if this network has no maps that can be read.
        """
        with self._precision(images):
            return self._in_run_dtype(stage_map(self.name, self.model, self.normalize(images), number))

    @property
    def has_preactivations(self) -> bool:
        """Whether `features` can return the pre-activations of all stages."""
        return has_preactivations(self.name, self.model)

    def mask_token(self) -> nn.Parameter:
        """Return a new learnable token for `Masked` images. A method stores the token as its own parameter.

        Raises:
            ConfigError: if this network has no patch tokens.
        """
        return mask_token(self.name, self.model)

    @property
    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """The weight K,D and the bias K of the linear classifier, with gradient. The bias is None if there is none.

        Raises:
            ConfigError: if the network has no classifier (num_classes 0), two classifiers (distilled DeiT), or a
                classifier that is not linear.
        """
        weight, bias = classifier.weight_and_bias(self.name, self.model)
        return self._in_run_dtype(weight), self._in_run_dtype(bias)

    def classify(self, x: Tensor, *, bias: bool = True) -> Tensor:
        """Return the logits N,K of vectors N,D (`embedding`), or the class maps N,K,H,W of maps N,D,H,W.

        Class maps are the output of the classifier as a 1x1 convolution (Zhou et al. 2016). Without `bias`, its bias is
        not added. If the head is average pooling and x is the input of pooling, the mean of the class maps over the
        positions is the logits. For most networks, the input of pooling is `maps[-1]`. For networks with a head
        convolution (EfficientNet, cifar_mobilenetv2, cifar_shufflenetv2), it is the output of this convolution. This
        output and `maps[-1]` have different numbers of channels. For `cifar_wrn_*`, it is `maps[-1]` only if the
        argument `activated` is true. For ViTs that pool a class token, x is `maps[-1]`, the patch tokens.

        Raises:
            ConfigError: in the cases of `classifier`, or if x has another shape or another number of channels. An error
                is also raised for maps if the network has more than pooling between its last map and its classifier
                (ConvNeXt's norm, NFNet's activation, a hidden layer, attention pooling). The first call with maps tests
                this with one image.
        """
        weight, added = classifier.weight_and_bias(self.name, self.model)
        if x.ndim == 4 and x.shape[1] == weight.shape[1] and not self._has_class_maps():
            other = ", or set model_kwargs to {activated: true}" if hasattr(self.model, "activated") else ""
            raise ConfigError(
                f"{self.name}: this network has no class maps, because there is more than pooling between its last map "
                f"and its classifier; classify vectors{other}"
            )
        with self._precision(x):
            return self._in_run_dtype(
                classifier.classify(self.name, weight, added if bias else None, x.to(self.dtype or x.dtype))
            )

    @torch.compiler.assume_constant_result  # the compiler calls it while it traces a step; the pass is not in the graph
    def _has_class_maps(self) -> bool:
        return self._reads_maps

    @cached_property
    def _reads_maps(self) -> bool:
        return self._of_a_ramp(classifier.reads_maps)

    def averaged_map(self) -> Tensor | None:
        """Return the map 1,C,H,W, for an image of a ramp, whose average over the positions is the embedding.

        Return None if the embedding is not the average of the final map, as in ViTs and in ConvNeXt.
        """
        return self._in_run_dtype(self._of_a_ramp(classifier.averaged_map))

    def _of_a_ramp(self, test: Callable[[str, nn.Module, Tensor], Any]) -> Any:
        side = self.size or self.model.pretrained_cfg["input_size"][-1]
        ramp = torch.arange(3 * side * side, device=self.mean.device).remainder(256).to(torch.uint8)
        with self._precision(ramp):
            return test(self.name, self.model, self.normalize(ramp.view(1, 3, side, side)))

    def _precision(self, images: Tensor) -> AbstractContextManager:
        return torch.autocast(images.device.type, enabled=False) if self.dtype else nullcontext()

    def _in_run_dtype(self, x: Any) -> Any:
        """Return an output in the dtype of the run if the network has its own dtype. Return None for None."""
        return x.to(self.mean.dtype) if self.dtype and x is not None else x

    def facts(self) -> dict[str, Any]:
        """Return the facts that are needed, in addition to the weights, to use the network as it was trained."""
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "size": self.size,
        }

    def fingerprint(self) -> str:
        """Return a hash of all weights and of the facts (mean, std, size, ...)."""
        digest = sha256(json.dumps(self.facts(), sort_keys=True).encode())
        for name, value in self.model.state_dict().items():
            digest.update(
                name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def macs(self, side: int) -> int | None:
        """Return the multiply-adds for one image of `side` pixels. Return None if torch cannot count them."""
        image = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.mean.device)
        return counting.macs(self, lambda: self(image))


def _channels(values: Any) -> Tensor:
    return torch.tensor(tuple(values), dtype=torch.float32).view(-1, 1, 1)


def _size(name: str, model: nn.Module, size: int | None, kwargs: dict[str, Any]) -> int | None:
    """Return the side of the images for which the model was built, or else the given size."""
    built = creation.built_size(name, model, kwargs)
    if size and built and size != built:
        raise ConfigError(
            f"{name}: size is {size}, but the network was built for images of {built} pixels; set "
            "model_kwargs.img_size instead, or remove size"
        )
    return built or size
