"""Plain JSON values: made of what callers pass, written as text, and read from it."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

Item = dict[str, Any]
"""A JSON object of another form: a message, an item, a block."""

MOST_LEVELS = 128
"""Far above what providers send, and far below Python's recursion limit."""
_MOST_BITS = 14_000
"""Of an integer: Python converts no more than 4 300 digits to text."""

_MOST_PLACE = 160
"""Characters of a place in an error; members of an item may have names of any length."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def plain(value: Any, place: str = "", level: int = 1) -> Any:
    """The value as dict, list, str, int, float, bool and None. An object with `to_dict` or `model_dump`, as the
    providers' packages return, becomes the dict that it gives: only of the fields that were set, where it knows them.

    Raises TypeError for another type and for keys that are not str; ValueError for NaN, infinity, an integer of more
    than 4 000 digits, and more than 128 levels. The error names the place, never the value.
    """
    if level > MOST_LEVELS:
        raise ValueError(f"{_short(place)}: more than {MOST_LEVELS} levels")
    match value:
        case None | bool():
            return value
        case str():
            return value if type(value) is str else str.__str__(value)
        case int():
            if value.bit_length() > _MOST_BITS:
                raise ValueError(f"{_short(place)}: an integer of more than 4 000 digits")
            return int(value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{_short(place)}: NaN and infinity are not JSON")
            return float(value)
        case Mapping():
            inner = f"{place}." if place else ""
            return {_key(key, place): plain(item, f"{inner}{key}", level + 1) for key, item in value.items()}
        case list() | tuple():
            return [plain(item, f"{place}[{index}]", level + 1) for index, item in enumerate(value)]
    for method, options in (("to_dict", {}), ("model_dump", {"exclude_unset": True})):
        if callable(dump := getattr(value, method, None)):
            return plain(dump(**options), place, level + 1)
    raise TypeError(f"{_short(place)}: {type(value).__name__} is not JSON")


def _short(place: str) -> str:
    if len(place) > _MOST_PLACE:
        return place[: _MOST_PLACE - 3] + "..."
    return place or "the item"


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{_short(place)}: keys must be str, not {type(key).__name__}")
    return str.__str__(key)


def written(value: Any) -> str:
    """The value as compact JSON text. U+0000 and surrogates without a partner are escaped, so that it can be stored."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def read(text: str) -> Any:
    """The value of JSON text. Raises ValueError if it is none, or has too many levels."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("too many levels") from None


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, the type of numbers included; the order of members aside."""
    return _sorted(one) == _sorted(other)


def _sorted(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True)
