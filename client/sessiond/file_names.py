"""Makes file names that the service can store, and names of temporary files beside others."""

import hashlib
import os
from pathlib import Path

MOST_NAME_BYTES = 255
"""The maximum bytes of a file name on nearly all file systems."""


def storable(name: str, most: int) -> str:
    """Returns a file name as text. Bytes that are not UTF-8, and control characters, become U+FFFD. A name of more than
    `most` characters is shortened before its extension, which tells the type."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = "".join("\ufffd" if ord(each) < 0x20 or 0x7F <= ord(each) <= 0x9F else each for each in text)
    if len(text) <= most:
        return text
    end = Path(text).suffix[: most // 2]
    return text[: most - len(end) - 1] + "\u2026" + end


def beside(path: Path, ending: str) -> Path:
    """Returns a path in the same folder: the name with `ending` appended or, if that is too long, the beginning of the
    name with a digest and `ending`."""
    name = os.fsencode(path.name)
    if len(name) + len(ending.encode()) > MOST_NAME_BYTES:
        digest = hashlib.sha256(name).hexdigest()[:16].encode()
        name = name[: MOST_NAME_BYTES - len(ending.encode()) - len(digest) - 1] + b"." + digest
    return path.with_name(os.fsdecode(name) + ending)
