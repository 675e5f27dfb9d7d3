"""Names of files: as a service can store them, and beside those of others."""

import hashlib
import os
from pathlib import Path

MOST_NAME_BYTES = 255
"""Of a file, on nearly all file systems."""


def storable(name: str, most: int) -> str:
    """A file's name as text: bytes that are not UTF-8, and control characters, become U+FFFD. A name of more than
    `most` characters is cut in the middle: its end, which tells the type, stays."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = "".join("\ufffd" if ord(each) < 0x20 or 0x7F <= ord(each) <= 0x9F else each for each in text)
    if len(text) <= most:
        return text
    end = Path(text).suffix[: most // 2]
    return text[: most - len(end) - 1] + "\u2026" + end


def beside(path: Path, ending: str) -> Path:
    """A file in the same folder, named after the path with `ending` behind. Where that would be too long a name, after
    its beginning and a digest of it."""
    name = os.fsencode(path.name)
    if len(name) + len(ending.encode()) > MOST_NAME_BYTES:
        digest = hashlib.sha256(name).hexdigest()[:16].encode()
        name = name[: MOST_NAME_BYTES - len(ending.encode()) - len(digest) - 1] + b"." + digest
    return path.with_name(os.fsdecode(name) + ending)
