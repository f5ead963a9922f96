"""HEIC files: read where pillow-heif is installed, otherwise counted by extension, with what to do."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from kd_lightning.data import ImageFolder, files, formats
from kd_lightning.data.decode import center_square, dimensions, open_rgb
from kd_lightning.data.files import others_counted
from kd_lightning.errors import ConfigError

START = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40
"""The first bytes of a HEIC file."""
needs_heif = pytest.mark.skipif(not formats.READS_HEIC, reason="pillow-heif is not installed (the extra heic)")


@pytest.fixture
def unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, in which HEIC files cannot be read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(formats, "READS_HEIC", False)
    monkeypatch.setattr(formats, "FORMATS", tuple(name for name in formats.FORMATS if name != "HEIC_PIXELS"))
    monkeypatch.setattr(files, "SUFFIXES", files.SUFFIXES - files.HEIC_SUFFIXES)
    return tmp_path / "photos"


def write(path: Path, content: bytes = START) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_other_files_are_counted_by_extension(unread: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(files, "rank_zero_info", said.append)
    for number in range(4):
        write(unread / f"{number}.HEIC")
        write(unread / "videos" / f"{number}.mov")
        Image.new("RGB", (8, 8), "white").save(unread / f"{number}.jpg")
    write(unread / "README")
    write(unread / "0.heif")
    ImageFolder(path=str(unread), labeled=False, batch_size=2, val_split=0).setup("fit")
    assert said == [
        f"{unread}: 10 files are skipped that cannot be read as images: 4 .heic, 4 .mov, 1 .heif, 1 without extension; "
        "pip install 'kd_lightning[heic]' reads HEIC files, or convert them to JPEG"
    ]


def test_many_extensions_are_shortened_but_heic_is_named(unread: Path) -> None:
    names = [f"{number}.{suffix}" for suffix in "abcdefg" for number in range(2)] + ["x/1.heic", ".DS_Store"]
    advice = "; pip install 'kd_lightning[heic]' reads HEIC files, or convert them to JPEG"
    assert others_counted(names) == f"2 .a, 2 .b, 2 .c, 2 .d, 2 .e, 1 .heic, 5 others{advice}"
    assert others_counted(["a.mov"]) == "1 .mov"


@pytest.mark.parametrize("labeled", [True, False])
def test_a_folder_of_heic_alone_says_so(labeled: bool, unread: Path) -> None:
    for name in ("cat", "dog"):
        write(unread / name / "1.heic")
    with pytest.raises(ConfigError) as refused:
        ImageFolder(path=str(unread), labeled=labeled, batch_size=2).setup("fit")
    advice = "pip install 'kd_lightning[heic]' reads HEIC files, or convert them to JPEG"
    assert str(refused.value) == f"data.path: {unread} contains no images, but 2 .heic; {advice}"
    Image.new("RGB", (8, 8), "white").save(unread / "dog" / "1.png")
    if labeled:
        with pytest.raises(
            ConfigError, match=r"cat contains no images \(it contains 1 .heic; pip install .*\), but eac"
        ):
            ImageFolder(path=str(unread), batch_size=2).setup("fit")


def test_a_heic_file_with_the_name_of_a_jpeg_says_so(unread: Path) -> None:
    """Some programs rename the files of a phone and do not convert them."""
    write(unread / "1.jpg")
    with pytest.raises(formats.UnreadableError, match=r"it is a HEIC file; pip install 'kd_lightning\[heic\]' reads"):
        open_rgb(unread / "1.jpg")
    write(unread / "2.jpg", b"no image at all")
    with pytest.raises(formats.UnreadableError, match="not an image of a supported format"):
        open_rgb(unread / "2.jpg")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A HEIC file of 96 x 64 pixels, whose left half is red and whose right half is blue."""
    import pillow_heif

    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :48, 0], pixels[:, 48:, 2] = 255, 255
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "photo.heic", quality=95)
    return tmp_path / "photo.heic"


def mean(image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    return np.asarray(image.crop(box)).reshape(-1, 3).mean(0)


@needs_heif
def test_a_heic_file_is_read(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert dimensions(photo) == (96, 64)
    image = open_rgb(photo.read_bytes())
    assert (image.mode, image.size) == ("RGB", (96, 64))
    assert mean(image, (2, 2, 40, 60)) == pytest.approx([255, 0, 0], abs=12)
    assert mean(image, (56, 2, 94, 60)) == pytest.approx([0, 0, 255], abs=12)
    assert center_square(photo, 16).size == (16, 16)
    for name in ("1.heic", "2.HEIF", "3.jpg"):  # the content decides
        write(tmp_path / "photos" / name, photo.read_bytes())
    data = ImageFolder(path=str(tmp_path / "photos"), labeled=False, batch_size=2, val_split=0)
    data.setup("fit")
    assert len(data.datasets["train"]) == 3


@needs_heif
@pytest.mark.parametrize(("orientation", "size"), [(1, (96, 64)), (3, (96, 64)), (6, (64, 96))])
def test_the_orientation_is_applied_once(orientation: int, size: tuple[int, int], photo: Path) -> None:
    import pillow_heif

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = pillow_heif.from_pillow(open_rgb(photo))
    image.info["exif"] = exif.tobytes()
    image.save(photo, quality=95)
    upright = open_rgb(photo)
    assert upright.size == dimensions(photo) == size
    red = {1: (2, 2, 40, 60), 3: (56, 2, 94, 60), 6: (2, 2, 60, 40)}[orientation]
    assert mean(upright, red) == pytest.approx([255, 0, 0], abs=12)


@needs_heif
def test_damaged_heic_files_are_unreadable_and_nothing_else(photo: Path) -> None:
    content = photo.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content[: rng.integers(20, len(content))] if rng.random() < 0.3 else content)
        for place in rng.integers(12, len(damaged), 8):
            damaged[place] = rng.integers(256)
        for work in (open_rgb, dimensions):
            with suppress(formats.UnreadableError):
                work(bytes(damaged))
