"""Which precisions a device has, also those that this machine has not."""

import pytest
import torch

from kd_lightning.config import precision as module
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


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_on_a_cpu_without_it_is_said_to_be_slow(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(module, "rank_zero_info", said.append)
    capabilities = {"avx512_f": True, "avx512_bf16": has, "amx_bf16": False, "cpu_name": "bf16"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    for precision in (None, 32, "32-true", "64-true"):
        check_precision(precision, "cpu")
    assert said == []
    check_precision("bf16", "cpu")
    line = "trainer.precision: bf16 is slow on this CPU, which has no instructions for bfloat16"
    assert said == [] if has else said == [f"{line}; --trainer.precision 32-true is faster"]
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    check_precision("bf16-mixed", "cpu")  # an older torch, which does not know
    assert len(said) == (not has)
