"""Open image files: only the listed formats and regular files, and of the metadata only the orientation."""

import stat
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from kd_lightning.errors import one_line

try:
    from pillow_heif import HeifImageFile
except ImportError:
    HeifImageFile = None

Source = Path | bytes
READS_HEIC = HeifImageFile is not None
"""Whether HEIC files can be decoded. This needs the package pillow-heif."""
HEIC_ADVICE = "pip install 'kd_lightning[heic]' reads HEIC files, or convert them to JPEG"
FORMATS = ("JPEG_PIXELS", "PNG", "WEBP", "GIF", "BMP", "TIFF_PIXELS", "PPM", "JPEG2000", "AVIF") + (
    ("HEIC_PIXELS",) if READS_HEIC else ()
)
"""Pillow's names of the formats that are opened. The format of a file is read from its content, not from its name.

Pillow would try further formats, some of which start other programs (EPS starts Ghostscript).
"""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata, without the name of the file


class UnreadableError(ValueError):
    """An image that cannot be decoded; the message is the reason."""


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG whose resolution is not read from the EXIF data, which may be damaged."""

    def _read_dpi_from_exif(self) -> None:
        pass


class _Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF that is not rotated when it is decoded. To rotate it, Pillow would read all metadata."""

    def _setup(self) -> None:
        super()._setup()
        self._size = self._tile_size

    def load_end(self) -> None:
        pass


# the factory of "JPEG" also reads the metadata of files with several pictures, which may be damaged
Image.register_open("JPEG_PIXELS", _Jpeg, Image.OPEN["JPEG"][1])
Image.register_open("TIFF_PIXELS", _Tiff, Image.OPEN["TIFF"][1])

if READS_HEIC:

    class _Heic(HeifImageFile):
        """A HEIC file, which is always decoded at its full size and never replaced by a thumbnail in the file."""

        def draft(self, mode: str | None, size: tuple[int, int] | None) -> None:
            pass

    Image.register_open("HEIC_PIXELS", _Heic, lambda start: _is_heic(start))

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
"""Brands of HEIC files (ISO/IEC 23008-12), which follow the marker `ftyp`."""


def _is_heic(start: bytes) -> bool:
    """Return whether a file that begins with these bytes is a HEIC file."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS


@contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """Open a file, or its bytes, as an image whose pixels are not yet decoded.

    Raises:
        UnreadableError: for any exception within the context.
    """
    try:
        with ExitStack() as stack:
            if isinstance(source, bytes):
                stream, size = BytesIO(source), len(source)
            else:
                facts = source.stat()
                if problem := problem_of(facts.st_mode, facts.st_size):
                    raise UnreadableError(problem)
                stream, size = stack.enter_context(source.open("rb")), facts.st_size
            if not size:
                raise UnreadableError(EMPTY)
            start = stream.read(12)
            yield stack.enter_context(Image.open(stream, formats=FORMATS))
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:
        if not READS_HEIC and _is_heic(start):
            raise UnreadableError(f"it is a HEIC file; {HEIC_ADVICE}") from error
        names = ", ".join(name.removesuffix("_PIXELS") for name in FORMATS)
        raise UnreadableError(f"its content is not an image of a supported format: {names}") from error
    except Exception as error:  # damaged files make Pillow raise almost any exception
        raise UnreadableError(one_line(error)) from error


EMPTY = "the file is empty"


def problem_of(mode: int, size: int) -> str:
    """Return why a file with this mode and size cannot contain an image; '' if it may contain one."""
    if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
        return "it is not a regular file"
    return "" if size else EMPTY


def turn(image: Image.Image) -> Image.Transpose | None:
    """Return how an image must be turned to be upright according to its metadata; None if they contain no rotation."""
    if image.format == "HEIF":  # libheif has already turned it
        return None
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged metadata
        return None
