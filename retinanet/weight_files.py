"""Files of weights, read as if written by a stranger and written whole or not at all.

Reading never runs code from the file (`weights_only=True`), never holds more than `MAX_BYTES` and
answers everything else with one sentence in a `CheckpointError`.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import uuid
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from retinanet.keymaps import CheckpointError, strip_prefix, upgrade_keys

MAX_BYTES = 2**31
"""The largest file, and the largest sum of tensors in float32: 2 GiB (ResNet-152 needs 0.3)."""

SUFFIXES: tuple[str, ...] = (".pth", ".pt", ".safetensors")

_NESTING = ("model", "state_dict", "model_state_dict")
_UNSAFE_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a .pth, .pt or .safetensors file and what lies beside them.

    A `.pth` may be a state dict or hold one under "model", "state_dict" or "model_state_dict".
    Names lose a "module." prefix and are upgraded to torchvision's present ones.

    Returns:
        ({name: tensor}, metadata): floating tensors as float32 on the CPU, all finite; metadata as
        found and unchecked: strings for safetensors, any plain data for a pickle.

    Raises:
        CheckpointError: the file is missing, empty, too big, truncated, of another kind, would run
            code, or holds a tensor that is not finite.
    """
    path = weights_path(path)
    _check_file(path)
    if path.suffix == ".safetensors":
        found, metadata = _read_safetensors(path)
    else:
        found, metadata = _read_pickle(path)
    tensors = upgrade_keys(strip_prefix(_checked_names(found, path.name)))
    if len(tensors) != len(found):
        raise CheckpointError(f"{path.name} names the same tensor twice, in an old and a new way.")
    return _checked_values(tensors, path.name), metadata


def weights_path(name: str | Path) -> Path:
    """The path that a person wrote, "~" resolved, whether or not there is such a file.

    Raises:
        CheckpointError: no file can have this name, or the way to it is closed.
    """
    if not str(name):
        raise CheckpointError("The name of the weights is empty; name weights or a file of them.")
    try:
        path = Path(name).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path  # what a missing file means is the caller's to say
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, nobody's home, ...
        shown = str(name) if len(str(name)) <= 80 else f"{str(name)[:60]}...{str(name)[-17:]}"
        raise CheckpointError(
            f"{shown!r} cannot be opened as a file of weights; check the path and its permissions."
        ) from error
    return path


def _check_file(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            f"{path.name or path} is no checkpoint: its name must end in .pth, .pt or .safetensors."
        )
    if path.is_dir():
        raise CheckpointError(f"{path.name} is a folder; name the file of weights inside it.")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"There is no readable file of weights at {path}.") from error
    if size == 0:
        raise CheckpointError(f"{path.name} is empty.")
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{path.name} has {size / 2**30:.1f} GiB; a checkpoint may have {MAX_BYTES / 2**30:g}."
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{path.name} is damaged, truncated or not a safetensors file."
        ) from error


def _read_pickle(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    _check_container(path)
    try:
        # torchvision's training script stores its arguments, an inert Namespace, beside the model.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = _UNSAFE_GLOBAL.search(str(error))
        if refused is None:
            raise CheckpointError(f"{path.name} is damaged or not a file of weights.") from error
        raise CheckpointError(
            f"{path.name} holds more than tensors ({refused[1]}) and could run code, so it was "
            "not opened; save the model's state_dict() alone."
        ) from error
    except Exception as error:  # a crafted pickle can make the reader fail in any way
        raise CheckpointError(
            f"{path.name} is damaged, truncated or not a file of weights."
        ) from error
    return _unnested(content, path.name)


def _check_container(path: Path) -> None:
    """Refuse what torch would misread or what would unpack to far more than the file's size."""
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == b"\x80":  # the pickle that torch wrote before version 1.6
        return
    if start != b"PK":
        raise CheckpointError(f"{path.name} is not a file of weights, whatever its name says.")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(f"{path.name} is damaged or truncated.") from error
    if unpacked > MAX_BYTES:
        raise CheckpointError(f"{path.name} would unpack to {unpacked / 2**30:.1f} GiB.")


def _unnested(content: Any, name: str) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The state dict inside a checkpoint's dictionaries, and the other entries of the outermost."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{name} holds a {type(content).__name__}, not a state dict.")
    metadata: dict[str, Any] = {}
    for depth in range(len(_NESTING)):
        inner = next((key for key in _NESTING if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        if depth == 0:
            metadata = {key: value for key, value in content.items() if key != inner}
        content = content[inner]
    return content, metadata


def _checked_names(tensors: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    if not tensors:
        raise CheckpointError(f"{name} holds no tensors.")
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{name} holds no state dict: its entry {str(key)[:60]!r} is a "
                f"{type(value).__name__}, not a tensor."
            )
    return dict(tensors)


def _checked_values(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    for key, value in tensors.items():
        dense = value.layout == torch.strided and not value.is_quantized
        if not dense or value.device.type != "cpu" or value.is_complex():
            raise CheckpointError(f"{name}: {key} is not an ordinary tensor.")
    # Strides of zero let a small file describe a huge tensor: count elements, not bytes on disk.
    if sum(4 * value.numel() for value in tensors.values()) > MAX_BYTES:
        raise CheckpointError(f"{name} describes more than {MAX_BYTES / 2**30:g} GiB of tensors.")
    checked = {}
    for key, value in tensors.items():
        checked[key] = value.float() if value.is_floating_point() else value
        if not is_finite(checked[key]):
            raise CheckpointError(f"{name} is damaged: {key} holds values that are not finite.")
    return checked


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite, in one pass: both spread to the least or greatest."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))


def storable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy for the file: large floating tensors in `dtype`, all others as they are.

    Biases and norm values (fewer than two dimensions) stay float32: they weigh nothing, and a
    small running variance would round to zero. A tensor that overflows `dtype` stays float32 too.
    """
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.float()
    if tensor.dim() < 2:
        return tensor
    smaller = tensor.to(dtype)
    return smaller if is_finite(smaller) else tensor


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write the file beside its place and move it there, so that no reader sees half of it.

    Raises:
        CheckpointError: the folder is missing or cannot be written.
    """
    unfinished = path.with_name(f".{uuid.uuid4().hex}.part")  # short, as names have a limit
    try:
        unfinished.write_bytes(save(tensors, metadata))
        os.replace(unfinished, path)  # noqa: PTH105
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} could not be written: {error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
