"""A seeded fuzzer of image files: small images of each format, kind of pixels and metadata, with random damage."""

import struct
from functools import cache
from io import BytesIO
from random import Random

import numpy as np
from PIL import Image, PngImagePlugin

_MODES = {
    "JPEG": ["L", "RGB", "CMYK"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "WEBP": ["RGB", "RGBA"],
    "TIFF": ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"],
    "BMP": ["1", "L", "P", "RGB"],
    "GIF": ["L", "P", "RGB"],
    "PPM": ["1", "L", "RGB", "I;16"],
    "JPEG2000": ["RGB"],
    "AVIF": ["RGB"],
}
_NUMBERS = (0, 1, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def _drawn(mode: str, random: np.random.Generator) -> Image.Image:
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        return Image.fromarray(random.integers(0, 65536, (5, 7)).astype(dtype))
    return Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8)).convert(mode)


def _metadata() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x0128], exif[0x0131] = 6, 72.0, 2, "software"
    exif[0x8769], exif[0x8825] = {0x9003: "2020:01:01 00:00:00"}, {1: "N", 2: (1.0, 2.0, 3.0)}
    return exif.tobytes()


@cache
def whole_images() -> list[bytes]:
    """Return files without damage."""
    random, exif, text = np.random.default_rng(0), _metadata(), PngImagePlugin.PngInfo()
    text.add_text("a", "b")
    text.add_text("c", "d", zip=True)
    text.add_itxt("e", "f", "g")
    with_exif = {"JPEG", "PNG", "WEBP", "TIFF", "AVIF"}
    plans = [(kind, mode, {"exif": exif} if kind in with_exif else {}) for kind in _MODES for mode in _MODES[kind]]
    plans += [("TIFF", "RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
    plans += [("JPEG", mode, {"progressive": True, "dpi": (72, 72)}) for mode in ("L", "RGB")]
    plans += [("PNG", "RGB", {"pnginfo": text}), ("WEBP", "RGBA", {"lossless": True, "exif": exif})]
    further = [_drawn("RGB", random)]
    plans += [(kind, "RGB", {"save_all": True, "append_images": further}) for kind in ("PNG", "GIF", "WEBP", "MPO")]
    files = []
    for kind, mode, kwargs in plans:
        stream = BytesIO()
        _drawn(mode, random).save(stream, kind, **kwargs)
        files.append(stream.getvalue())
    return files


def damaged_image(random: Random) -> bytes:
    """Return a file with random damage: changed bits, numbers or metadata, other lengths, or another file's header."""
    content = bytearray(random.choice(whole_images()))
    place = random.randrange(len(content))
    match random.randrange(6):
        case 0:
            for _ in range(random.randint(1, 8)):
                content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        case 1:
            del content[place:]
        case 2:
            size = random.randint(2, 64)
            content[:size] = random.choice(whole_images())[:size]
        case 3:
            for _ in range(random.randint(1, 4)):
                place = random.randrange(len(content))
                number = random.choice((*_NUMBERS, random.getrandbits(32)))
                content[place : place + 4] = struct.pack(random.choice("<>") + "I", number)
        case 4:
            start = max(0, content.find(b"Exif"))
            for _ in range(random.randint(1, 6)):
                content[min(len(content) - 1, start + random.randrange(200))] = random.randrange(256)
        case 5:
            content[place : place + random.randint(1, 20)] = random.randbytes(random.randint(0, 20))
    return bytes(content)
