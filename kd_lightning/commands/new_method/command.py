"""Write the files of a new method from templates, without importing torch."""

import sys
import time
from pathlib import Path
from string import Template

from kd_lightning.commands.catalog import PACKAGE
from kd_lightning.commands.new_method import names, package_entries
from kd_lightning.errors import ConfigError
from kd_lightning.io.atomic import atomic_write

TEMPLATES = Path(__file__).with_name("templates")
_IMPORTS = """
from kd_lightning.data import Digits
from kd_lightning.errors import ConfigError
{}from kd_lightning.models import Features, Network
{}"""


class NewMethod:
    """Writes a new method, its test and its config. They work as written; then put your method in their place.

    `new-method MyLoss` writes `myloss.py` with the class `MyLoss`, `test_myloss.py` and `myloss.yaml` into the current
    folder. Other files are never overwritten.

    Args:
        name: name of the method's class, such as `MyLoss`.
        package: write the files into this package and its configs and tests, and add all entries that a method of the
            package has. This needs a checkout of the source code.
    """

    def __init__(self, name: list[str], package: bool = False) -> None:
        if len(name) != 1:
            raise ConfigError(f"name: {len(name)} names are given; give one, as in: new-method MyLoss")
        self.class_name, self.module = names.class_and_module(name[0])
        self.package = package

    def __call__(self) -> list[Path]:
        """Write the files, print their names and the next commands, and return their paths."""
        root = package_entries.checkout() if self.package else Path()
        method, test, config = self._paths(root)
        texts = {method: self._filled("method"), test: self._filled("test"), config: self._filled("config")}
        for path in texts:
            if path.exists():
                raise ConfigError(f"name: {path} exists already; choose another name, or remove this file")
        names.check_free(self.class_name, self.module, texts[method], installed=not self.package)
        entries = package_entries.entries(root, self.class_name, self.module) if self.package else {}
        for path, text in (texts | entries).items():
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        for path in texts:
            print(f"wrote    {path}")
        for path in entries:
            print(f"changed  {path}")
        if self.package:
            package_entries.rewrite(root)
        self._print_next(test, config)
        return [*texts]

    def _paths(self, root: Path) -> tuple[Path, Path, Path]:
        if not self.package:
            return Path(f"{self.module}.py"), Path(f"test_{self.module}.py"), Path(f"{self.module}.yaml")
        return (
            PACKAGE / "methods" / f"{self.module}.py",
            root / "tests" / "methods" / f"test_{self.module}.py",
            root / "configs" / "digits" / f"{self.module}.yaml",
        )

    def _filled(self, name: str) -> str:
        own = f"from {{}} import {self.class_name}, {self.module}_loss\n".format
        inside = own(f"kd_lightning.methods.{self.module}") if self.package else ""
        values = {
            "class_name": self.class_name,
            "module": self.module,
            "year": str(time.localtime().tm_year),
            "imports": _IMPORTS.format(inside, "" if self.package else f"\n{own(self.module)}"),
            "class_path": self.class_name if self.package else f"{self.module}.{self.class_name}",
            "config": f"configs/digits/{self.module}.yaml" if self.package else f"{self.module}.yaml",
        }
        return Template((TEMPLATES / f"{name}.txt").read_text(encoding="utf-8")).substitute(values)

    def _print_next(self, test: Path, config: Path) -> None:
        tests = f"python -m pytest {_short(test)}"
        if self.package:
            tests = f'python -m pytest -m "not slow and not gpu" -k "{self.class_name} or {self.module}" tests'
        print(f"\nNext:\n  {tests}\n  python -m kd_lightning fit --config {_short(config)}")
        print("\nReplace the words in capital letters. docs/adding-a-method.md explains each part of the file.")
        sys.stdout.flush()


def _short(path: Path) -> str:
    """Return a path relative to the current folder if it is in this folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
