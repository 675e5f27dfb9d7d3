"""Checks that a text is JSON (RFC 8259) without making objects of it, in pieces of bounded time."""

import re
from collections.abc import Generator
from typing import Final

LEVELS: Final = 128
"""Most levels of objects and lists."""
NESTED: Final = 50_000
"""Most objects and lists in the JSON texts of one request: each takes two to three microseconds to check."""
NOT_JSON: Final = "must be JSON (RFC 8259)"
TOO_DEEP: Final = f"must have at most {LEVELS} levels"
TOO_MANY: Final = f"must have at most {NESTED} objects and lists, all JSON texts of the request together"
PIECE: Final = 65_536
"""Characters, or STEP for each step of the walk, of one piece: 1 to 8 ms."""
STEP: Final = 32

# Only repeats of single characters are possessive. Those of groups match wrongly before Python 3.11.5 (python/cpython
# issue 106052), and are not needed: a character begins a group in one way only, so a match that fails is given up after
# as many steps as the group has repeats.
_SPACE = r"[ \t\n\r]*+"
_SEGMENT = r'(?:[^"\\\x00-\x1f]{1,256}+|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))'
_STRING = rf'"{_SEGMENT}{{0,16}}"'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_SCALAR = rf"(?:{_STRING}|{_NUMBER}|true|false|null)"

_token = re.compile(rf'{_SPACE}(?:({_SCALAR})|([\[\]{{}}:,"]))').match
_items = re.compile(rf"(?:{_SPACE}{_SCALAR}{_SPACE},){{0,64}}").match
_members = re.compile(rf"(?:{_SPACE}{_STRING}{_SPACE}:{_SPACE}{_SCALAR}{_SPACE},){{0,64}}").match
_segments = re.compile(rf"{_SEGMENT}{{0,1000}}").match
_space = re.compile(_SPACE).match


class Room:
    """How many objects and lists the texts of a request may still have."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = NESTED


def walk(text: str, room: Room) -> Generator[None, None, str | None]:
    """Yields after each piece, and returns the broken rule, or None."""
    place, steps, due = 0, 0, PIECE
    closing: list[str] = []
    """The closing brackets of the levels around the place."""
    expected = "value"
    while True:
        steps += 1
        if place + STEP * steps >= due:
            due += PIECE
            yield
        if expected in ("value", "first") and closing and closing[-1] == "]":
            run = _items(text, place)
        elif expected in ("key", "first"):
            run = _members(text, place)
        else:
            run = None
        if run is not None and run.end() > place:
            place = run.end()
            expected = "value" if closing[-1] == "]" else "key"
            continue
        token = _token(text, place)
        if token is None:
            return NOT_JSON
        place = token.end()
        kind = token[2]
        if kind is None or kind == '"':
            if kind == '"':
                end = yield from _string(text, place)
                if end is None:
                    return NOT_JSON
                place = end
            is_string = kind == '"' or text[token.start(1)] == '"'
            if expected == "key" or (expected == "first" and closing[-1] == "}"):
                if not is_string:
                    return NOT_JSON
                expected = "colon"
                continue
            if expected not in ("value", "first"):
                return NOT_JSON
        elif kind in "[{":
            if expected not in ("value", "first") or (expected == "first" and closing[-1] == "}"):
                return NOT_JSON
            if len(closing) == LEVELS:
                return TOO_DEEP
            if not room.left:
                return TOO_MANY
            room.left -= 1
            closing.append("]" if kind == "[" else "}")
            expected = "first"
            continue
        elif kind == ":":
            if expected != "colon":
                return NOT_JSON
            expected = "value"
            continue
        elif kind == ",":
            if expected != "next":
                return NOT_JSON
            expected = "value" if closing[-1] == "]" else "key"
            continue
        elif expected not in ("first", "next") or closing[-1] != kind:
            return NOT_JSON
        else:
            closing.pop()
        # A value has ended.
        if not closing:
            rest = _space(text, place)
            return None if rest is not None and rest.end() == len(text) else NOT_JSON
        expected = "next"


def _string(text: str, place: int) -> Generator[None, None, int | None]:
    """Walks over the rest of a string. Returns the place behind it; None if it has no end."""
    while True:
        found = _segments(text, place)
        end = found.end() if found is not None else place
        if text.startswith('"', end):
            return end + 1
        if end == place:
            return None
        place = end
        yield
