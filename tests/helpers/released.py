"""Closed-form inputs of the tests that compare with values of released code."""

import torch
from torch import Tensor, nn

_PERIOD = 9973


def signal(*shape: int, start: int = 0, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """Return offset + scale * sin(0.7 k + 0.0003 k^2) in this shape, in float64.

    k counts from `start` upwards, and from 0 again after 9972.
    """
    k = torch.arange(_PERIOD, dtype=torch.float64)
    period = offset + scale * torch.sin(0.7 * k + 0.0003 * k * k).roll(-start % _PERIOD)
    size = torch.Size(shape).numel()
    return period.repeat(-(-size // _PERIOD))[:size].view(shape)


def fill(model: nn.Module) -> nn.Module:
    """Give a network closed-form weights and running statistics in float32, and return it in eval mode.

    `start` is 101 times the place of a tensor in the state dict. Weights with n inputs have the scale 1.6 / sqrt(n).
    The scales of BatchNorm have (scale, offset) = (0.2, 1), the running variances (0.3, 1), all others (0.2, 0).
    """
    state = model.state_dict()
    for place, (name, value) in enumerate(state.items()):
        scale, offset = 0.2, 0.0
        if value.ndim > 1:
            scale = 1.6 / value[0].numel() ** 0.5
        elif name.endswith("running_var"):
            scale, offset = 0.3, 1.0
        elif name.endswith("weight"):
            offset = 1.0
        state[name] = signal(*value.shape, start=101 * place, scale=scale, offset=offset).float()
    model.load_state_dict(state, assign=True)
    return model.eval()


def image() -> Tensor:
    """Return a normalised image 1,3,16,16 in float32."""
    return signal(1, 3, 16, 16, start=17).float()
