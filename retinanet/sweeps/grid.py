"""The settings that a sweep tries: every combination of four lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from itertools import product
from typing import Any

from retinanet.config import ConfigError, PostprocessConfig

MAX_VALUES = 200
MAX_SETTINGS = 10_000


@dataclass(frozen=True)
class Grid:
    """Values of the four settings of `PostprocessConfig`; a sweep tries all their combinations.

    Any iterable of numbers is taken for each, or one number; held sorted, without repeats.

    Raises:
        ConfigError: a list is empty, a value is outside its range, or there are more than 200
            values of one setting or 10,000 combinations.
    """

    score_thresh: tuple[float, ...]
    nms_thresh: tuple[float, ...]
    topk_candidates: tuple[int, ...] = (1000,)
    detections_per_img: tuple[int, ...] = (100,)

    def __post_init__(self) -> None:
        for field in fields(self):
            values = _values(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, values)
        if len(self) > MAX_SETTINGS:
            raise ConfigError(
                f"Grid: {len(self):,} combinations are more than {MAX_SETTINGS:,}; "
                "give fewer values."
            )

    def __len__(self) -> int:
        count = 1
        for field in fields(self):
            count *= len(getattr(self, field.name))
        return count

    @property
    def settings(self) -> list[PostprocessConfig]:
        """All combinations; the last setting changes fastest."""
        names = [field.name for field in fields(self)]
        lists = [getattr(self, name) for name in names]
        return [PostprocessConfig(**dict(zip(names, own, strict=True))) for own in product(*lists)]

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain data; `from_dict` reads it back."""
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Grid:
        """A grid from plain data; settings that are not named have one value, the default's.

        Raises:
            ConfigError: a key is no setting, or a value cannot work.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(name) for name in set(data) - set(known))
        if unknown:
            raise ConfigError(f"Grid has no setting named {', '.join(unknown)}.")
        default = PostprocessConfig(detections_per_img=100)
        return cls(**{name: data.get(name, getattr(default, name)) for name in known})

    @classmethod
    def of(cls, config: PostprocessConfig) -> Grid:
        """The grid of one setting."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})


def parse_grid(texts: Sequence[str], base: PostprocessConfig) -> Grid:
    """A grid from words as on the command line.

    Args:
        texts: "SETTING=VALUES" each: numbers with commas between, or "start:stop:step" with both
            ends: "score_thresh=0.05:0.95:0.1", "nms_thresh=0.3,0.5,0.7".
        base: the one value of the settings that are not named.

    Raises:
        ConfigError: one is not of this form, names no setting, or is named twice.
    """
    found: dict[str, list[float]] = {}
    known = [field.name for field in fields(Grid)]
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in known:
            raise ConfigError(
                f"{text[:60]!r} is not of the form SETTING=VALUES; settings are {', '.join(known)}."
            )
        if name in found:
            raise ConfigError(f"{name} is given twice; name all its values at once.")
        found[name] = [value for part in values.split(",") for value in _numbers(name, part)]
    return Grid(**{name: found.get(name, getattr(base, name)) for name in known})


def _numbers(name: str, text: str) -> list[float]:
    """The numbers of "0.5" or "0.1:0.9:0.2", in decimal arithmetic, so that .3 is .3."""
    try:
        ends = [Decimal(own.strip()) for own in text.split(":")]
    except InvalidOperation:
        raise ConfigError(f"{name}: {text.strip()[:60]!r} is no number.") from None
    usable = all(own.is_finite() and -(10**9) < own < 10**9 for own in ends)
    if not usable or len(ends) not in (1, 3):
        raise ConfigError(f"{name}: {text[:60]!r} is neither a number nor start:stop:step.")
    if len(ends) == 1:
        return [_number(ends[0])]
    start, stop, step = ends
    if step <= 0 or stop < start or step * MAX_VALUES < stop - start:
        raise ConfigError(
            f"{name}: {text[:60]!r} must rise from start to stop, in at most {MAX_VALUES} steps."
        )
    return [_number(start + step * i) for i in range(int((stop - start) / step) + 1)]


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _values(name: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, str | bytes):
        raise ConfigError(f"Grid: {name} must be a list of numbers, not {values!r}.")
    listed = list(values) if isinstance(values, Iterable) else [values]
    if not listed:
        raise ConfigError(f"Grid: {name} needs at least one value.")
    checked = {getattr(PostprocessConfig(**{name: value}), name) for value in listed}
    if len(checked) > MAX_VALUES:
        raise ConfigError(f"Grid: {name} has more than {MAX_VALUES} values; give fewer.")
    kind = float if name in ("score_thresh", "nms_thresh") else int
    return tuple(sorted(kind(value) for value in checked))


DEFAULT_GRID = Grid(
    score_thresh=(0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    nms_thresh=(0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75),
)
"""10 x 10 settings, with AP's usual threshold .01 and torchvision's .05 and .5 among them."""
