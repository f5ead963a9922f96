"""Masked tokens: a pass in which some patch tokens of a ViT are replaced by a learnable token."""

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
    """N,3,H,W, as without a mask."""
    mask: Tensor
    """N,M bool: True where a patch's token is replaced; the M patches row by row."""
    token: Tensor
    """D: what stands in its place, a parameter of the method (`mask_token`); the network's weights stay its own."""


def mask_token(name: str, model: nn.Module) -> nn.Parameter:
    """Return a new learnable token of a model's width.

    Raises:
        ConfigError: in one line, if the model has no patch tokens.
    """
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(_patches_of(name, model).proj.out_channels), std=0.02))


@contextmanager
def masked_patches(name: str, model: nn.Module, mask: Tensor, token: Tensor) -> Iterator[None]:
    """Replace the tokens of a model's patches in the passes within, before positions are added.

    Raises:
        ConfigError: in one line, if the model has no patch tokens, or another number of them than the mask.
    """

    def replace(module: nn.Module, given: tuple[Tensor], tokens: Tensor) -> Tensor:
        count = tokens.shape[1:-1].numel()  # N,M,D, or N,H,W,D
        if mask.shape != (len(tokens), count):
            raise ConfigError(f"{name}: the mask is {tuple(mask.shape)} for {len(tokens)} images of {count} patches")
        return torch.where(mask.view(*tokens.shape[:-1], 1), token.to(tokens.dtype), tokens)

    with _patches_of(name, model).register_forward_hook(replace):
        yield


def _patches_of(name: str, model: nn.Module) -> PatchEmbed:
    patches = getattr(model, "patch_embed", None)
    if not isinstance(patches, PatchEmbed) or patches.proj.kernel_size != patches.proj.stride:
        raise ConfigError(f"{name}: this network has no patch tokens to mask; choose a ViT (vit_*, deit_*, beit_*)")
    return patches
