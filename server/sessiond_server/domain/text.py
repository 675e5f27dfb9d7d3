"""Rules of strings. Each answers with the rule that is broken, or None.

Lengths are in characters (Unicode code points) unless a name says bytes. The strings come from parsed protobuf, so they
hold no lone surrogates.
"""

import json
import re

ID_RULE = "must be 1 to 128 characters of [A-Za-z0-9._:~-]"
LABEL_KEY_RULE = "keys must be 1 to 63 characters of [A-Za-z0-9._/-]"
NUL_RULE = "must not contain U+0000"

_is_id = re.compile(r"[A-Za-z0-9._:~-]{1,128}").fullmatch
_is_label_key = re.compile(r"[A-Za-z0-9._/-]{1,63}").fullmatch
_find_control = re.compile(r"[\x00-\x1f\x7f-\x9f]").search

_KEY_CHARACTERS = 40


def identifier(value: str) -> str | None:
    """Ids of sessions and messages, and request ids."""
    return None if _is_id(value) else ID_RULE


def label_key(value: str) -> str | None:
    return None if _is_label_key(value) else LABEL_KEY_RULE


def line(value: str, least: int, most: int) -> str | None:
    """Text of one line: bounded, without control characters (Unicode category Cc)."""
    if not least <= len(value) <= most:
        return f"must be {least} to {most} characters"
    # isprintable is the faster question, but it also refuses joiners and ideographic spaces.
    if not value.isprintable() and _find_control(value):
        return "must not contain control characters"
    return None


def text(value: str, most: int) -> str | None:
    """Text of any lines: bounded, without U+0000."""
    if len(value) > most:
        return f"must be at most {most} characters"
    return NUL_RULE if "\0" in value else None


def quoted_key(key: str) -> str:
    """A map key as it stands in a field path: a JSON string in ASCII, cut off where it is long."""
    return json.dumps(key if len(key) <= _KEY_CHARACTERS else key[:_KEY_CHARACTERS] + "...")
