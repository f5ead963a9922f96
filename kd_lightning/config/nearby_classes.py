"""Classes in files of the current folder and of its subfolders: the names that a config must give for them."""

import re
from itertools import islice
from pathlib import Path

from kd_lightning.io.paths import read_text

_MOST_FILES = 500
_MOST_BYTES = 200_000


def class_paths(name: str) -> list[str]:
    """Return the import paths of the classes with a name, or of those in a file, below the current folder.

    The files are read as text and not imported. Only the current folder and its subfolders are searched.

    Args:
        name: Name of a class (`Cosine`), of a file (`./own/cosine.py`, `cosine`), or of a class in a file
            (`own/cosine.Cosine`).
    """
    name = re.sub(r"^(?:\./)+", "", name)
    if name.endswith(".py"):
        return [path for path, file in _classes() if file == Path(name)]
    wanted = name.replace("/", ".").replace(".py.", ".")
    return [path for path, _ in _classes() if f".{path}".endswith(f".{wanted}") or path.rpartition(".")[0] == wanted]


def _classes() -> list[tuple[str, Path]]:
    files = islice((file for pattern in ("*.py", "*/*.py") for file in sorted(Path().glob(pattern))), _MOST_FILES)
    return [
        (".".join([*file.with_suffix("").parts, name]), file)
        for file in files
        if all(part.isidentifier() for part in file.with_suffix("").parts) and not file.name.startswith("test_")
        for name in re.findall(r"^class ([A-Za-z]\w*)", _text(file), re.MULTILINE)
    ]


def _text(file: Path) -> str:
    try:
        small = file.is_file() and file.stat().st_size <= _MOST_BYTES
        return read_text(file) if small else ""
    except (OSError, UnicodeDecodeError):
        return ""
