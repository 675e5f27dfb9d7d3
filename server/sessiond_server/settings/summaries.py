"""The key of the server that makes summaries, which is in a file or in the variable that its client libraries use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

VARIABLE: Final = "OPENAI_API_KEY"
NO_KEY: Final = "none"
"""Sent to servers that need none: the library insists on a key."""
_BYTES: Final = 8192


def key_of(file: Path | None, environ: Mapping[str, str]) -> str:
    """The key. Raises OSError; ValueError, without the key, if it is none."""
    if file is None:
        key = environ.get(VARIABLE, "").strip() or NO_KEY
    else:
        with file.open("rb") as opened:
            key = opened.read(_BYTES + 1).decode("ascii", "replace").strip()
    if not key or len(key) > _BYTES or not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(f"must have a key: one line of at most {_BYTES} printable ASCII characters")
    return key
