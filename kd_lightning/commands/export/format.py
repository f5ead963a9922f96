"""Format: what every kind of exported file has in common."""

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch

from kd_lightning.commands.export.deployed import Deployed, Run
from kd_lightning.errors import ConfigError


class Format(ABC):
    """One kind of file: made of a student once, written, and read back by what would read it elsewhere.

    Args:
        student: what is exported.
    """

    name: ClassVar[str]
    file: ClassVar[str]
    """What it is called in the folder of exports."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages beyond the project's own."""

    def __init__(self, student: Deployed) -> None:
        self.student = student

    @classmethod
    def check(cls) -> None:
        """Refuses a format whose packages are not installed.

        Raises:
            ConfigError: with the line that installs them.
        """
        missing = [package for package in cls.needs if find_spec(package) is None]
        if missing:
            raise ConfigError(
                f"format: {cls.name} needs {', '.join(missing)}, not installed here: pip install 'kd_lightning[export]'"
            )

    @property
    def side(self) -> int:
        """Of the images that it takes."""
        return self.student.side

    def given(self, images: torch.Tensor) -> torch.Tensor:
        """Images uint8, N,3,S,S, as its `run` takes them."""
        return images

    @abstractmethod
    def write(self, path: Path, facts: dict[str, Any]) -> None:
        """Writes it, with the facts in it."""

    @abstractmethod
    def read(self, path: Path, threads: int) -> Run:
        """What was written, ready to run with that many threads."""
