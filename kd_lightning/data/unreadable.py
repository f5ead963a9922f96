"""Decode all images of a data set, to find the files that cannot be read before the first run."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kd_lightning.data.decode import levels
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.formats import UnreadableError


def unreadable(images: EncodedImages) -> dict[str, str]:
    """Decode all images with several threads, and return the reason for each file that cannot be read, by its name.

    The header of a truncated file can be read, so only decoding finds it. A large JPEG is decoded at a reduced size.
    """

    def reason(row: int) -> str | None:
        try:
            levels(images.sources[row])
        except UnreadableError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        reasons = pool.map(reason, range(len(images)))
        return {str(images.sources.names[row]): why for row, why in enumerate(reasons) if why is not None}


def unreadable_files(load: Callable[[str], object], most: int) -> tuple[dict[str, str], int, bool]:
    """Examine the training, validation and test images of a data set that are in files.

    Args:
        load: Function that returns the images of a split, or None, as `ImageData.load`.
        most: Number of images above which no image is decoded.

    Returns:
        The reason for each file that cannot be read, by its name; the number of images in files; and whether the
        images were decoded.
    """
    splits = [images for split in ("train", "val", "test") if isinstance(images := load(split), EncodedImages)]
    count = sum(map(len, splits))
    if count > most:
        return {}, count, False
    return {name: why for images in splits for name, why in unreadable(images).items()}, count, True
