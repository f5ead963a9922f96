"""Compute the requested features of a timm model in one forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

from timm.layers import Attention, AttentionRope
from timm.models import FeatureHooks, beit, convit, eva, res2net, resnest, resnet, sknet, vision_transformer_relpos
from timm.models.hiera import Hiera
from timm.models.hieradet_sam2 import HieraDet
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn

from kd_lightning.errors import ConfigError
from kd_lightning.models.cifar import CifarModel
from kd_lightning.models.features import Features, Reads

# name of the last activation in timm's residual blocks; Res2Net uses it several times, the last time at the end
_LAST_ACTIVATION = {
    resnet.BasicBlock: "act2",
    resnet.Bottleneck: "act3",
    resnest.ResNestBottleneck: "act3",
    res2net.Bottle2neck: "relu",
    sknet.SelectiveKernelBasic: "act",
    sknet.SelectiveKernelBottleneck: "act",
}
# attention layers whose dropout reads probabilities N,heads,M,M (in CaiT the heads are mixed, Swin has windows, ...)
_ATTENTION = (
    Attention,
    AttentionRope,
    ParallelScalingBlock,
    beit.Attention,
    convit.MHSA,
    eva.EvaAttention,
    vision_transformer_relpos.RelPosAttention,
)


def extract(name: str, model: nn.Module, x: Tensor, reads: Reads) -> Features:
    """Return the features that `reads` names, for normalised images x N,3,H,W, from one forward pass.

    Raises:
        ConfigError: if timm provides no feature maps of this model, if the model has fewer stages than requested, or if
            the model has no pre-activations or no attention that can be read.
    """
    if not any(reads):
        return Features()
    if reads.maps:
        _check_maps(name, model)
    activations = _last_activations(name, model, reads.preactivations) if reads.preactivations else {}
    attention = _last_attention(name, model) if reads.attention else {}
    with _inputs_of(model, {**activations, **attention}) as hooks:
        seen = _forward(model, x, reads)
        inner = hooks.get_output(x.device) if hooks else {}
    if activations:
        seen = seen._replace(preactivations=[inner[layer] for layer in activations])
    return seen._replace(attention=inner[next(iter(attention))]) if attention else seen


def stage_map(name: str, model: nn.Module, x: Tensor, number: int) -> Tensor:
    """Return the map N,C,H,W of the stage with this number, which is 1 for the last stage, for normalised images x.

    The layers after this stage are not computed.

    Raises:
        ConfigError: if timm provides no feature maps of this model.
    """
    _check_maps(name, model)
    indices = [len(model.feature_info) - number]
    settings = {"norm": _norms_maps(model), "stop_early": True, "intermediates_only": True}
    return model.forward_intermediates(x, indices=indices, **settings)[0]


def _check_maps(name: str, model: nn.Module) -> None:
    if not hasattr(model, "forward_intermediates"):
        raise ConfigError(f"{name}: timm provides no feature maps of this model; choose another network")


def _norms_maps(model: nn.Module) -> bool:
    """Return whether timm can apply the final norm to the maps."""
    return not isinstance(model, Hiera | HieraDet)  # timm normalises the last map of other models with a norm


def _forward(model: nn.Module, x: Tensor, reads: Reads) -> Features:
    """Return the features that the interface of the model gives.

    The interface does not give the attention, nor the pre-activations of timm's models.
    """
    final, maps, preactivations = None, [], []
    after_maps = reads.tokens or reads.embedding or reads.logits or reads.final
    if reads.preactivations and isinstance(model, CifarModel):
        count = max(reads.maps, reads.preactivations)
        final, maps, preactivations = model.forward_preactivations(x, count, intermediates_only=not after_maps)
        maps, preactivations = maps[count - reads.maps :], preactivations[count - reads.preactivations :]
    elif reads.maps:
        only = not after_maps
        settings = {"norm": _norms_maps(model), "stop_early": only, "intermediates_only": only}
        output = model.forward_intermediates(x, indices=reads.maps, **settings)
        final, maps = (None, output) if only else output
    elif reads.logits and not (reads.tokens or reads.embedding or reads.final):
        return Features(logits=model(x))
    else:
        final = model.forward_features(x)
    seen = Features(maps, preactivations, final=final if reads.final else None)
    if reads.tokens and isinstance(final, Tensor) and final.ndim == 3:
        seen = seen._replace(tokens=final)
    if reads.embedding:
        seen = seen._replace(embedding=model.forward_head(final, pre_logits=True))
    if reads.logits:
        classifier = model.get_classifier()
        reads_embedding = isinstance(classifier, nn.Linear) and reads.embedding
        seen = seen._replace(logits=classifier(seen.embedding) if reads_embedding else model.forward_head(final))
    return seen


def has_preactivations(name: str, model: nn.Module) -> bool:
    """Return whether the pre-activations of all stages of a model can be read."""
    try:
        _last_activations(name, model, len(model.feature_info))
    except ConfigError:
        return False
    return True


def _last_activations(name: str, model: nn.Module, count: int) -> dict[str, nn.Module]:
    """Return the last activation of each of the last `count` stages of a timm model, by name.

    Return an empty dict for a CifarModel.
    """
    if not isinstance(model, CifarModel | resnet.ResNet):
        raise ConfigError(_NO_PREACTIVATIONS.format(name=name))
    if not 0 < count <= len(model.feature_info):
        stages = len(model.feature_info)
        raise ConfigError(
            f"{name}: preactivations is {count}, but this network has {stages} stages; choose 1 to {stages}"
        )
    if isinstance(model, CifarModel):
        return {}
    activations = {"act1": model.act1}
    for number in range(1, len(model.feature_info)):
        stage = model.get_submodule(f"layer{number}")
        activation = _LAST_ACTIVATION.get(type(stage[-1]))
        if activation is None:
            raise ConfigError(_NO_PREACTIVATIONS.format(name=name))
        activations[f"layer{number}.{len(stage) - 1}.{activation}"] = getattr(stage[-1], activation)
    return dict([*activations.items()][-count:])


_NO_PREACTIVATIONS = (
    "{name}: this network has no pre-activation maps; networks that have them: cifar_* "
    "(cifar_resnet20, cifar_wrn_16_2, cifar_vgg8, ...) and timm's ResNets (resnet18, resnet50, resnext50_32x4d, ...)"
)


def _last_attention(name: str, model: nn.Module) -> dict[str, nn.Module]:
    """Return the attention layer of the last block, by the name of its dropout.

    The input of this dropout contains the attention probabilities.
    """
    blocks = getattr(model, "blocks", None)
    block = blocks[-1] if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks) else None
    for path, layer in (("", block), (".attn", getattr(block, "attn", None))):
        if type(layer) in _ATTENTION:
            return {f"blocks.{len(blocks) - 1}{path}.attn_drop": layer}
    raise ConfigError(
        f"{name}: this network has no readable attention between all tokens of an image; networks that have it: ViTs "
        "(vit_*, deit_*, deit3_*, eva02_*, beit_*)"
    )


@contextmanager
def _inputs_of(model: nn.Module, layers: dict[str, nn.Module]) -> Iterator[FeatureHooks | None]:
    """Collect the inputs of the named layers in a forward pass with timm's FeatureHooks, and remove the hooks.

    During the pass, the modules of these names do not use fused attention, because it would not compute the inputs.
    They do not work in place either, because this would overwrite the inputs.
    """
    if not layers:
        yield None
        return
    flags = [
        (module, flag) for module in layers.values() for flag in ("inplace", "fused_attn") if hasattr(module, flag)
    ]
    before = [getattr(module, flag) for module, flag in flags]
    modules = [(layer, model.get_submodule(layer)) for layer in layers]
    hooks = FeatureHooks([*layers], modules, default_hook_type="forward_pre")
    try:
        for module, flag in flags:
            setattr(module, flag, False)
        yield hooks
    finally:
        for (module, flag), value in zip(flags, before, strict=True):
            setattr(module, flag, value)
        for handle in hooks._handles:  # timm has no method that removes them
            handle.remove()
