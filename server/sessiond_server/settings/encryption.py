"""Where the key-encryption keys are: in a file or in a variable."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

VARIABLE: Final = "SESSIOND_ENCRYPTION_KEY_LINES"
_FILE: Final = "file:"
_ENVIRONMENT: Final = "env"
_BYTES: Final = 65_536


def place(text: str) -> str:
    """The value of the setting."""
    if text != _ENVIRONMENT and (not text.startswith(_FILE) or text == _FILE or "\0" in text):
        raise ValueError(f"must be {_FILE}PATH or {_ENVIRONMENT}")
    return text


def reader(where: str, environ: Mapping[str, str] | None = None) -> Callable[[], str]:
    """What reads the lines of the keys: OSError, or ValueError with a text to show, if that fails."""
    if where == _ENVIRONMENT:
        lines = (os.environ if environ is None else environ).get(VARIABLE, "")
        return lambda: lines
    path = Path(where.removeprefix(_FILE))

    def read() -> str:
        with path.open("rb") as opened:
            found = opened.read(_BYTES + 1)
        if len(found) > _BYTES:
            raise ValueError(f"the file must have at most {_BYTES} bytes")
        try:
            return found.decode("ascii")
        except UnicodeDecodeError:
            raise ValueError("the file must be ASCII") from None

    return read
