"""What a training run is asked to do, as plain data and as the command that does it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from retinanet.config import ConfigError, ModelConfig
from retinanet.train_config import TrainConfig

START_KINDS: tuple[str, ...] = ("fresh", "backbone", "weights", "init-from")
"""From random numbers, with a backbone's weights, as a whole detector, or with what fits of one."""

MAX_NAME_CHARACTERS = 80
MAX_PATH_CHARACTERS = 4096

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
_PATHS = ("annotations", "images", "val", "val_images")
# The number of classes is the data set's; the two inside the training's have their own options.
_NO_OPTIONS = ("num_classes", "matcher", "loss")


@dataclass(frozen=True)
class RunRequest:
    """One training run: data, model, settings and start.

    Args:
        name: for people, 1 to 80 characters.
        annotations: COCO instances JSON to train on.
        images: folder of its images.
        val: COCO instances JSON to validate on; None for no validation.
        val_images: folder of its images; None for `images`.
        model: shape and input size; its `num_classes` is not used, the data set decides.
        train: settings of the training.
        start: "random"; "imagenet" (downloaded) or the path of a backbone; a named detector
            ("embedded", "coco-v2") or the path of one.
        start_kind: what `start` is taken as, one of `START_KINDS`; "fresh" goes with "random".
        device: "auto", "cpu", "mps", "cuda" or "cuda:1".
        val_every: checkpoints between validations, 0 for one at the end only.
        experiment: groups the runs that are compared, at most 80 characters; "" for none.
        min_label_score: an annotation with a lower `score` becomes an area to ignore.
        exclude_sources: images whose `source` field is one of these are left out.

    Raises:
        ConfigError: a value is of the wrong type, too long, or does not go with the others.
    """

    name: str
    annotations: Path
    images: Path
    val: Path | None = None
    val_images: Path | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    start: str = "random"
    start_kind: str = "fresh"
    device: str = "auto"
    val_every: int = 1
    experiment: str = ""
    min_label_score: float = 0.5
    exclude_sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_text("name", self.name, 1)
        _check_text("experiment", self.experiment, 0)
        for name in _PATHS:
            _check_path(name, getattr(self, name), optional=name.startswith("val"))
        for name, kind in (("model", ModelConfig), ("train", TrainConfig)):
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(f"RunRequest: {name} must be a {kind.__name__}.")
        if self.val is None and self.val_images is not None:
            raise ConfigError("RunRequest: val_images needs val, the annotations that go with it.")
        if self.start_kind not in START_KINDS:
            raise ConfigError(f"RunRequest: start_kind must be one of {', '.join(START_KINDS)}.")
        _check_start(self.start)
        if (self.start_kind == "fresh") != (self.start == "random"):
            raise ConfigError('RunRequest: start_kind "fresh" and start "random" go together.')
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise ConfigError("RunRequest: device must be auto, cpu, mps, cuda or cuda:1.")
        if type(self.val_every) is not int or not 0 <= self.val_every < 10**9:
            raise ConfigError("RunRequest: val_every must be a whole number, 0 or more.")
        score = self.min_label_score
        if type(score) not in (int, float) or not 0 <= score <= 1:
            raise ConfigError("RunRequest: min_label_score must be a number between 0 and 1.")
        if not isinstance(self.exclude_sources, tuple) or len(self.exclude_sources) > 100:
            raise ConfigError("RunRequest: exclude_sources must be at most 100 names.")
        for source in self.exclude_sources:
            _check_text("exclude_sources", source, 1)
            if source.startswith("-"):
                raise ConfigError("RunRequest: a source to exclude must not begin with a hyphen.")

    def arguments(self, run_folder: Path, out: Path, *, resume: bool) -> list[str]:
        """What comes after `python -m retinanet`: every setting, so that no default matters.

        Args:
            run_folder: for the logs and the checkpoint.
            out: the .safetensors file to write at the end.
            resume: go on from the checkpoint in `run_folder`.
        """
        return [*self._arguments(run_folder, out, everything=True), *["--resume"] * resume]

    def command(self) -> str:
        """The run as a line to paste into a terminal; settings at their defaults are left out."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "run"
        words = self._arguments(Path("runs") / slug, Path(f"{slug}.safetensors"), everything=False)
        return shlex.join(["python", "-m", "retinanet", *words])

    def absolute(self) -> RunRequest:
        """The same with absolute paths, which hold in any folder."""
        paths = {name: getattr(self, name) for name in _PATHS}
        changes = {name: path.absolute() for name, path in paths.items() if path is not None}
        start = self.start
        if self.start_kind != "fresh" and Path(start).exists():
            start = str(Path(start).absolute())
        return replace(self, start=start, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in _PATHS:
            plain[name] = None if plain[name] is None else str(plain[name])
        return plain | {
            "model": self.model.to_dict(),
            "train": self.train.to_dict(),
            "exclude_sources": list(self.exclude_sources),
        }

    @classmethod
    def from_dict(cls, data: Any) -> RunRequest:
        """A request from plain data, which may come from anyone.

        Raises:
            ConfigError: a key is unknown or missing, or a value cannot work.
        """
        values = dict(_mapping(cls.__name__, data))
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            shown = ", ".join(key[:40] for key in unknown[:5])
            raise ConfigError(f"RunRequest has no setting named {shown}.")
        missing = [name for name in ("name", "annotations", "images") if name not in values]
        if missing:
            raise ConfigError(f"RunRequest needs {', '.join(missing)}.")
        for name in _PATHS:
            if isinstance(values.get(name), str):
                values[name] = Path(values[name])
        for name, kind in (("model", ModelConfig), ("train", TrainConfig)):
            if name in values:
                values[name] = kind.from_dict(dict(_mapping(kind.__name__, values[name])))
        if isinstance(values.get("exclude_sources"), list):
            values["exclude_sources"] = tuple(values["exclude_sources"])
        return cls(**values)

    def _arguments(self, run_folder: Path, out: Path, *, everything: bool) -> list[str]:
        words = ["train", _path_text(self.annotations), "--images", _path_text(self.images)]
        if self.val is not None:
            words += ["--val", _path_text(self.val), "--val-every", str(self.val_every)]
        if self.val_images is not None:
            words += ["--val-images", _path_text(self.val_images)]
        if self.start_kind != "fresh":
            words += [f"--{self.start_kind}", self.start]
        words += ["--out", _path_text(out), "--run-folder", _path_text(run_folder)]
        if everything or self.device != "auto":
            words += ["--device", self.device]
        if everything or self.min_label_score != 0.5:
            words += ["--min-label-score", repr(self.min_label_score)]
        if self.exclude_sources:
            words += ["--exclude-sources", *self.exclude_sources]
        for config in (self.model, self.train, self.train.matcher, self.train.loss):
            words += _option_words(config, everything)
        return words


def _option_words(config: Any, everything: bool) -> list[str]:
    """The settings of a configuration as options, or those that are not at their defaults."""
    defaults, words = type(config)(), []
    for name in (f.name for f in fields(config) if f.name not in _NO_OPTIONS):
        value, option = getattr(config, name), f"--{name.replace('_', '-')}"
        if not everything and value == getattr(defaults, name):
            continue
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        elif isinstance(value, tuple):
            words += [option, *map(str, value)]
        else:
            words += [option, str(value)]
    return words


def _path_text(path: Path) -> str:
    """A path that no option parser takes for an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def _check_text(name: str, value: Any, least: int) -> None:
    if not isinstance(value, str) or not least <= len(value) <= MAX_NAME_CHARACTERS:
        bounds = f"{least} to {MAX_NAME_CHARACTERS}"
        raise ConfigError(f"RunRequest: {name} must be a text of {bounds} characters.")
    if not value.isprintable():
        raise ConfigError(f"RunRequest: {name} must be a text on one line, without control signs.")


def _check_path(name: str, value: Any, *, optional: bool) -> None:
    if value is None and optional:
        return
    if not isinstance(value, Path):
        raise ConfigError(f"RunRequest: {name} must be a path.")
    if len(str(value)) > MAX_PATH_CHARACTERS or "\0" in str(value):
        raise ConfigError(f"RunRequest: {name} cannot be the path of a file.")


def _check_start(start: Any) -> None:
    good = isinstance(start, str) and 0 < len(start) <= MAX_PATH_CHARACTERS
    if not good or "\0" in start or start.startswith("-"):
        raise ConfigError(
            'RunRequest: start must be "random", "imagenet", a named detector or the path of a '
            "file, which must not begin with a hyphen."
        )


def _mapping(owner: str, data: Any) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{owner}: a JSON object is wanted.")
    return data
