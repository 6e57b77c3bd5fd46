"""What lies beside the tensors of a checkpoint: configuration, classes, card; checked on reading.

Metadata may come from anyone, so every size and type is checked here, once, and everything
unusable is a sentence in a `CheckpointError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retinanet.config import ConfigError, ModelConfig, PostprocessConfig
from retinanet.keymaps import CheckpointError

FORMAT = "retinanet-explorer"
VERSION = "1"
MAX_CHARACTERS = 1_000_000
MAX_NAME_CHARACTERS = 100
MAX_CATEGORY_ID = 2**31 - 1

_JSON_PARTS = ("config", "categories", "category_ids", "card", "recommended")


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint says about its weights.

    Args:
        config: the model they were made for; None when the file does not say.
        categories: class names by label index, None where a label has no class; may be empty.
        category_ids: the data set's ids by label index; may be empty.
        card: free plain data: where they come from, recipe, AP.
        recommended: post-processing that suits them; None when the file does not say.
    """

    config: ModelConfig | None = None
    categories: tuple[str | None, ...] = ()
    category_ids: tuple[int, ...] = ()
    card: dict[str, Any] = field(default_factory=dict)
    recommended: PostprocessConfig | None = None


def to_strings(metadata: Metadata) -> dict[str, str]:
    """The metadata as safetensors stores it.

    Raises:
        CheckpointError: the card is not plain data.
    """
    parts: dict[str, Any] = {
        "categories": list(metadata.categories),
        "category_ids": list(metadata.category_ids),
        "card": metadata.card,
    }
    if metadata.config is not None:
        parts["config"] = metadata.config.to_dict()
    if metadata.recommended is not None:
        parts["recommended"] = metadata.recommended.to_dict()
    try:
        strings = {name: json.dumps(part) for name, part in parts.items()}
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"The card must be plain data: {error}.") from error
    if sum(map(len, strings.values())) > MAX_CHARACTERS:
        raise CheckpointError(f"The card is too long: at most {MAX_CHARACTERS:,} characters.")
    return {"format": FORMAT, "version": VERSION, **strings}


def from_strings(strings: Mapping[str, str]) -> Metadata:
    """The metadata of a safetensors file; an empty one for a file that is not of this format.

    Raises:
        CheckpointError: it is this format's and unusable, or of a later version.
    """
    if strings.get("format") != FORMAT:
        return Metadata()
    if strings.get("version") != VERSION:
        raise CheckpointError(
            f"it has format version {strings.get('version', 'none')[:20]!r} and this program "
            f"reads version {VERSION}; update the program"
        )
    if sum(map(len, strings.values())) > MAX_CHARACTERS:
        raise CheckpointError("its metadata is too long")
    parts = {}
    for name in _JSON_PARTS:
        if name in strings:
            try:
                parts[name] = json.loads(strings[name])
            except (ValueError, RecursionError) as error:
                raise CheckpointError(f"its metadata {name!r} is not readable JSON") from error
    return from_parts(parts)


def from_parts(parts: Mapping[str, Any]) -> Metadata:
    """The metadata from plain data: a `.pth` file's entries beside the state dict.

    Raises:
        CheckpointError: an entry has the wrong type or size; the text completes a sentence that
            begins with the file's name.
    """
    card = parts.get("card", {})
    if not isinstance(card, Mapping) or not all(isinstance(key, str) for key in card):
        raise CheckpointError("its card is not a dictionary with text keys")
    return Metadata(
        config=_settings(ModelConfig, parts, "config"),
        categories=_categories(parts.get("categories", ())),
        category_ids=_category_ids(parts.get("category_ids", ())),
        card=dict(card),
        recommended=_settings(PostprocessConfig, parts, "recommended"),
    )


def _settings(kind: type, parts: Mapping[str, Any], name: str) -> Any:
    if parts.get(name) is None:
        return None
    if not isinstance(parts[name], Mapping) or not all(isinstance(key, str) for key in parts[name]):
        raise CheckpointError(f"its metadata {name!r} is not a dictionary of settings")
    try:
        return kind.from_dict(dict(parts[name]))
    except ConfigError as error:
        raise CheckpointError(
            f"its metadata is unusable: {str(error)[:300].rstrip('.')}"
        ) from error


def _check_list(entries: Any, name: str) -> None:
    if not isinstance(entries, list | tuple):
        raise CheckpointError(f"its metadata {name!r} is not a list")


def _categories(entries: Any) -> tuple[str | None, ...]:
    _check_list(entries, "categories")
    for entry in entries:
        usable = isinstance(entry, str) and entry.isprintable()
        if entry is not None and not (usable and len(entry) <= MAX_NAME_CHARACTERS):
            raise CheckpointError(
                f"its metadata holds a class name that is not printable text of at most "
                f"{MAX_NAME_CHARACTERS} characters"
            )
    return tuple(entries)


def _category_ids(entries: Any) -> tuple[int, ...]:
    _check_list(entries, "category_ids")
    for entry in entries:
        if type(entry) is not int or not 0 <= entry <= MAX_CATEGORY_ID:
            raise CheckpointError("its metadata holds a category id that is not a whole number")
    return tuple(entries)
