"""The check of the environment variables that start a run. This module imports neither torch nor Lightning.

Lightning reads some of these variables when it is imported, and would fail with a traceback.
"""

import os
import re
import traceback
from collections.abc import Mapping

from kd_lightning.errors import ConfigError, one_line

_LEAST = {
    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_NNODES", "MASTER_PORT"), 1),
    **dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "JSM_NAMESPACE_RANK"), 0),
    **dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID", "SLURM_JOBID"), 0),
}
"""Variables that contain an integer, and the smallest valid integer of each variable."""
_MOST = {"MASTER_PORT": 65535}
_BELOW = {
    "RANK": "WORLD_SIZE",
    "LOCAL_RANK": "LOCAL_WORLD_SIZE",
    "SLURM_PROCID": "SLURM_NTASKS",
    "SLURM_NODEID": "SLURM_NNODES",
}
"""Variables that contain an index. For each of them, the variable that contains the number of indices."""
_DEVICES = re.compile(r"\s*(-?\d+|(GPU|MIG)-[\w/-]+|NoDevFiles|none|void|all)?\s*", re.IGNORECASE)
_OF_LIBRARIES = re.compile(
    r"(TORCH|PYTORCH|TRITON|MPL|HF_|HUGGINGFACE|WANDB|XDG_|OMP_|KMP_|MKL|CUDA|NCCL|GLOO|PL_|NUMEXPR|LC_)\w*"
    r"|HOME|TMPDIR|TEMP|TMP|LANG|COLUMNS|LINES"
)
"""Variables that libraries read."""


def environment_error(error: BaseException, variables: Mapping[str, str] = os.environ) -> ConfigError | None:
    """Return an error of one line if a library does not accept the value of an environment variable.

    Matplotlib (MPLBACKEND), torch (TORCH_LOGS, TORCHINDUCTOR_CACHE_DIR) and other libraries read such variables while
    they are imported. Their exception contains the name or the value of the variable.

    Args:
        error: Exception that was raised.
        variables: Environment variables.

    Returns:
        The error, or None if the exception was not raised by an import, or if it contains no variable.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, Exception) or not any(frame.name == "<module>" for frame in frames):
        return None
    text = f"{error} {getattr(error, 'filename', None) or ''}"
    for name, value in sorted(variables.items()):
        texts = (name, value) if len(value) > 2 else (name,)
        is_named = any(re.search(rf"(?<![\w/]){re.escape(each)}(?![\w-])", text) for each in texts)
        if is_named and _OF_LIBRARIES.fullmatch(name):
            return ConfigError(
                f"{name}: a library does not accept the value {value[:60]!r} of this environment variable "
                f"({one_line(error, 200)}); correct it or unset it"
            )
    return None


def check_environment(variables: Mapping[str, str] = os.environ) -> None:
    """Raise an error if a variable of torchrun, SLURM or CUDA has a value that no launcher sets.

    Raises:
        ConfigError: for the first such variable. The message names the variable and its value.
    """
    numbers = {name: _number(name, variables[name]) for name in _LEAST if variables.get(name)}
    for index, count in _BELOW.items():
        if numbers.get(index) and count not in numbers and not variables.get("MASTER_ADDR"):
            raise ConfigError(
                f"{index}: the environment variable is {numbers[index]}, but {count} is not set, so that this process "
                f"would wait for others or write no results; unset {index}, or let torchrun or srun set both"
            )
        if index in numbers and count in numbers and numbers[index] >= numbers[count]:
            raise ConfigError(
                f"{index}: the environment variable is {numbers[index]}, but it must be less than {count}, which is "
                f"{numbers[count]}; unset both variables, or let torchrun or srun set them"
            )
    address = variables.get("MASTER_ADDR", "")
    if address and not re.fullmatch(r"[\w.:%-]+", address):
        raise ConfigError(
            f"MASTER_ADDR: the environment variable is {address[:60]!r}, which is not the name or address of a machine"
        )
    devices = variables.get("CUDA_VISIBLE_DEVICES", "")
    if not all(_DEVICES.fullmatch(device) for device in devices.split(",")):
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES: the environment variable is {devices[:60]!r}, which is not a list of GPUs; give "
            "numbers (0,1) or identifiers (GPU-...), or unset it"
        )


def _number(name: str, text: str) -> int:
    least, most = _LEAST[name], _MOST.get(name)
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*", text) or int(text) < least or (most is not None and int(text) > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(
            f"{name}: the environment variable is {text[:60]!r}, but it must be an integer {limits}; correct it or "
            "unset it"
        )
    return int(text)
