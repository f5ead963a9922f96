"""Sub-configs: files whose content is the value of one field, as in `data: ../base/data.yaml`.

jsonargparse reads these files. Their paths are relative to the config that names them. This module imports neither
torch nor Lightning.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kd_lightning.errors import ConfigError
from kd_lightning.io.safe_yaml import load_yaml

_FILE = r"(?P<file>[^'\"\n]+\.ya?ml)"
_INVALID = (
    rf"Invalid content in sub-config file {_FILE}: (?P<reason>[^\n]+)",
    rf"Unable to load config ['\"]{_FILE}['\"]\s*-\s*+(?!Parser key|Group|Option|Expected a)(?P<reason>[^\n]+)",
)
_MISSING = (
    rf"Expected a path but {_FILE} either not accessible",
    rf"Unable to load config ['\"]{_FILE}['\"]\s*-\s*Parser key \"[^\"]+\":\s*Unable to load config",
)
_UNFIT = r"Config file loop detected: (?P<file>\S+) -> (?P=file)(?:\s|$)"


def sub_config_error(message: str, field: str, options: set[str] = frozenset()) -> str:
    """Return a better message for a message of jsonargparse (4.53) about a sub-config.

    Return '' for messages about anything else. If the content of a file does not fit the argument of a class (such as
    `model.optimizer`), jsonargparse opens the file again and reports a loop.
    """
    for pattern in _INVALID:
        if found := re.search(pattern, message):
            return f"{field}: {found['file']} is not a valid sub-config ({found['reason'].strip()})"
    for pattern in _MISSING:
        if found := re.search(pattern, message):
            return f"{field}: there is no file {found['file']}; give its path relative to the config that names it"
    if found := re.search(_UNFIT, message):
        return (
            f"{field}: the content of {found['file']} does not fit this field; write the content into the config to "
            "see the reason"
        )
    return ""


def check_no_further_config(files: Iterable[Any]) -> None:
    """Raise an error if a config names a further config in a field `config`.

    jsonargparse 4.53 would ignore some settings of the further config.

    Raises:
        ConfigError: if a config has a field `config`. The message names the file.
    """
    for file in files:
        if file is None or not Path(str(file)).is_file():
            continue
        content = load_yaml(Path(str(file)).read_text())
        if isinstance(content, dict) and content.get("config") is not None:
            raise ConfigError(
                f"config: {file} names another config in its field `config`; give both files with --config, or give "
                "one file per field (data: FILE)"
            )
