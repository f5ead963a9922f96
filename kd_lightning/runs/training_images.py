"""Find the images that `predict` reads and from which the run was trained."""

import filecmp
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from jsonargparse import Namespace

from kd_lightning.data.archives import is_archive, unpacked_folder
from kd_lightning.io.paths import expand

_MOST_PARTS = 3
"""Number of parts at the end of a path by which a copy of an image is found: `train/<class>/<file>`."""


class TrainingImages(NamedTuple):
    """The place of a run's training images."""

    place: Path
    """Folder or archive that the config of the run names, or its folder `train`."""
    folder: Path
    """Real path of the folder with the images. For an archive, it is in the cache."""

    @classmethod
    def of(cls, config: Namespace) -> Self | None:
        """Return the place of the training images of a config; None if it is unknown, or if nothing is there."""
        path = (config.data.get("init_args") or Namespace()).get("path")
        if not isinstance(path, str) or not path:
            return None
        place = folder = expand(path).resolve()
        if is_archive(place):
            folder = unpacked_folder(place).resolve()
        if not folder.is_dir():
            return None
        if (folder / "train").is_dir():
            place, folder = place / "train", folder / "train"
        return cls(place, folder)

    def note(self, paths: Sequence[str]) -> str:
        """Return the end of a line: how many of the images are training images of the run; '' if none are.

        An image counts if it is in the folder. A copy in another folder or archive also counts, if the name of its
        file, or its path from the folder of the class on, is that of a file in the folder with the same content.
        """
        real = {folder: Path(folder).resolve() for folder in {os.path.dirname(path) for path in paths}}
        inside = {folder for folder, resolved in real.items() if resolved.is_relative_to(self.folder)}
        count = sum(os.path.dirname(path) in inside or self._has_copy(path) for path in paths)
        if not count:
            return ""
        return (
            f"; {count:,} of the {len(paths):,} images {'is' if count == 1 else 'are'} in {self.place}, from which the "
            "run was trained, so this is not the accuracy on new images; without --data.path, predict reads only the "
            "test images"
        )

    def _has_copy(self, path: str) -> bool:
        parts = Path(path).parts
        for count in range(1, min(_MOST_PARTS, len(parts)) + 1):
            with suppress(OSError):  # there is no such file
                if filecmp.cmp(path, self.folder.joinpath(*parts[-count:]), shallow=False):
                    return True
        return False
