"""Masked passes, in which a learnable token replaces some patch tokens of a ViT."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from kd_lightning.errors import ConfigError


class Masked(NamedTuple):
    """Images of a pass in which the tokens of some patches are replaced."""

    images: Tensor
    """Images N,3,H,W, as for a pass without a mask."""
    mask: Tensor
    """Bool N,M: True for the patches whose tokens are replaced; the M patches are in row-major order."""
    token: Tensor
    """Token D that replaces them. It is a parameter of the method (`mask_token`) and not part of the network."""


def mask_token(name: str, model: nn.Module) -> nn.Parameter:
    """Return a new learnable token with the width of a model's patch tokens.

    Args:
        name: Name of the network, for messages.
        model: Model of the network (a timm model).

    Raises:
        ConfigError: if the model has no patch tokens.
    """
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(_patches_of(name, model).proj.out_channels), std=0.02))


@contextmanager
def masked_patches(name: str, model: nn.Module, mask: Tensor, token: Tensor) -> Iterator[None]:
    """Replace patch tokens of a model in all passes within this context.

    The tokens are replaced before the positions are added. Passes in other threads are changed as well. Therefore use
    the model in one thread only.

    Args:
        name: Name of the network, for messages.
        model: Model of the network (a timm model).
        mask: Bool N,M: True for the patches whose tokens are replaced.
        token: The token D that replaces them.

    Raises:
        ConfigError: if the model has no patch tokens, or if the mask or the token has another type or shape.
    """
    embed = _patches_of(name, model)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ConfigError(f"{name}: the mask must be a bool tensor, not {getattr(mask, 'dtype', type(mask).__name__)}")
    width = embed.proj.out_channels
    if not isinstance(token, Tensor) or token.shape != (width,) or not token.is_floating_point():
        given = f"{token.dtype} {tuple(token.shape)}" if isinstance(token, Tensor) else type(token).__name__
        raise ConfigError(f"{name}: the token must be a float tensor of {width} numbers (mask_token), not {given}")

    def replace(module: nn.Module, inputs: tuple[Tensor], tokens: Tensor) -> Tensor:
        count = tokens.shape[1:-1].numel()  # N,M,D, or N,H,W,D
        if mask.shape != (len(tokens), count):
            raise ConfigError(
                f"{name}: the mask has the shape {tuple(mask.shape)}, but {len(tokens)} images with {count} patches "
                f"each need the shape ({len(tokens)}, {count})"
            )
        return torch.where(mask.view(*tokens.shape[:-1], 1), token.to(tokens.dtype), tokens)

    with embed.register_forward_hook(replace):
        yield


def _patches_of(name: str, model: nn.Module) -> PatchEmbed:
    embed = getattr(model, "patch_embed", None)
    if not isinstance(embed, PatchEmbed) or embed.proj.kernel_size != embed.proj.stride:
        raise ConfigError(f"{name}: this network has no patch tokens to mask; choose a ViT (vit_*, deit_*, beit_*)")
    return embed
