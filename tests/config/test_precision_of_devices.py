"""Which precisions a device has, also those that this machine has not."""

import pytest
import torch

from kd_lightning.config.precision import check_precision
from kd_lightning.errors import ConfigError


@pytest.fixture(params=[True, False], ids=["bfloat16", "no bfloat16"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A GPU that has bfloat16, or has not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: request.param)
    return request.param


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_a_gpu(gpu: bool, accelerator: str) -> None:
    for precision in (None, 32, "32", "16-mixed", 16, "16-true", "64-true"):
        check_precision(precision, accelerator)
    for precision in ("bf16-mixed", "bf16", "bf16-true"):
        if gpu:
            check_precision(precision, accelerator)
        else:
            with pytest.raises(
                ConfigError, match=f"{precision} is not supported on this cuda; choices: 32-true, 16-mixed, 16"
            ):
                check_precision(precision, accelerator)
    with pytest.raises(ConfigError, match="needs the package transformer_engine"):
        check_precision("transformer-engine", accelerator)


@pytest.mark.usefixtures("gpu")
def test_a_cpu_beside_a_gpu() -> None:
    for precision in (None, "32-true", "bf16-mixed", "bf16-true", "16-true", 64):
        check_precision(precision, "cpu")
    for precision in (16, "16-mixed", "transformer-engine-float16"):
        with pytest.raises(
            ConfigError, match=f"{precision} is not supported on this cpu; choices: 32-true, bf16-mixed"
        ):
            check_precision(precision, "cpu")


def test_apples_gpus_have_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    check_precision("16-mixed", "mps")
    with pytest.raises(ConfigError, match="64-true is not supported on this mps"):
        check_precision("64-true", "mps")
