"""Images whose pixels are far from white: scaled where the file states its bits, otherwise a warning with the range."""

from io import BytesIO
from pathlib import Path
from struct import pack
from zlib import compress, crc32

import numpy as np
import pytest
import torch
from PIL import Image

from kd_lightning.data import ImageFolder
from kd_lightning.data.decode import as_tensor, open_rgb
from kd_lightning.errors import ConfigError

RAMP = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
"""Values of 12 bits."""


def of(root: Path, **kwargs: object) -> ImageFolder:
    data = ImageFolder(path=str(root), **{"batch_size": 4, "val_split": 0, "augmentations": [], **kwargs})
    data.setup("fit")
    data.setup("test")
    return data


def write(root: Path, file: Path | bytes | Image.Image, ending: str, count: int = 4) -> Path:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                path = root / split / name / f"{number}{ending}"
                path.write_bytes(file) if isinstance(file, bytes) else file.save(path)
    return root


def color_16_bits(values: np.ndarray) -> bytes:
    """A PNG with three equal channels of 16 bits, which Pillow cannot write."""
    rows = np.repeat(values[..., None], 3, -1).astype(">u2")
    header = pack(">IIBBBBB", *values.shape[::-1], 16, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": compress(b"".join(b"\0" + row.tobytes() for row in rows)), b"IEND": b""}
    parts = [pack(">I", len(data)) + name + data + pack(">I", crc32(name + data)) for name, data in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


DARK = {
    "12 bits in a PNG of 16": (Image.fromarray(RAMP), ".png", "are 0 to 4,095, but white is 65,535"),
    "12 bits in a TIFF of 16": (Image.fromarray(RAMP), ".tif", "are 0 to 4,095, but white is 65,535"),
    "14 bits": (Image.fromarray(RAMP * 4), ".png", "are 0 to 16,380, but white is 65,535"),
    "8 bits in a TIFF of 32": (
        Image.fromarray((RAMP // 16).astype(np.int32)),
        ".tif",
        "are 0 to 255, but white is 65,535",
    ),
    "4 bits in a PNG of 8": (Image.fromarray((RAMP // 256).astype(np.uint8)), ".png", "are 0 to 15, but white is 255"),
    "12 bits in colours of 16": (color_16_bits(RAMP), ".png", "are 0 to 15, but white is 255"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("case", DARK)
@pytest.mark.parametrize("limit", [4.0, 0.0])
def test_dark_images_are_named_with_their_range_once(case: str, limit: float, tmp_path: Path) -> None:
    image, ending, words = DARK[case]
    write(tmp_path / "pets", image, ending)
    for _ in range(2):  # the second start reads the cache
        with pytest.warns(UserWarning, match="so these images are dark") as warnings:
            of(tmp_path / "pets", memory_limit=limit)
        (line,) = (str(warning.message) for warning in warnings if "dark" in str(warning.message))
        assert line.startswith(
            f"data.path: the pixel values of 8 examined images (for example {tmp_path}/pets/train/cat/0{ending}) "
        )
        assert words in line


def test_dark_images_among_others_are_found_by_their_bits(tmp_path: Path) -> None:
    bright = np.full((8, 8), 250, np.uint8)
    write(tmp_path / "pets", Image.fromarray(bright), ".png", count=5)
    for file, words in ((png_16(RAMP), "0 to 4,095, but white is 65,535"), (color_16_bits(RAMP), "0 to 15, but")):
        (tmp_path / "pets" / "train" / "dog" / "9.png").write_bytes(file)
        found = rf"values of 1 examined image \(for example .*/dog/9.png\) are {words}"
        with pytest.warns(UserWarning, match=found):
            of(tmp_path / "pets")


def test_usual_images_are_not_called_dark(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """An image may be dark if another image is not."""
    write(tmp_path / "pets", Image.fromarray(np.full((8, 8), 9, np.uint8)), ".png", count=6)
    for split in ("train", "test"):
        Image.fromarray(np.full((8, 8), 90, np.uint8)).save(tmp_path / "pets" / split / "cat" / "0.png")
    of(tmp_path / "pets")
    assert not [warning for warning in recwarn if "dark" in str(warning.message)]


def tiff_12_bits(values: np.ndarray) -> bytes:
    """A TIFF that states its 12 bits per pixel."""
    height, width = values.shape
    bits = "".join(f"{value:012b}" for value in values.flatten())
    pixels = int(bits, 2).to_bytes(len(bits) // 8, "big")
    entries = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(pixels)}
    rows = b"".join(pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + pack("<H", len(entries)) + rows + bytes(4)


def png_16(values: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


STATED = {
    "12 bits in a TIFF": tiff_12_bits(RAMP),
    "a largest value of 4095 in a PGM": b"P5 8 8 4095\n" + RAMP.astype(">u2").tobytes(),
    "16 bits in a PNG": png_16(RAMP.astype(np.int64) * 65535 // 4095),
}


@pytest.mark.parametrize("case", STATED)
def test_stated_bits_are_scaled_to_8(case: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    pixels = as_tensor(open_rgb(STATED[case]))[0].numpy()
    assert np.abs(pixels - RAMP.astype(np.float64) * 255 / 4095).max() <= 1
    of(write(tmp_path / "pets", STATED[case], ".png"))
    assert not [warning for warning in recwarn if "dark" in str(warning.message)]


def test_floating_point_pixels_are_unreadable_with_their_range(tmp_path: Path) -> None:
    words = r"floating-point numbers with an unknown range \(0 to 4095 in this file\)"
    with pytest.raises(ConfigError, match=f"data.path: .*/train/cat/0.tif .*{words}"):
        of(write(tmp_path / "pets", Image.fromarray(RAMP.astype(np.float32)), ".tif"))


@pytest.mark.parametrize(("lowest", "highest"), [(-1024, 3071), (0, 65536), (0, 2**31 - 1)])
def test_values_outside_16_bits_are_not_clipped(lowest: int, highest: int, tmp_path: Path) -> None:
    pixels = np.array([[lowest, highest]], np.int32).repeat(4, 0)
    words = f"its pixels have values from {lowest:,} to {highest:,}, but only values from 0 to 65,535 are supported"
    with pytest.raises(ConfigError, match=f"data.path: .*/train/cat/0.tif .*{words}"):
        of(write(tmp_path / "pets", Image.fromarray(pixels), ".tif"), size=4)


@pytest.mark.parametrize("limit", [4.0, 0.0])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_a_readable_image_is_an_error_before_the_first_step(
    split: str, limit: float, tmp_path: Path
) -> None:
    write(tmp_path / "pets", Image.new("RGB", (8, 8), "white"), ".png", count=20)
    for file in (tmp_path / "pets" / split).rglob("*.png"):
        file.write_bytes(file.read_bytes()[:45])  # the header can be read
    words = f"data.path: none of the .* images can be read, for example .*/{split}/cat/0.png"
    with pytest.raises(ConfigError, match=words):
        of(tmp_path / "pets", on_error="skip", memory_limit=limit, num_workers=0)


def test_a_class_of_which_no_image_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "pets", Image.new("RGB", (8, 8), "white"), ".png", count=6)
    for file in (tmp_path / "pets" / "train" / "dog").iterdir():
        file.write_bytes(file.read_bytes()[:45])
    with pytest.raises(
        ConfigError, match=r"data.on_error: none of the training images of the class 'dog' can be read; repair"
    ):
        of(tmp_path / "pets", on_error="skip")
    labels = of(tmp_path / "pets", on_error="skip", labeled=False, test_split=0, num_classes=2).datasets["train"].labels
    assert torch.equal(labels, torch.full((18,), -1))
