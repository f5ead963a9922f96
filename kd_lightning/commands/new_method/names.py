"""The names of a new method: its class and its module, and whether they are free."""

import ast
import importlib.util
import keyword
import re
import sys

from kd_lightning.commands import catalog
from kd_lightning.errors import ConfigError

_TERMS = {"ce", "kd", "loss", "lr", "acc"}
"""Names of the values that the base class logs as `train/<name>`."""


def class_and_module(name: str) -> tuple[str, str]:
    """Return the name of the class and the name of its module: `MyLoss`, `myloss`; `my_loss` gives `MyLoss`, `my_loss`.

    Raises:
        ConfigError: if the name cannot be the name of a class.
    """
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or name.startswith("_"):
        words = [word for word in re.split(r"[^A-Za-z0-9]+", name.removesuffix(".py")) if word]
        proposed = "".join(word[0].upper() + word[1:] for word in words).lstrip("0123456789")
        usable = proposed and not keyword.iskeyword(proposed)
        raise ConfigError(
            f"name: {name!r} cannot be the name of a class; use letters, digits and underscores, such as "
            f"{proposed if usable else 'MyLoss'}"
        )
    if name != name.lower():
        return name[0].upper() + name[1:], name.lower()
    return "".join(word.capitalize() for word in name.split("_")), name


def check_free(class_name: str, module: str, text: str, *, installed: bool) -> None:
    """Raise an error if a name has another meaning already.

    Args:
        class_name: Name of the class.
        module: Name of the module.
        text: Source of the module; its imports are names that the class must not have.
        installed: Whether the module is imported by its own name, so that it would hide another module of this name.

    Raises:
        ConfigError: in this case.
    """
    classes = [*catalog.exported("methods"), *catalog.exported("distillation")]
    if taken := next((name for name in classes if name.lower() in (class_name.lower(), module.replace("_", ""))), ""):
        raise ConfigError(f"name: {class_name} is taken by {taken} of this package; choose another name")
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    if class_name in {name.asname or name.name for node in imports for name in node.names}:
        raise ConfigError(f"name: {class_name} is taken by a class that the file imports; choose another name")
    if module in _TERMS:
        raise ConfigError(f"name: train/{module} is logged by every method; choose another name than {class_name}")
    if installed and (module in sys.stdlib_module_names or importlib.util.find_spec(module)):
        raise ConfigError(f"name: {module}.py would hide the installed module {module}; choose another name")
