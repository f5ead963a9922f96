"""CINIC-10 (Darlow et al. 2018): CIFAR-10's classes, with additional images from ImageNet."""

from typing import Any

from kd_lightning.data.folder import ImageFolder
from kd_lightning.errors import ConfigError


class CINIC10(ImageFolder):
    """CINIC-10: 90,000 training, 90,000 validation and 90,000 test images of 32x32 pixels.

    The classes and their order are those of CIFAR-10. The data set must be downloaded manually
    (datashare.ed.ac.uk/handle/10283/3192). `Batch.indices` are defined as for `ImageFolder`.

    Args:
        path: Folder with `train/`, `valid/` and `test/`, or the official archive.
        **kwargs: Arguments of every data set.

    Raises:
        ConfigError: if the folder has other classes.
    """

    official_side = 32
    official = "airplane automobile bird cat deer dog frog horse ship truck".split()

    def __init__(self, *, path: str = "data/CINIC-10", **kwargs: Any) -> None:
        super().__init__(path=path, size=self.official_side, **kwargs)
        self.name = "cinic10"
        if self.class_names != self.official:
            raise ConfigError(
                f"data.path: {self.path} has the classes {', '.join(self.class_names[:3])}, ..., not those of CINIC-10"
            )
