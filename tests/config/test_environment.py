"""Environment variables that start a run: nonsense is one line before torch and Lightning are imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_lightning.cli import main
from kd_lightning.config.environment import check_environment, environment_error
from kd_lightning.errors import ConfigError
from kd_lightning.loggers.wandb import check_variables

WRONG = [
    ({"WORLD_SIZE": "x"}, "WORLD_SIZE: the environment variable is 'x', but it must be an integer of at least 1"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE: "),
    ({"RANK": "-1"}, "RANK: the environment variable is '-1', but it must be an integer of at least 0"),
    ({"LOCAL_RANK": "1.5"}, "LOCAL_RANK: "),
    ({"NODE_RANK": "first"}, "NODE_RANK: "),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK: the environment variable is 2, but it must be less than WORLD_SIZE"),
    ({"SLURM_PROCID": "4", "SLURM_NTASKS": "4"}, "SLURM_PROCID: "),
    ({"LOCAL_RANK": "1"}, "LOCAL_RANK: the environment variable is 1, but LOCAL_WORLD_SIZE is not set"),
    ({"SLURM_PROCID": "2"}, "SLURM_PROCID: "),
    ({"SLURM_NTASKS": "many"}, "SLURM_NTASKS: "),
    ({"MASTER_PORT": "99999"}, "MASTER_PORT: the environment variable is '99999', but it must be an integer from 1 to"),
    ({"MASTER_ADDR": "a b"}, "MASTER_ADDR: "),
    ({"CUDA_VISIBLE_DEVICES": "zero"}, "CUDA_VISIBLE_DEVICES: the environment variable is 'zero'"),
]
RIGHT = [
    {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29500"},
    {"MASTER_ADDR": "fe80::1%eth0"},
    {"MASTER_ADDR": "node-1.cluster"},
    {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
    {"WORLD_SIZE": ""},
    *(
        {"CUDA_VISIBLE_DEVICES": given}
        for given in ("", "-1", "0,1", "GPU-8932f937-d72c", "MIG-GPU-1/2/0", "NoDevFiles")
    ),
]


@pytest.mark.parametrize(("variables", "words"), WRONG)
def test_nonsense_is_an_error(variables: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_environment(variables)
    assert str(raised.value).startswith(words)


@pytest.mark.parametrize("variables", RIGHT)
def test_values_of_launchers_are_accepted(variables: dict[str, str]) -> None:
    check_environment(variables)


def test_the_command_line_checks_them_first(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("LOCAL_RANK", "none")
    with pytest.raises(SystemExit) as stopped:
        main(["fit"])
    assert stopped.value.code == 2
    assert capfd.readouterr().err.startswith("error: LOCAL_RANK: the environment variable is 'none'")
    code = "import sys, kd_lightning.config.environment; assert not {'torch', 'lightning'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


REFUSED = [
    ("import matplotlib", "MPLBACKEND", "no-backend"),
    pytest.param("import torch", "TORCH_LOGS", "no_such_log", marks=pytest.mark.slow),
    pytest.param("import torch.distributed", "TORCH_DISTRIBUTED_DEBUG", "much", marks=pytest.mark.slow),
    pytest.param(
        "import torch._inductor.codecache", "TORCHINDUCTOR_CACHE_DIR", "/proc/nowhere", marks=pytest.mark.slow
    ),
    ("import huggingface_hub.constants", "HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
]


@pytest.mark.parametrize(("code", "name", "value"), REFUSED)
def test_a_value_that_a_library_refuses_is_one_line(code: str, name: str, value: str, tmp_path: Path) -> None:
    """As in a command, the library is imported by a module that the command imports."""
    (tmp_path / "work.py").write_text(code)
    lines = ["from kd_lightning.commands.running import exit_on_error", "with exit_on_error():", "    import work"]
    known = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), name: value}
    call = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(call, capture_output=True, text=True, env=known, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {name}: a library does not accept the value {value!r} of this environment variable")


def test_an_error_after_the_imports_is_no_error_of_a_variable() -> None:
    def failed(error: Exception) -> Exception:
        try:
            raise error
        except Exception as raised:
            return raised

    variables = {"MPLBACKEND": "foo", "SOME_OTHER": "bar"}
    assert environment_error(failed(ValueError("foo is wrong")), variables) is None
    scope: dict[str, Exception] = {}
    code = "try:\n    raise ValueError(text)\nexcept ValueError as error:\n    raised = error"
    for text, words in {
        "foo is wrong": "MPLBACKEND: ",
        "bar is wrong": "",
        "food": "",
        "MPLBACKEND": "MPLBACKEND: ",
        "it is wrong": "",
    }.items():
        exec(compile(code, "work.py", "exec"), scope := {"text": text})  # at the level of a module, as in an import
        found = environment_error(scope["raised"], variables)
        assert str(found).startswith(words) if words else found is None


@pytest.mark.parametrize(
    ("name", "value"), [("WANDB_MODE", "sometimes"), ("WANDB_BASE_URL", "nowhere"), ("WANDB_SILENT", "perhaps")]
)
def test_variables_of_wandb(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_variables()
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}: W&B does not accept the value of this environment variable"):
        check_variables()
