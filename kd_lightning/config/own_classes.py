"""Errors about the user's own classes in a config: the file, the line and the exception, in one line.

jsonargparse only reports that a class does not fit a field. This module imports the file again to find the reason. It
imports only files of the user, and neither torch nor Lightning by itself.
"""

import importlib
import importlib.util
import inspect
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kd_lightning.config.classes import base_of, bases_of, classes_of, import_class
from kd_lightning.config.nearby_classes import class_paths
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.io.own_files import is_own, own_frame, reason

_NAMED = (
    r"(?:Given value: |class_path '|Expected a path but |import path string: |path format: |Import path |Expected ')"
    r"([A-Za-z_]\w*(?:\.\w+)+)"
)
_WITHOUT_MODULE = (
    r"(?:Expected a dot import path string: |Unexpected import path format: |Given value: |class_path ')"
    r"([\w./]*[A-Za-z_]\w*)'?$"
)
"""Pattern of a class that is given without a module, and of a file that is given for a class."""
_DERIVE = {"StudentModule": "Distiller"}


def own_class_error(message: str, field: str, options: set[str] = frozenset()) -> str:
    """Return the reason why a class in a file of the user cannot be used; '' for messages about anything else."""
    bases = bases_of(field)
    for class_path in dict.fromkeys(re.findall(_NAMED, message)) if bases else ():
        if line := _problem(class_path, bases, classes_of(field)):
            return f"{field}: {line}"
    for given in dict.fromkeys(re.findall(_WITHOUT_MODULE, message, re.MULTILINE)) if bases else ():
        if found := [] if given in classes_of(field) else class_paths(given):
            return f"{field}: {given} is not a module and a class; give {' or '.join(found[:3])}"
    return ""


def _problem(class_path: str, bases: tuple[type, ...], choices: set[str]) -> str:
    module, _, name = class_path.rpartition(".")
    file = _file_of(module)
    if file is None:
        return _no_module(module, [*([name] if name in choices else []), *class_paths(class_path)])
    if not is_own(file):
        return ""
    try:
        content = vars(importlib.import_module(module))
    except BaseException as error:
        return _not_imported(error, file)
    own = {key: each for key, each in content.items() if inspect.isclass(each) and each.__module__ == module}
    if name not in content:
        return f"{Path(file).name} has no class {name}{nearest(name, own)}"
    if not inspect.isclass(kind := content[name]):
        return f"{class_path} is not a class, but of type {type(kind).__name__}{nearest(name, own)}"
    place = f"{Path(file).name}, line {_line_of(kind)}"
    if not issubclass(kind, bases):
        base = bases[0].__name__
        derived = ", ".join(each.__name__ for each in kind.__bases__)
        return (
            f"{class_path} is not a subclass of {base}; its base class is {derived} ({place}); derive it from "
            f"{_DERIVE.get(base, base)}"
        )
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        found = get_close_matches(missing[0], vars(kind), n=1)
        hint = f"; it defines {found[0]}, which may be misspelt" if found else ""
        return f"{class_path} does not define {', '.join(missing)} ({place}){hint}"
    return ""


def _file_of(module: str) -> str | None:
    """Return the source file of a module, '' if it has none, or None if there is no such module."""
    if module in sys.modules:
        return getattr(sys.modules[module], "__file__", None) or ""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        return None if f"{module}.".startswith(f"{error.name}.") else ""
    except (ImportError, ValueError, SyntaxError):
        return ""
    return None if spec is None else spec.origin or ""


def _no_module(module: str, choices: list[str]) -> str:
    first = module.partition(".")[0]
    if _file_of(first) is not None and first != module:  # a module that is missing in a package
        return ""
    close = get_close_matches(first, [path.stem for path in Path().glob("*.py")], n=3, cutoff=0.5)
    close = [f"{name}.py" for name in close] + choices
    hint = f"; nearest: {', '.join(close)}" if close else ""
    return f"there is no module {module}: neither {first}.py in {Path.cwd()} nor an installed package{hint}"


def _not_imported(error: BaseException, file: str) -> str:
    line = reason(error) or f"{Path(file).name}: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        remedy = "" if importlib.util.find_spec(package) else ", or run: pip install " + package
        return f"{line}; correct the import{remedy}"
    return line


def _line_of(kind: type) -> int:
    try:
        return inspect.getsourcelines(kind)[1]
    except (OSError, TypeError):
        return 1


def check_passes_arguments(model: Any) -> None:
    """Raise an error if the constructor of a method does not accept the arguments of every method.

    Args:
        model: The field `model` of a config, with `class_path` and `init_args`.

    Raises:
        ConfigError: in this case. The message names the class, its file and the line of its constructor.
    """
    if "student" in model.get("init_args", {}):
        return
    kind = import_class(model.class_path)
    code = kind.__init__.__code__
    raise ConfigError(
        f"model: {kind.__name__}.__init__ does not pass its arguments to its base class "
        f"({Path(code.co_filename).name}, line {code.co_firstlineno}); end its arguments with **kwargs, and call "
        "super().__init__(**kwargs)"
    )


def own_construction_error(error: BaseException | None) -> str:
    """Return the message about an object whose construction failed in a file of the user; '' for other exceptions.

    Args:
        error: Exception of jsonargparse, which wraps the exception of the constructor.
    """
    line = ""
    while error is not None:
        if isinstance(error, Exception) and (found := own_frame(error)):
            line = f"{_field_of(error)}{reason(error)}" if found else line
        error = error.__cause__ or error.__context__
    return line


def _field_of(error: BaseException) -> str:
    """Return the field and the class of the object in whose constructor an exception was raised, as a prefix."""
    frame = error.__traceback__
    prefix = ""
    while frame is not None:
        one: Any = frame.tb_frame.f_locals.get("self")
        if is_own(frame.tb_frame.f_code.co_filename) and (field := base_of(one)):
            prefix = f"{field}: {type(one).__name__} cannot be built, "
        frame = frame.tb_next
    return prefix
