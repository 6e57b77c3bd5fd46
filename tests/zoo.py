"""Pictures that must be refused with one sentence, and odd ones that must load.

Each entry builds the bytes of a file, small and at once. `BAD_IMAGES` and `ODD_IMAGES` are shared
by the tests of the core, the command line and the app.
"""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import PIL.Image

EXIF_ORIENTATION = 0x0112


def scene(width: int = 48, height: int = 32) -> PIL.Image.Image:
    """A smooth RGB picture with no symmetry, so that every turn and flip shows."""
    y, x = np.mgrid[0:height, 0:width]
    red = 255 * x / max(width - 1, 1)
    green = 255 * y / max(height - 1, 1)
    blue = np.where((x < width // 3) & (y < height // 2), 255, 40)
    return PIL.Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def encode(image: PIL.Image.Image, format_name: str, **options: object) -> bytes:
    """The picture as a file of this format."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def noise(width: int = 64, height: int = 64) -> PIL.Image.Image:
    """A picture that does not compress, so that cutting its file loses pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, bits: int, colour: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _png_chunk(b"IHDR", header)
        + _png_chunk(b"IDAT", pixels)
        + _png_chunk(b"IEND", b"")
    )


def bomb_png(width: int = 12_000, height: int = 12_000) -> bytes:
    """A valid one-bit PNG of 144 megapixels in a few kilobytes."""
    row = bytes(1 + (width + 7) // 8)
    deflate = zlib.compressobj(9)
    pixels = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    return _png(width, height, 1, 0, pixels)


def frame_bomb_gif() -> bytes:
    """A GIF of 48x32 whose only frame claims 3,600 megapixels."""
    descriptor = b",\0\0\0\0"
    data = encode(scene(), "GIF")
    return data.replace(
        descriptor + struct.pack("<HH", 48, 32), descriptor + struct.pack("<HH", 60_000, 60_000)
    )


class _Dangerous:
    """Unpickled, this would end the process: no test survives a loader that unpickles."""

    def __reduce__(self) -> tuple:
        import os

        return os._exit, (99,)


def _corrupt_png() -> bytes:
    data = bytearray(encode(noise(), "PNG"))
    middle = data.index(b"IDAT") + 200
    data[middle : middle + 40] = b"\xff" * 40
    return bytes(data)


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.jpg", encode(scene(), "JPEG"))
    return buffer.getvalue()


def _half(image: PIL.Image.Image, format_name: str, **options: object) -> bytes:
    data = encode(image, format_name, **options)
    return data[: len(data) // 2]


BAD_IMAGES: dict[str, Callable[[], bytes]] = {
    "truncated.jpg": lambda: _half(noise(), "JPEG"),
    "truncated.png": lambda: _half(noise(), "PNG"),
    "truncated.webp": lambda: _half(noise(), "WEBP"),
    "truncated.gif": lambda: _half(noise(), "GIF"),
    "truncated.bmp": lambda: _half(noise(), "BMP"),
    "truncated.tiff": lambda: _half(noise(), "TIFF"),
    "header-only.jpg": lambda: encode(scene(), "JPEG")[:3],
    "header-only.png": lambda: encode(scene(), "PNG")[:8],
    "corrupted-chunk.png": _corrupt_png,
    "zero-size.png": lambda: _png(0, 0, 8, 2, zlib.compress(b"")),
    "zero-width.bmp": lambda: (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 4, 1, 24, *[0] * 6)
    ),
    "bomb.png": bomb_png,
    "frame-bomb.gif": frame_bomb_gif,
    "empty.jpg": lambda: b"",
    "one-byte.jpg": lambda: b"\xff",
    "text.jpg": lambda: b"This is not a picture.\n" * 20,
    "page.png": lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "archive.jpg": _zip,
    "archive.png": lambda: gzip.compress(encode(scene(), "PNG")),
    "pickle.jpg": lambda: pickle.dumps(_Dangerous()),
    "drawing.eps": lambda: encode(scene(), "EPS"),
    "document.pdf": lambda: encode(scene(), "PDF"),
    "vector.svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "zeros.jpg": lambda: bytes(4096),
    "random.jpg": lambda: np.random.default_rng(1).bytes(4096),
}


def exif_jpeg(orientation: int, width: int = 48, height: int = 32) -> bytes:
    """`scene()` stored turned, with the EXIF orientation (1 to 8) that turns it upright."""
    transpose = PIL.Image.Transpose
    store = {
        1: None,
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_90,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_270,
    }[orientation]
    image = scene(width, height)
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = image if store is None else image.transpose(store)
    return encode(stored, "JPEG", exif=exif, quality=95, subsampling=0)


def grey16(width: int = 48, height: int = 32) -> PIL.Image.Image:
    """A 16-bit ramp from 0 at the left to 65535 at the right."""
    ramp = np.linspace(0, 65535, width).round().astype(np.uint16)
    return PIL.Image.fromarray(np.tile(ramp, (height, 1)))


def _float_tiff(low: float, high: float) -> bytes:
    ramp = np.linspace(low, high, 48, dtype=np.float32)
    return encode(PIL.Image.fromarray(np.tile(ramp, (32, 1))), "TIFF")


def _int_tiff(high: int) -> bytes:
    ramp = np.linspace(0, high, 48).astype(np.int32)
    return encode(PIL.Image.fromarray(np.tile(ramp, (32, 1))), "TIFF")


def _see_through(mode: str) -> PIL.Image.Image:
    image = scene().convert("RGBA")
    alpha = PIL.Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 16, 16))
    image.putalpha(alpha)
    return image.convert(mode)


def _palette_with_transparency() -> bytes:
    return encode(scene().convert("P", palette=PIL.Image.Palette.ADAPTIVE), "PNG", transparency=0)


def _frames() -> dict[str, object]:
    return {"save_all": True, "append_images": [scene().transpose(PIL.Image.Transpose.ROTATE_180)]}


def _bad_exif(body: bytes) -> bytes:
    return encode(scene(), "JPEG", exif=b"Exif\x00\x00" + body)


ODD_IMAGES: dict[str, Callable[[], bytes]] = {
    "1x1.png": lambda: encode(scene(1, 1), "PNG"),
    "1x1.jpg": lambda: encode(scene(1, 1), "JPEG"),
    "10000x10.png": lambda: encode(scene(10_000, 10), "PNG"),
    "10x10000.jpg": lambda: encode(scene(10, 10_000), "JPEG"),
    "rgb.jpg": lambda: encode(scene(), "JPEG", quality=95),
    "progressive.jpg": lambda: encode(scene(), "JPEG", progressive=True),
    "rgb.png": lambda: encode(scene(), "PNG"),
    "rgb.webp": lambda: encode(scene(), "WEBP"),
    "rgb.bmp": lambda: encode(scene(), "BMP"),
    "rgb.gif": lambda: encode(scene(), "GIF"),
    "lzw.tiff": lambda: encode(scene(), "TIFF", compression="tiff_lzw"),
    "grey.jpg": lambda: encode(scene().convert("L"), "JPEG"),
    "one-bit.png": lambda: encode(scene().convert("1"), "PNG"),
    "one-bit.tiff": lambda: encode(scene().convert("1"), "TIFF", compression="group4"),
    "palette.png": lambda: encode(scene().convert("P"), "PNG"),
    "palette-transparent.png": _palette_with_transparency,
    "rgba.png": lambda: encode(_see_through("RGBA"), "PNG"),
    "rgba.webp": lambda: encode(_see_through("RGBA"), "WEBP", lossless=True),
    "la.png": lambda: encode(_see_through("LA"), "PNG"),
    "cmyk.jpg": lambda: encode(scene().convert("CMYK"), "JPEG"),
    "cmyk.tiff": lambda: encode(scene().convert("CMYK"), "TIFF"),
    "ycbcr.tiff": lambda: encode(scene().convert("YCbCr"), "TIFF"),
    "grey16.png": lambda: encode(grey16(), "PNG"),
    "grey16.tiff": lambda: encode(grey16(), "TIFF"),
    "int32.tiff": lambda: _int_tiff(2_000_000_000),
    "int32-small.tiff": lambda: _int_tiff(255),
    "float-unit.tiff": lambda: _float_tiff(0.0, 1.0),
    "float-signed.tiff": lambda: _float_tiff(-3.0, 7.0),
    "animated.gif": lambda: encode(scene(), "GIF", **_frames()),
    "animated.png": lambda: encode(scene(), "PNG", **_frames()),
    "animated.webp": lambda: encode(scene(), "WEBP", lossless=True, **_frames()),
    "pages.tiff": lambda: encode(scene(), "TIFF", **_frames()),
    "phone.jpg": lambda: exif_jpeg(6),
    "exif-not-tiff.jpg": lambda: _bad_exif(b"no TIFF header here"),
    "exif-cut-short.jpg": lambda: _bad_exif(b"MM\x00\x2a\x00\x00\x00\x08\xff\xff"),
}
