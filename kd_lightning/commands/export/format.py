"""Format: base class of the export formats."""

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch

from kd_lightning.commands.export.exported_model import ExportedModel, InferenceFn
from kd_lightning.errors import ConfigError


class Format(ABC):
    """An export format: it writes a student to a file, and reads the file by the library that other programs use.

    Args:
        student: the exported model.
    """

    name: ClassVar[str]
    file: ClassVar[str]
    """Name of the file or folder."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages that the format needs, and that are not dependencies of the project."""

    def __init__(self, student: ExportedModel) -> None:
        self.student = student

    @classmethod
    def check(cls) -> None:
        """Raise an error if the format's packages are not installed.

        Raises:
            ConfigError: if a package is missing; the message contains the command that installs it.
        """
        missing = [package for package in cls.needs if find_spec(package) is None]
        if missing:
            raise ConfigError(f"format: {cls.name} needs {', '.join(missing)}: pip install 'kd_lightning[export]'")

    @property
    def side(self) -> int:
        """Side of the input images in pixels."""
        return self.student.side

    def to_input(self, images: torch.Tensor) -> torch.Tensor:
        """Convert uint8 images, N,3,S,S, to the format's input."""
        return images

    @abstractmethod
    def write(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the file, including the facts about its origin."""

    @abstractmethod
    def read(self, path: Path, threads: int) -> InferenceFn:
        """Read the file, and return a function that computes its outputs with this number of threads."""
