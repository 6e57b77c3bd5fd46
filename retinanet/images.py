"""From hostile bytes to an upright RGB `Image`, and from there to what the network eats.

Two halves. `load_image` and `find_images` take whatever a person hands over and either give an
`Image` (or paths) or raise `ImageError` with one sentence. `normalize`, `resize`, `batch_images`
and `resize_boxes` are torchvision's `GeneralizedRCNNTransform`, step by step and bit by bit.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import transform as torchvision_transform
from torchvision.transforms import functional as torchvision_functional

from retinanet.types import Image

try:
    from pillow_heif import register_heif_opener
except ImportError:  # HEIC is the one format that needs a library of its own
    HEIC_SUPPORTED = False
else:
    register_heif_opener()
    HEIC_SUPPORTED = True
PIL.Image.init()  # fills PIL.Image.OPEN; at import, so that no two threads do it at once

MAX_BYTES = 50_000_000
"""The largest file that is read, in bytes."""

MAX_PIXELS = 50_000_000
"""The largest picture that is decoded, in pixels: a phone's 48 megapixels pass."""

FORMATS: tuple[str, ...] = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
    if name in PIL.Image.OPEN
)
"""Pillow's names of the formats that are tried; its other plug-ins never see a byte."""

SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff"),
        *("gif", "avif", "heic", "heif", "hif"),
    )
)
"""File name endings that count as pictures when a folder or a pattern is searched."""

IMAGE_MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
IMAGE_STD: tuple[float, float, float] = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation per RGB channel, for values in [0, 1]."""

_KNOWN_FORMATS = "a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or HEIC file"

# What Pillow and its decoders raise on bytes that are not what they claim to be.
_DECODE_ERRORS = (
    OSError,  # among them UnidentifiedImageError and "image file is truncated"
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    RuntimeError,
    AttributeError,
    struct.error,
    zlib.error,
)

# Raised for a frame or a canvas that the header did not announce; the second is an exception
# only where warnings are made errors.
_BOMBS = (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning)

# EXIF orientation -> what turns the stored picture upright.
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


class ImageError(ValueError):
    """A picture cannot be used; the message is one sentence that says why and what to do."""


def load_image(source: str | Path | bytes | PIL.Image.Image, name: str | None = None) -> Image:
    """A picture, upright, RGB, eight bits a channel, from a path, a file's bytes or Pillow.

    Args:
        source: where it comes from. Bytes are taken as hostile: size limits hold before decoding.
        name: how the person named it; by default the file's name, or "image".

    Raises:
        ImageError: it cannot be read; one sentence says why and what to do.
        TypeError: `source` is none of the three.
    """
    if isinstance(source, PIL.Image.Image):
        name = name or "image"
        pil, notes = _to_rgb(source, name)
        return Image(pil, _pixel_id(pil), name, notes)
    if isinstance(source, str | Path):
        name = name or Path(source).name or str(source)
        data = _read_file(Path(source), name)
    elif isinstance(source, bytes | bytearray | memoryview):
        name = name or "image"
        data = bytes(source)
    else:
        raise TypeError(f"load_image takes a path, bytes or a PIL image, not {type(source)!r}.")
    pil, notes = _to_rgb(_open(data, name), name)
    return Image(pil, hashlib.sha256(data).hexdigest(), name, notes)


def _shown(name: str) -> str:
    """The name as it may stand in a message: one line, printable, not endless."""
    printable = "".join(char if char.isprintable() else "?" for char in name)
    return printable if len(printable) <= 80 else f"{printable[:60]}...{printable[-17:]}"


def _read_file(path: Path, name: str) -> bytes:
    """The file's bytes, at most `MAX_BYTES` of them."""
    shown = _shown(name)
    try:
        if path.is_dir():
            raise ImageError(f"{shown} is a folder; name a picture in it.")
        if not path.exists():
            raise ImageError(f"{shown} does not exist; check the path.")
        if not path.is_file():
            raise ImageError(f"{shown} is not an ordinary file; give {_KNOWN_FORMATS}.")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # no permission, a name the system cannot hold, ...
        raise ImageError(
            f"{shown} cannot be opened; check the path and its permissions."
        ) from error


def _open(data: bytes, name: str) -> PIL.Image.Image:
    """Reads the header only. `PIL.Image.open` less its global, warning-based pixel limit."""
    shown = _shown(name)
    if not data:
        raise ImageError(f"{shown} is empty (0 bytes); copy or download it again.")
    if len(data) > MAX_BYTES:
        raise ImageError(
            f"{shown} is larger than {MAX_BYTES // 10**6} MB; save it smaller, as JPEG for example."
        )
    for format_name in FORMATS:
        factory, accept = PIL.Image.OPEN[format_name]
        if accept is None or accept(data[:16]) is not True:
            continue
        try:
            return factory(io.BytesIO(data), "")
        except _BOMBS as error:
            raise _too_large(name) from error
        except _DECODE_ERRORS as error:
            raise _damaged(name) from error
    if data[4:8] == b"ftyp" and not HEIC_SUPPORTED:
        raise ImageError(
            f"{shown} looks like HEIC, which needs the pillow-heif package; "
            "install it or save the picture as JPEG."
        )
    raise ImageError(f"{shown} is not a picture that can be read here; give {_KNOWN_FORMATS}.")


def _damaged(name: str) -> ImageError:
    return ImageError(
        f"{_shown(name)} is damaged or cut short; copy or download it again, "
        "or save it anew as JPEG or PNG."
    )


def _too_large(name: str) -> ImageError:
    return ImageError(
        f"{_shown(name)} has a frame above the limit of {MAX_PIXELS // 10**6} megapixels; "
        "make it smaller first."
    )


def _check_pixels(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{_shown(name)} has no pixels ({width}x{height}); give another picture.")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{_shown(name)} has {width}x{height} = {width * height / 1e6:,.0f} megapixels, above "
            f"the limit of {MAX_PIXELS // 10**6}; make it smaller first."
        )


def _to_rgb(image: PIL.Image.Image, name: str) -> tuple[PIL.Image.Image, tuple[str, ...]]:
    """Decodes, turns upright and converts; gives a new picture and a note for each change."""
    _check_pixels(image.size, name)
    notes: list[str] = []
    try:
        animated = bool(getattr(image, "is_animated", False))
        image.load()
        orientation = _orientation(image, notes)
    except MemoryError as error:
        raise ImageError(f"{_shown(name)} does not fit into memory; make it smaller.") from error
    except _BOMBS as error:
        raise _too_large(name) from error
    except _DECODE_ERRORS as error:
        raise _damaged(name) from error
    _check_pixels(image.size, name)  # a decoder may correct what the header claimed
    if animated:
        notes.append("It holds several pictures; the first is used.")
    rgb = _flatten_colours(image, name, notes)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
        notes.append("Turned upright as its EXIF orientation says.")
    rgb.info = {}  # places and names in the file's metadata end here
    return rgb, tuple(notes)


def _orientation(image: PIL.Image.Image, notes: list[str]) -> int:
    """The EXIF orientation of a decoded picture (1 is upright); 1 where EXIF cannot be read."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DECODE_ERRORS:
        notes.append("Its EXIF data is damaged and was left aside.")
        return 1
    return value if isinstance(value, int) else 1


def _flatten_colours(image: PIL.Image.Image, name: str, notes: list[str]) -> PIL.Image.Image:
    """Any mode to a new RGB picture; appends what was done to `notes`."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _deep_grey_to_rgb(image, notes)
    if image.has_transparency_data:
        return _over_white(image, notes)
    if mode == "CMYK":
        notes.append("CMYK inks were converted to RGB without a colour profile.")
    elif mode in ("1", "L"):
        notes.append("Grey only: its one channel serves as red, green and blue.")
    elif mode == "P":
        notes.append("Palette colours were expanded to RGB.")
    elif mode != "RGB":
        notes.append(f"Colours were converted from {mode} to RGB.")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(
            f"{_shown(name)} has colours of the kind {mode}, which cannot be converted; "
            "save it as RGB."
        ) from error


def _over_white(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):  # opaque: nothing to see through
        return rgba.convert("RGB")
    notes.append("Transparent parts were laid over white.")
    white = PIL.Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return PIL.Image.alpha_composite(white, rgba).convert("RGB")


def _deep_grey_to_rgb(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    """16-bit, 32-bit and float grey to eight bits; Pillow's own conversion clips it to white.

    The range is the smallest of 0..1 (floats), 0..255 and 0..65535 that holds every value
    (always 0..65535 for 16-bit files); beyond that, the picture's own range is stretched.
    """
    short = image.mode.startswith("I;16")
    grey = np.asarray(image).astype(np.float32 if short else np.float64)
    finite = np.isfinite(grey)
    if not finite.all():
        notes.append("Values that are not numbers were made black.")
        grey = np.where(finite, grey, grey[finite].min() if finite.any() else 0.0)
    low, high = float(grey.min()), float(grey.max())
    if short:
        limits = (0.0, 65535.0)
    else:
        known = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        top = next((limit for limit in known if low >= 0.0 and high <= limit), None)
        limits = (0.0, top) if top else (low, high)
    span = limits[1] - limits[0] or 1.0  # a picture of one value
    scaled = np.rint((grey - limits[0]) * (255.0 / span)).astype(np.uint8)
    notes.append(f"Grey values from {limits[0]:g} to {limits[1]:g} were scaled to 0 to 255.")
    return PIL.Image.fromarray(scaled).convert("RGB")


def _pixel_id(pil: PIL.Image.Image) -> str:
    """SHA-256 of a picture's mode, size and pixels: for one that never was a file."""
    digest = hashlib.sha256(f"{pil.mode} {pil.width}x{pil.height} ".encode())
    digest.update(pil.tobytes())
    return digest.hexdigest()


def find_images(arguments: Sequence[str | Path]) -> list[Path]:
    """The files that a command line's arguments mean: sorted, each once.

    A file is taken whatever its name. A folder gives the pictures directly in it (by `SUFFIXES`).
    A pattern (`photos/*.jpg`, `photos/**/*`) gives the pictures that match; `**` goes deeper.

    Raises:
        ImageError: an argument means no file at all.
    """
    found = {path.resolve(): path for argument in arguments for path in _expand(argument)}
    return sorted(found.values())


def _expand(argument: str | Path) -> list[Path]:
    path, shown = Path(argument), _shown(str(argument))
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            matches = list(path.iterdir())
        elif any(char in str(argument) for char in "*?["):
            matches = list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        else:
            raise ImageError(f"{shown} does not exist; check the path.")
        pictures = [m for m in matches if m.suffix.lower() in SUFFIXES and m.is_file()]
    except ImageError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        raise ImageError(f"{shown} cannot be searched; check the path.") from error
    if not pictures:
        what = "holds" if path.is_dir() else "matches"
        raise ImageError(f"{shown} {what} no picture; give {_KNOWN_FORMATS}.")
    return pictures


def to_tensor(image: Image | PIL.Image.Image) -> Tensor:
    """The picture as float32 [3, H, W] in [0, 1]."""
    pil = image.pil if isinstance(image, Image) else image
    return torchvision_functional.to_tensor(pil if pil.mode == "RGB" else pil.convert("RGB"))


def normalize(tensor: Tensor) -> Tensor:
    """[3, H, W] in [0, 1] less ImageNet's mean, over its standard deviation.

    Comes before `resize`, as in torchvision: the order decides the last bits.
    """
    mean = torch.as_tensor(IMAGE_MEAN, dtype=tensor.dtype, device=tensor.device)
    std = torch.as_tensor(IMAGE_STD, dtype=tensor.dtype, device=tensor.device)
    return (tensor - mean[:, None, None]).div_(std[:, None, None])  # one large copy, not two


def _scale(height: int, width: int, min_size: int, max_size: int) -> float:
    return min(min_size / min(height, width), max_size / max(height, width))


def resized_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """The (height, width) that `resize` gives a picture of (height, width), without its pixels.

    The shorter side becomes `min_size` unless the longer one would then exceed `max_size`;
    fractions are dropped, not rounded (480x640 at 800/1333 gives 800x1066).

    Raises:
        ImageError: the picture has no pixels, or so long a shape that a side would vanish.
    """
    height, width = size
    if min(height, width) < 1:
        raise ImageError(f"The picture is {width}x{height} pixels: it has nothing to look at.")
    scale = _scale(height, width, min_size, max_size)
    resized = (math.floor(height * scale), math.floor(width * scale))
    if min(resized) < 1:
        raise ImageError(
            f"The picture is {width}x{height} pixels, too thin for an input size of "
            f"{min_size}/{max_size}: its shorter side would shrink to nothing; "
            "crop it or use a larger max_size."
        )
    return resized


def resize(tensor: Tensor, min_size: int, max_size: int) -> Tensor:
    """[3, H, W] scaled to `resized_size`: bilinear, no antialiasing, as torchvision does it.

    Raises:
        ImageError: a side would have no pixel left.
    """
    height, width = tensor.shape[-2:]
    resized_size((height, width), min_size, max_size)  # refuses what cannot be resized
    return F.interpolate(
        tensor[None],
        scale_factor=_scale(height, width, min_size, max_size),
        mode="bilinear",
        recompute_scale_factor=True,
        align_corners=False,
    )[0]


def padded_size(sizes: Sequence[tuple[int, int]], size_divisible: int = 32) -> tuple[int, int]:
    """The (height, width) of a batch that holds pictures of these (height, width)."""
    height = max(size[0] for size in sizes)
    width = max(size[1] for size in sizes)
    return (
        math.ceil(height / size_divisible) * size_divisible,
        math.ceil(width / size_divisible) * size_divisible,
    )


def batch_images(tensors: Sequence[Tensor], size_divisible: int = 32) -> Tensor:
    """Pictures [3, h, w] in one zero-filled [N, 3, Hp, Wp], each at the top left.

    Hp and Wp are the largest height and width, rounded up to a multiple of `size_divisible`.
    """
    height, width = padded_size([tuple(t.shape[-2:]) for t in tensors], size_divisible)
    batch = tensors[0].new_zeros((len(tensors), tensors[0].shape[0], height, width))
    for slot, tensor in zip(batch, tensors, strict=True):
        slot[:, : tensor.shape[1], : tensor.shape[2]].copy_(tensor)
    return batch


def resize_boxes(boxes: Tensor, from_size: tuple[int, int], to_size: tuple[int, int]) -> Tensor:
    """Boxes [N, 4] xyxy in pixels of a (height, width) picture, in those of its resized self."""
    return torchvision_transform.resize_boxes(boxes, list(from_size), list(to_size))
