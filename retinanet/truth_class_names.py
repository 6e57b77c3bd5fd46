"""YOLO's class lists: classes.txt, one name a line, and the `names` of a data.yaml.

Of YAML only what such files use is read: a list or a mapping from 0 on, in block or flow style,
names plain or quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from retinanet.truth import coco_spelling, shown
from retinanet.truth_formats import TruthFileError, Unusable, decode

MAX_BYTES = 1_000_000
"""The largest class list that is read, in bytes."""

MAX_NAMES = 10_000
"""The longest class list."""

_KEY = re.compile(r"""^(?:names|"names"|'names')[ \t]*:(.*)$""", re.MULTILINE)
_MAPPED = re.compile(r"[\"']?([0-9]{1,6})[\"']?\s*:(?:\s+|$)(.*)", re.DOTALL)
_YAML_LINE = re.compile(r"^(?:path|train|val|test|nc)[ \t]*:", re.MULTILINE)
_QUOTED = re.compile(r"'((?:[^']|'')*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)


def read_class_names(data: bytes) -> tuple[str, ...]:
    """YOLO's class names by class number, from classes.txt or from the `names` of a data.yaml.

    Args:
        data: the file's bytes, hostile.

    Returns:
        Cleaned names, COCO's spelling where they are COCO classes.

    Raises:
        TruthFileError: it holds no name, leaves a class number out or gives one twice, or is other
            YAML than this.
    """
    try:
        if len(data) > MAX_BYTES:
            raise Unusable(f"is larger than {MAX_BYTES // 10**6} MB; give one name a line.")
        return _class_names(decode(data))
    except Unusable as error:
        raise TruthFileError(f"The class list {error}") from error


def _class_names(text: str) -> tuple[str, ...]:
    key = _KEY.search(text)
    if key:
        names = _yaml_names(key[1], text[key.end() :])
    elif _YAML_LINE.search(text):
        raise Unusable("is YAML without names; give the data.yaml that lists its names.")
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    if not names:
        raise Unusable("holds no name; write one name a line, in the order of the class numbers.")
    if len(names) > MAX_NAMES:
        raise Unusable(f"holds {len(names):,} names; at most {MAX_NAMES:,} can be read.")
    spelled = tuple(map(coco_spelling, names))
    if "" in spelled:
        raise Unusable(f"has no name for class {spelled.index('')}; give each class a name.")
    return spelled


def _yaml_names(rest: str, below: str) -> list[str]:
    rest = _uncommented(rest)
    if not rest:
        return _in_order(_block_items(below.splitlines()))
    if rest[0] in "[{":
        return _in_order(_flow_items("\n".join([rest, *map(_uncommented, below.splitlines())])))
    raise Unusable(f"has {shown(rest, 30)!r} for its names; list them as [first, second].")


def _in_order(items: Iterable[str]) -> list[str]:
    """Names of a list as they are, those of a mapping by their numbers, 0, 1, 2 ..."""
    listed = list(items)
    mapped = [_MAPPED.fullmatch(item) for item in listed]
    if not any(mapped):
        return [_scalar(item) for item in listed]
    numbered = {int(found[1]): _scalar(found[2]) for found in mapped if found}
    if sorted(numbered) != list(range(len(listed))):
        raise Unusable("does not number its names 0, 1, 2 and so on; number each class once.")
    return [numbered[number] for number in range(len(listed))]


def _block_items(lines: Iterable[str]) -> Iterator[str]:
    """The items below "names:": "- first" at any indent, or "  0: first" indented."""
    for line in lines:
        item = _uncommented(line)
        if not item:
            continue
        if item.startswith("- ") or item == "-":
            yield item[1:].strip()
        elif line[:1] in (" ", "\t") and _MAPPED.fullmatch(item):
            yield item
        elif line[:1] in (" ", "\t"):
            raise Unusable(f"has {shown(item, 30)!r} among its names; write '- name' or '0: name'.")
        else:
            return  # the next key


def _flow_items(text: str) -> Iterator[str]:
    """The items of "[first, second]" or "{0: first, 1: second}"."""
    closing = "]" if text[0] == "[" else "}"
    item: list[str] = []
    quote = ""
    for char in text[1:]:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'" and _may_open(char, item):
            quote = char
        elif char == closing or char == ",":
            if char == "," or "".join(item).strip():  # a comma may stand after the last one
                yield "".join(item).strip()
            if char == closing:
                return
            item = []
            continue
        item.append(char)
    raise Unusable(f"has no {closing!r} after its names; copy the file again.")


def _may_open(char: str, item: list[str]) -> bool:
    """Whether a quote opens here: first in its name or doubled; else it is an apostrophe."""
    return "".join(item[-2:]).strip() in ("", ":") or item[-1] == char


def _uncommented(line: str) -> str:
    """A line without its comment; one with quotes keeps it, and `_scalar` cuts it off."""
    if line.lstrip().startswith("#"):
        return ""
    quoted = '"' in line or "'" in line
    return line.strip() if quoted else re.sub(r"(?:^|\s)#.*", "", line).strip()


def _scalar(item: str) -> str:
    """A name without its quotes."""
    found = _QUOTED.match(item)
    if not found:
        return item
    single, double = found.groups()
    return single.replace("''", "'") if single is not None else re.sub(r"\\(.)", r"\1", double)
