"""FT: golden values, invariances, and what each stage trains."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from helpers.factories import digits, method, trainer
from helpers.golden import bias, check, student_maps, teacher_maps, weight
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from kd_lightning.errors import ConfigError
from kd_lightning.methods import FT
from kd_lightning.methods.ft import coder, factor_loss

MAP, TARGET = student_maps(2, 3, 4, 4), teacher_maps(2, 4, 4, 4)


def loaded(layers: nn.Sequential, numbers: Sequence[int]) -> nn.Sequential:
    convolutions = [layer for layer in layers if hasattr(layer, "kernel_size")]
    for number, layer in zip(numbers, convolutions, strict=True):
        layer.weight.data = weight(number, *layer.weight.shape)
        layer.bias.data = bias(number, layer.out_channels)
    return layers.double()


def test_golden_values() -> None:
    translator = loaded(coder(3, 3, 2, 2, norm=True), (1, 2, 3))
    encoder = loaded(coder(4, 4, 2, 2), (4, 5, 6))
    decoder = loaded(coder(2, 2, 4, 4, transposed=True), (7, 8, 9))
    factor = encoder(TARGET).detach()
    check(lambda x: factor_loss(translator(x), factor), (MAP,), 0.2333213995, 0.0042270881)
    check(lambda x: mse_loss(decoder(encoder(x)), TARGET), (TARGET,), 0.5957340814, 0.0041654216)


def test_a_factor_has_no_scale_and_any_number_of_channels() -> None:
    expected = factor_loss(MAP, TARGET)
    torch.testing.assert_close(factor_loss(3 * MAP, 0.2 * TARGET), expected)
    torch.testing.assert_close(factor_loss(MAP.repeat(1, 2, 1, 1), TARGET), expected)
    assert factor_loss(2 * TARGET, TARGET) < 1e-15
    large = MAP.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(factor_loss(large, TARGET), expected)


def test_the_layers_are_those_of_the_released_code() -> None:
    built = method(FT)
    assert [layer.out_channels for layer in built.translator if hasattr(layer, "kernel_size")] == [16, 32, 32]
    assert [layer.out_channels for layer in built.paraphraser["decoder"] if hasattr(layer, "kernel_size")] == [
        32,
        64,
        64,
    ]
    kinds = [type(layer).__name__ for layer in built.paraphraser["encoder"]]
    assert kinds == ["Conv2d", "LeakyReLU"] * 3
    assert [type(layer).__name__ for layer in built.translator] == ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 3


def test_first_the_paraphraser_then_the_student(tmp_path: object) -> None:
    """Neither weight decay nor momentum nor BatchNorm changes the other layers."""
    built, states = method(FT, first_stage=2), []
    terms: list[set[str]] = []

    def state() -> dict[str, Tensor]:
        return {name: value.clone() for name, value in built.state_dict().items()}

    built.on_train_epoch_end = lambda: (states.append(state()), terms.append({*built.loss_terms}))
    states.append(state())
    trainer(tmp_path, max_epochs=3).fit(built, digits())
    changed = [
        {name.partition(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
        for before, after in pairwise(states)
    ]
    assert changed == [{"paraphraser"}, {"paraphraser"}, {"student", "translator"}]
    assert terms == [{"paraphraser"}, {"paraphraser"}, {"ft", "ce"}]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"rate: 1.5 is not between 0 and 1"):
        method(FT, rate=1.5)
    with pytest.raises(ConfigError, match=r"rate: 0.01 of the teacher's 64 channels is less than 1"):
        method(FT, rate=0.01)
    with pytest.raises(ConfigError, match=r"model.first_stage: 0 omits the first stage"):
        method(FT, first_stage=0)
