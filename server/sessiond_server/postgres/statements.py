"""SQL in named blocks of the `.sql` files beside this module.

A block starts with `-- name: lock_heads  index: session_heads_pkey` and ends where the next begins. The indexes are
those that its plan must use on a filled database; a test explains every statement that declares some.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

_HEADER = re.compile(r"^-- name: (?P<name>\w+)(?:  index: (?P<indexes>[\w ]+))?$", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Statement:
    name: str
    text: str
    indexes: tuple[str, ...]


def parse(source: str) -> Mapping[str, Statement]:
    """The blocks of one file by name. Raises ValueError for a name that occurs twice."""
    headers = list(_HEADER.finditer(source))
    ends = [header.start() for header in headers[1:]] + [len(source)]
    found: dict[str, Statement] = {}
    for header, end in zip(headers, ends, strict=True):
        name = header["name"]
        if name in found:
            raise ValueError(f"two statements are named {name}")
        text = _COMMENT.sub("", source[header.end() : end]).strip()
        found[name] = Statement(name, text, tuple((header["indexes"] or "").split()))
    return MappingProxyType(found)


def load(file_name: str) -> Mapping[str, Statement]:
    """The blocks of a file of this package."""
    return parse(files(__package__).joinpath(file_name).read_text(encoding="utf-8"))


WRITE = load("write.sql")
READ = load("read.sql")
SWEEP = load("sweep.sql")
LIST = load("list.sql")
LOG = load("log.sql")
BLOBS = load("blobs.sql")
ATTACHMENTS = load("attachments.sql")
WORK = load("work.sql")
