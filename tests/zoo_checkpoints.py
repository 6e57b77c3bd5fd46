"""Files of weights that must be refused with one sentence; shared by core, command line and app.

Each builder writes its file into a folder and returns the path. `BAD_CHECKPOINTS` are refused
whatever is asked for; `BAD_NAMES` need no file; `MISFITS` are sound files and a configuration that
they do not fit.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shlex
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from retinanet.checkpoints import save_checkpoint
from retinanet.config import ModelConfig
from retinanet.model import RetinaNet

TINY = ModelConfig(depth=18, num_classes=3, num_convs=1, min_size=64, max_size=96, frozen_stages=-1)
CLS_LOGITS = "head.classification_head.cls_logits.weight"
SENTINEL = "the-code-ran"

Builder = Callable[[Path], Path]


@cache
def tiny_model() -> RetinaNet:
    """A sound model, as small as the architecture allows; do not change it."""
    torch.manual_seed(0)
    return RetinaNet(TINY, ("cat", None, "dog"), (17, 0, 18)).eval()


def tiny_state() -> dict[str, torch.Tensor]:
    """Its state dict, in a dictionary that may be changed."""
    return dict(tiny_model().state_dict())


def tiny_checkpoint(folder: Path) -> Path:
    """A sound file."""
    path = folder / "tiny.safetensors"
    save_checkpoint(tiny_model(), path, card={"data": "none"})
    return path


class RunsCode:
    """Unpickled carelessly, this makes a file named `SENTINEL` in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch {shlex.quote(str(self.folder / SENTINEL))}",)


def _saved(name: str, content: Callable[[], Any]) -> Builder:
    def build(folder: Path) -> Path:
        torch.save(content(), folder / name)
        return folder / name

    return build


def _bytes(name: str, content: bytes) -> Builder:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def _state_with(**changes: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    state = tiny_state()
    for name, change in changes.items():
        state[name] = change(state[name])
    return state


def _first_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


def _renamed(old: str, new: str) -> dict[str, torch.Tensor]:
    return {name.replace(old, new): tensor for name, tensor in tiny_state().items()}


def _truncated(name: str) -> Builder:
    def build(folder: Path) -> Path:
        path = folder / name
        tensors = {"weight": torch.arange(3000.0)}
        if path.suffix == ".safetensors":
            save_file(tensors, path)
        else:
            torch.save(tensors, path)
        path.write_bytes(path.read_bytes()[:4000])
        return path

    return build


def _metadata(**changes: str) -> Builder:
    """A sound safetensors file but for these metadata entries."""

    def build(folder: Path) -> Path:
        metadata = {
            "format": "retinanet-explorer",
            "version": "1",
            "config": json.dumps(TINY.to_dict()),
        }
        path = folder / "metadata.safetensors"
        save_file(tiny_state(), path, metadata=metadata | changes)
        return path

    return build


def _config_json(**changes: Any) -> str:
    return json.dumps(TINY.to_dict() | changes)


def runs_code(folder: Path) -> Path:
    """A `.pth` as torch writes it, with an object that runs a command."""
    path = folder / "runs-code.pth"
    torch.save({"model": tiny_state(), "extra": RunsCode(folder)}, path)
    return path


def runs_code_old_pickle(folder: Path) -> Path:
    """The same as a bare pickle, the form of torch before 1.6."""
    path = folder / "runs-code-old.pth"
    path.write_bytes(pickle.dumps(RunsCode(folder), protocol=2))
    return path


def unpacks_to_gigabytes(folder: Path) -> Path:
    """A small zip whose directory declares three gigabytes."""
    path = folder / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * 1000)
        archive.filelist[0].file_size = 3 * 2**30
    return path


def too_big(folder: Path) -> Path:
    """A file of three gigabytes, sparse on the disk."""
    path = folder / "big.safetensors"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    return path


def folder_with_suffix(folder: Path) -> Path:
    """A folder named like a checkpoint."""
    path = folder / "folder.pth"
    path.mkdir()
    return path


def _jpeg() -> bytes:
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


BAD_CHECKPOINTS: dict[str, Builder] = {
    "missing": lambda folder: folder / "missing.pth",
    "folder": folder_with_suffix,
    "wrong suffix": _bytes("notes.txt", b"not weights"),
    "empty pth": _bytes("empty.pth", b""),
    "empty safetensors": _bytes("empty.safetensors", b""),
    "photo named pth": _bytes("photo.pth", _jpeg()),
    "text named safetensors": _bytes("text.safetensors", b"weights " * 50),
    "bad zip": _bytes("bad.pth", b"PK\x03\x04" + b"\0" * 100),
    "bad pickle": _bytes("bad-pickle.pth", b"\x80\x02}q\x00" + b"\xff" * 50),
    "huge safetensors header": _bytes("header.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "truncated pth": _truncated("cut.pth"),
    "truncated safetensors": _truncated("cut.safetensors"),
    "too big": too_big,
    "unpacks to gigabytes": unpacks_to_gigabytes,
    "describes gigabytes": _saved(
        "expanded.pth", lambda: {"weight": torch.zeros(1).expand(10**5, 10**5)}
    ),
    "runs code": runs_code,
    "runs code, old pickle": runs_code_old_pickle,
    "a list": _saved("list.pth", lambda: [1, 2, 3]),
    "no tensors": _saved("none.pth", dict),
    "text for tensors": _saved("text.pth", lambda: {"weight": "not a tensor"}),
    "sparse tensor": _saved("sparse.pth", lambda: {"weight": torch.eye(3).to_sparse()}),
    "NaN": _saved("nan.pth", lambda: _state_with(**{CLS_LOGITS: _first_value(float("nan"))})),
    "infinity": _saved(
        "infinity.pth", lambda: _state_with(**{CLS_LOGITS: _first_value(float("inf"))})
    ),
    "other anchors": _saved(
        "anchors.pth",
        lambda: _state_with(**{"head.regression_head.bbox_reg.weight": lambda t: t[:24]}),
    ),
    "unknown depth": _saved(
        "depth.pth",
        lambda: {name: t for name, t in tiny_state().items() if "layer3.1." not in name},
    ),
    "a key missing": _saved(
        "key.pth", lambda: {name: t for name, t in tiny_state().items() if "p6.bias" not in name}
    ),
    "old and new names": _saved(
        "twice.pth",
        lambda: tiny_state() | {"backbone.fpn.inner_blocks.0.weight": torch.zeros(256, 128, 1, 1)},
    ),
    "classifier": _saved("resnet.pth", lambda: _renamed("backbone.body.", "")),
    "Detectron2": _saved(
        "detectron2.pth", lambda: {"backbone.bottom_up.stem.conv1.weight": torch.zeros(64, 3, 7, 7)}
    ),
    "MMDetection": _saved(
        "mmdetection.pth",
        lambda: {"state_dict": {"bbox_head.retina_cls.weight": torch.zeros(720, 256, 3, 3)}},
    ),
    "Faster R-CNN": _saved("faster.pth", lambda: {"roi_heads.box_head.fc6.bias": torch.zeros(9)}),
    "later format": _metadata(version="2"),
    "metadata is no JSON": _metadata(categories="{"),
    "metadata nests deeply": _metadata(card="[" * 100_000),
    "metadata is too long": _metadata(card=json.dumps({"text": "x" * 2_000_000})),
    "config is a list": _metadata(config="[]"),
    "config has an unknown setting": _metadata(config=_config_json(wings=2)),
    "config is out of range": _metadata(config=_config_json(num_convs=99)),
    "config of other depth": _metadata(config=_config_json(depth=50)),
    "config of very many classes": _metadata(config=_config_json(num_classes=100_000)),
    "too many class names": _metadata(categories=json.dumps(["cat"] * 4)),
    "class name is a number": _metadata(categories="[1, 2, 3]"),
    "class name has control characters": _metadata(categories=json.dumps(["a\x1b[31m", "b", "c"])),
    "category id is negative": _metadata(category_ids="[-1, 2, 3]"),
    "card is a list": _metadata(card="[]"),
    "recommended is out of range": _metadata(recommended='{"score_thresh": 7}'),
    "config in a pth is text": _saved(
        "config.pth", lambda: {"model": tiny_state(), "config": "depth 18"}
    ),
}

BAD_NAMES: dict[str, str] = {
    "nothing": "",
    "too long": "a" * 300 + ".pth",
    "too long, no suffix": "a" * 300,
    "nobody's home": "~no-such-user/x.pth",
    "a NUL": "/x/\0.pth",
    "the folder": ".",
}
"""Names of weights that no file can have."""

MISFITS: dict[str, tuple[Builder, dict[str, Any], str]] = {
    "classes": (tiny_checkpoint, {"num_classes": 5}, "num_classes"),
    "depth": (tiny_checkpoint, {"depth": 34}, "depth"),
    "num_convs": (tiny_checkpoint, {"num_convs": 2}, "num_convs"),
    "variant": (tiny_checkpoint, {"variant": "v2"}, "variant"),
}
"""Name -> (file, settings asked for, the word that the answer must hold)."""
