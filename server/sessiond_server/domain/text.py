"""Validates strings. Each check returns the text of the broken rule, or None.

Lengths are in characters (Unicode code points) unless a name says bytes. The strings come from parsed protobuf, so they
contain no lone surrogates.
"""

import json
import re

ID_BYTES = 255
"""Longest id, in bytes of UTF-8."""
ID_RULE = "must be 1 to 255 bytes of UTF-8 without control characters, leading and trailing white space"
REQUEST_ID_RULE = "must be 1 to 128 characters of [A-Za-z0-9._:~-]"
LABEL_KEY_RULE = "keys must be 1 to 63 characters of [A-Za-z0-9._/-]"
NUL_RULE = "must not contain U+0000"

_is_request_id = re.compile(r"[A-Za-z0-9._:~-]{1,128}").fullmatch
_is_label_key = re.compile(r"[A-Za-z0-9._/-]{1,63}").fullmatch
_find_control = re.compile(r"[\x00-\x1f\x7f-\x9f]").search

_KEY_CHARACTERS = 40


def identifier(value: str) -> str | None:
    """Checks an id: of a session, a user, a message or another resource.

    Ids are compared by their bytes: two Unicode forms of one text (NFC, NFD) are two ids, and both stay as they are.
    """
    if _is_request_id(value):
        return None
    if not 0 < len(value) <= ID_BYTES or len(value.encode()) > ID_BYTES or value != value.strip():
        return ID_RULE
    return ID_RULE if _find_control(value) else None


def optional_identifier(value: str) -> str | None:
    """As identifier, of a field that may be empty."""
    return identifier(value) if value else None


def request_identifier(value: str) -> str | None:
    """Checks a request id, which metadata and derived ids carry: ASCII, without separators."""
    return None if _is_request_id(value) else REQUEST_ID_RULE


def label_key(value: str) -> str | None:
    return None if _is_label_key(value) else LABEL_KEY_RULE


def line(value: str, least: int, most: int) -> str | None:
    """Checks one line of text: `least` to `most` characters, no control characters (Unicode category Cc)."""
    if not least <= len(value) <= most:
        return f"must be {least} to {most} characters"
    # isprintable is the faster check, but it also rejects joiners and ideographic spaces.
    if not value.isprintable() and _find_control(value):
        return "must not contain control characters"
    return None


def text(value: str, most: int) -> str | None:
    """Checks text of any number of lines: at most `most` characters, no U+0000."""
    if len(value) > most:
        return f"must be at most {most} characters"
    return NUL_RULE if "\0" in value else None


def quoted_key(key: str) -> str:
    """Formats a map key for a field path: as a JSON string in ASCII, truncated to 40 characters."""
    return json.dumps(key if len(key) <= _KEY_CHARACTERS else key[:_KEY_CHARACTERS] + "...")
