"""Loads SQL from named blocks of the `.sql` files beside this module.

A block starts with `-- name: lock_heads  index: session_heads_pkey` and ends where the next one begins. Its plan must
use the named indexes on a filled database; a test explains every statement that names some.

A parameter is `$1`, or `:name` in statements with many. Names become numbers in the order of their first occurrence,
which is the order in which the caller passes the values. A statement uses one kind only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

_HEADER = re.compile(r"^-- name: (?P<name>\w+)(?:  index: (?P<indexes>[\w ]+))?$", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)
_NAMED = re.compile(r"(?<![:\w]):([a-z_]+)")
_NUMBERED = re.compile(r"\$\d")


@dataclass(frozen=True, slots=True)
class Statement:
    name: str
    text: str
    indexes: tuple[str, ...]


def numbered(text: str) -> tuple[str, tuple[str, ...]]:
    """The text with `$1`, `$2` … for its named parameters, and their names in that order.

    Raises ValueError for a text that also has numbered parameters.
    """
    names: dict[str, int] = {}
    result = _NAMED.sub(lambda found: f"${names.setdefault(found[1], len(names) + 1)}", text)
    if names and _NUMBERED.search(text):
        raise ValueError("named and numbered parameters in one statement")
    return result, tuple(names)


def parse(source: str, *, fragments: bool = False) -> Mapping[str, Statement]:
    """The blocks of one file by name. With `fragments`, named parameters stay names, for a caller that joins the texts.

    Raises ValueError for a duplicate name, and what `numbered` raises.
    """
    headers = list(_HEADER.finditer(source))
    ends = [header.start() for header in headers[1:]] + [len(source)]
    found: dict[str, Statement] = {}
    for header, end in zip(headers, ends, strict=True):
        name = header["name"]
        if name in found:
            raise ValueError(f"two statements are named {name}")
        text = _COMMENT.sub("", source[header.end() : end]).strip()
        if not fragments:
            text, _ = numbered(text)
        found[name] = Statement(name, text, tuple((header["indexes"] or "").split()))
    return MappingProxyType(found)


def load(file_name: str, *, fragments: bool = False) -> Mapping[str, Statement]:
    """The blocks of a file of this package."""
    return parse(files(__package__).joinpath(file_name).read_text(encoding="utf-8"), fragments=fragments)


WRITE = load("write.sql")
READ = load("read.sql")
SWEEP = load("sweep.sql")
LIST = load("list.sql", fragments=True)
LOG = load("log.sql")
BLOBS = load("blobs.sql")
ATTACHMENTS = load("attachments.sql")
WORK = load("work.sql")
WATCH = load("watch.sql")
