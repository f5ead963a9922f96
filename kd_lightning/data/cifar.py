"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009)."""

import pickle
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from kd_lightning.data.archives import extract
from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.downloads import fetch
from kd_lightning.data.images import StoredImages
from kd_lightning.errors import ConfigError


class CIFAR10(ImageData):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in 10 classes.

    Classes are in the official order, airplane to truck; `Batch.indices` follow the order of the official batch files.

    Args:
        path: folder with `cifar-10-batches-py`, or the folder to which it is downloaded.
        **kwargs: as for every data set.
    """

    num_classes = 10
    class_names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    name = "cifar10"
    official = datasets.CIFAR10
    labels_key = "labels"

    def __init__(self, *, path: str = "data", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = Path(path).expanduser()

    def _files(self) -> list[tuple[Path, str]]:
        files = [*self.official.train_list, *self.official.test_list]
        return [(self.path / self.official.base_folder / name, checksum) for name, checksum in files]

    def download(self) -> None:
        """Unpack the official archive if files are missing, and download it if it is missing as well.

        Raises:
            ConfigError: if it cannot be downloaded, or an existing file has a wrong checksum.
        """
        if all(file.exists() for file, _ in self._files()):
            return  # their checksums are verified when they are read
        archive = self.path / self.official.filename
        fetch(self.official.url, archive, self.official.tgz_md5, field="data.path")
        extract(archive, self.path, "data.path")

    def load(self, split: Split) -> StoredImages | None:
        if split == "val":
            return None
        files = self._files()
        count = len(self.official.train_list)
        images, labels = [], []
        for file, checksum in files[:count] if split == "train" else files[count:]:
            if not check_integrity(file, checksum):
                state = "has a wrong checksum; delete it to unpack it again" if file.exists() else "is missing"
                raise ConfigError(f"data.path: {file} {state}")
            with file.open("rb") as stream:
                try:
                    content = _ArrayUnpickler(stream, encoding="latin1").load()
                except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError) as error:
                    raise ConfigError(f"data.path: {file} contains other objects than arrays ({error})") from error
            images.append(content["data"])
            labels += content[self.labels_key]
        tensor = torch.from_numpy(np.concatenate(images)).view(-1, 3, 32, 32)
        return StoredImages(tensor, torch.tensor(labels))


class CIFAR100(CIFAR10):
    """CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels in 100 classes, or 20 superclasses.

    Classes are in alphabetical order, as the official labels; `Batch.indices` follow the order of the files.

    Args:
        path: folder with `cifar-100-python`, or the folder to which it is downloaded.
        labels: `fine`: the 100 classes; `coarse`: the 20 superclasses of five classes each.
        **kwargs: as for every data set.
    """

    num_classes = 100
    class_names = (
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
        "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
        "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
        "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
        "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
        "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
        "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
    ).split()
    superclasses = (
        "aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices "
        "household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes "
        "large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees "
        "vehicles_1 vehicles_2"
    ).split()
    name = "cifar100"
    official = datasets.CIFAR100
    labels_key = "fine_labels"

    def __init__(self, *, path: str = "data", labels: Literal["fine", "coarse"] = "fine", **kwargs: Any) -> None:
        super().__init__(path=path, **kwargs)
        self.labels_key = f"{labels}_labels"
        if labels == "coarse":
            self.num_classes, self.class_names, self.name = 20, self.superclasses, "cifar100-coarse"


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler restricted to numpy arrays in plain containers, as in the official files; it cannot execute code."""

    _allowed = frozenset({"numpy._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode"})

    def __init__(self, file: BufferedReader, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        if f"{module.split('.')[0]}.{name}" in self._allowed:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")
