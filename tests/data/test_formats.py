"""Which files are opened as images: by their content, of the listed formats, whatever their metadata contain."""

import os
import stat
import struct
from io import BytesIO
from pathlib import Path
from unittest.mock import Mock
from zlib import crc32

import pytest
import torch
from PIL import Image, ImageFile

from kd_lightning.data.decode import dimensions, open_rgb
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.files import SUFFIXES, Files
from kd_lightning.data.formats import UnreadableError
from kd_lightning.errors import ConfigError

OTHER_FORMATS = ("EPS", "ICO", "ICNS", "PCX", "SGI", "TGA", "DDS", "IM", "MSP", "SPIDER", "XBM", "PDF", "BLP")
HEADERS = {
    "FITS": b"SIMPLE  =                    T".ljust(2880),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0".ljust(40, b"\0"),
    "PSD": b"8BPS\0\1".ljust(40, b"\0"),
    "GRIB": b"GRIB\0\0\0\1".ljust(40, b"\0"),
    "HDF5": b"\x89HDF\r\n\x1a\n".ljust(40, b"\0"),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}
EXTENSIONS = {".jpg": "JPEG", ".tif": "TIFF", ".jp2": "JPEG2000", ".ppm": "PPM", ".pgm": "PPM", ".tiff": "TIFF"}
ORIENTATION, RESOLUTION, UNIT = 0x0112, 0x011A, 0x0128
RATIONAL, TEXT, SHORT = 5, 2, 3


def content(kind: str, side: int = 8, **kwargs: object) -> bytes:
    stream = BytesIO()
    mode = {"MSP": "1", "SPIDER": "F", "XBM": "1", "BLP": "P", "PGM": "L"}.get(kind, "RGB")
    Image.new(mode, (side, 2 * side)).save(stream, kind, **kwargs)
    return stream.getvalue()


def reason(source: Path | bytes) -> str:
    """Why a file is unreadable, for each function that reads one."""
    reasons = set()
    for read in (open_rgb, dimensions):
        with pytest.raises(UnreadableError) as raised:
            read(source)
        reasons.add(str(raised.value))
    (only,) = reasons
    return only


@pytest.mark.parametrize("kind", [*OTHER_FORMATS, *HEADERS])
def test_no_other_format_is_opened_and_no_program_is_started(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("gs", "gswin64c", "convert", "djpeg"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "photo.png").write_bytes(HEADERS.get(kind) or content(kind, side=16))
    assert reason(tmp_path / "photo.png").startswith("its content is not an image of a supported format: JPEG, PNG, ")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("suffix", sorted({*SUFFIXES} - {".heic", ".heif", ".hif"}))  # those: test_heic.py
def test_each_suffix_has_a_format_and_the_content_decides(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "photo.txt").write_bytes(content(EXTENSIONS.get(suffix, suffix[1:].upper())))
    assert open_rgb(tmp_path / "photo.txt").size == dimensions(tmp_path / "photo.txt") == (8, 16)


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data of tags, with type, count and the four bytes of the value or its position."""
    rows = [struct.pack(">HHI4s", tag, kind, count, value) for tag, kind, count, value in entries]
    return b"Exif\0\0MM\0\x2a\0\0\0\x08" + struct.pack(">H", len(rows)) + b"".join(rows) + bytes(4)


TURNED = (ORIENTATION, SHORT, 1, b"\0\6\0\0")
CENTIMETRES = (UNIT, SHORT, 1, b"\0\3\0\0")
DAMAGED = {
    "a resolution that is text": exif(TURNED, (RESOLUTION, TEXT, 3, b"72\0\0")),
    "an empty resolution": exif(TURNED, (RESOLUTION, TEXT, 1, b"\0\0\0\0"), CENTIMETRES),
    "no resolution": exif(TURNED, (RESOLUTION, RATIONAL, 0, bytes(4)), CENTIMETRES),
    "a resolution beyond the end": exif(TURNED, (RESOLUTION, RATIONAL, 1, b"\x7f\0\0\0"), CENTIMETRES),
    "an unknown type": exif(TURNED, (RESOLUTION, 77, 1, bytes(4))),
    "a table that contains itself": exif(TURNED, (0x8769, 4, 1, b"\0\0\0\x08"), (0x8825, 4, 1, b"\0\0\0\x08")),
    "a text for a table": exif(TURNED, (0x8769, TEXT, 4, b"abc\0"), (0x8825, TEXT, 4, b"abc\0")),
    "numbers without end": exif(TURNED, (0x9286, SHORT, 2**32 - 1, b"\0\0\0\x08")),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_metadata_do_not_matter_for_the_orientation(kind: str, damage: str) -> None:
    source = content(kind, exif=DAMAGED[damage])
    assert open_rgb(source).size == dimensions(source) == (16, 8)


NO_ORIENTATION = {
    "a text": exif((ORIENTATION, TEXT, 2, b"6\0\0\0")),
    "no number": exif((ORIENTATION, SHORT, 0, bytes(4))),
    "9": exif((ORIENTATION, SHORT, 1, b"\0\x09\0\0")),
    "not EXIF": b"Exif\0\0nonsense",
    "nothing": b"Exif\0\0",
    "a cut table": exif(TURNED)[:20],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("damage", NO_ORIENTATION)
def test_without_a_readable_orientation_the_image_is_as_stored(kind: str, damage: str) -> None:
    source = content(kind, exif=NO_ORIENTATION[damage])
    assert open_rgb(source).size == dimensions(source) == (8, 16)


@pytest.mark.parametrize("tag", [RESOLUTION, UNIT, 0x8769, 0x8825])
def test_damaged_metadata_of_a_tiff_do_not_matter(tag: int) -> None:
    metadata = Image.Exif()
    for number, value in {ORIENTATION: 6, RESOLUTION: 72.0, UNIT: 2, 0x8769: {0x9003: "1"}, 0x8825: {1: "N"}}.items():
        metadata[number] = value
    source = content("TIFF", exif=metadata.tobytes())
    (place,) = (place for place in range(len(source)) if source[place : place + 2] == struct.pack("<H", tag))
    damaged = source[: place + 2] + struct.pack("<HII", TEXT, 3, 2**31) + source[place + 12 :]
    for image in (source, damaged):
        assert open_rgb(image).size == dimensions(image) == (16, 8)


def test_a_damaged_index_of_several_pictures_does_not_matter() -> None:
    stream = BytesIO()
    Image.new("RGB", (8, 16)).save(stream, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 16))])
    source = stream.getvalue()
    start = source.index(b"MPF\0") + 8
    for place in range(start, start + 60):
        for value in (0, 255):
            damaged = source[:place] + bytes([value]) + source[place + 1 :]
            assert open_rgb(damaged).size == dimensions(damaged) == (8, 16)


def bomb(kind: str) -> bytes:
    """A small file whose header says that it has 60,000 by 60,000 pixels."""
    source = bytearray(content(kind))
    place, sides = {"PNG": (16, ">II"), "GIF": (6, "<HH"), "BMP": (18, "<II")}[kind]
    struct.pack_into(sides, source, place, 60_000, 60_000)
    if kind == "PNG":
        struct.pack_into(">I", source, 29, crc32(source[12:29]))
    return bytes(source)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_images_that_would_fill_the_memory_are_unreadable(kind: str) -> None:
    assert "exceeds limit" in reason(bomb(kind))


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_only_regular_files_are_read(make, tmp_path: Path) -> None:
    make(tmp_path / "photo.png")
    assert not stat.S_ISREG((tmp_path / "photo.png").stat().st_mode)
    assert reason(tmp_path / "photo.png") == "it is not a regular file"


def test_empty_files_and_links_that_lead_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert reason(tmp_path / "empty.png") == reason(b"") == "the file is empty"
    (tmp_path / "self.png").symlink_to("self.png")
    assert "self.png" in reason(tmp_path / "self.png")


ERRORS = (TypeError, AttributeError, struct.error, SyntaxError, OverflowError, RecursionError, MemoryError, KeyError)


@pytest.mark.parametrize("error", [*ERRORS, ZeroDivisionError, UnicodeError, IndexError, AssertionError])
def test_any_error_of_a_decoder_names_the_file_and_can_be_skipped(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, side in (("0.png", 8), ("1.png", 9)):
        (tmp_path / name).write_bytes(content("PNG", side=side))
    load = ImageFile.ImageFile.load
    fail = Mock(side_effect=error)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: fail() if image.width == 9 else load(image))
    files, labels = Files(tmp_path, ["0.png", "1.png"]), torch.zeros(2, dtype=torch.int64)
    images = EncodedImages(files, labels, 8)
    for read in (lambda: images.take(torch.tensor([0, 1])), lambda: images.stored("two")):
        with pytest.raises(ConfigError, match=r"data.path: .*/1.png cannot be read as an image \("):
            read()
    images = EncodedImages(files, labels, 8, skip_unreadable=True)
    with pytest.warns(UserWarning, match=r"data.on_error: .*/1.png cannot be read as an image and is skipped"):
        assert images.take(torch.tensor([0, 1])).indices.tolist() == images.stored("two").indices.tolist() == [0]
