"""Loads SQL from named blocks of the `.sql` files beside this module.

A block starts with `-- name: lock_heads  index: session_heads_pkey` and ends where the next one begins. Its plan must
use the named indexes on a filled database; a test explains every statement that names some. A block that starts with
`-- part: NAME` is no statement. `{NAME}` in a statement is replaced by the text of another block.

A parameter is `$1`, or `:name` in statements with many. Names become numbers in the order of their first occurrence,
which is the order in which the caller passes the values. A statement uses one kind only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

_HEADER = re.compile(r"^-- (?P<kind>name|part): (?P<name>\w+)(?:  index: (?P<indexes>[\w ]+))?$", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)
_NAMED = re.compile(r"(?<![:\w]):([a-z_]+)")
_PART = re.compile(r"\{(\w+)\}")
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


def parse(
    source: str, *, fragments: bool = False, parts: Mapping[str, Statement] | None = None
) -> Mapping[str, Statement]:
    """The statements of one file by name. With `fragments`, named parameters and parts stay names, for a caller that
    joins the texts.

    `parts`: blocks that statements may contain, besides those of the file. A `with` at their beginning is left out, as
    they stand behind one. Raises ValueError for a duplicate name, KeyError for an unknown part, and what `numbered`
    raises.
    """
    headers = list(_HEADER.finditer(source))
    ends = [header.start() for header in headers[1:]] + [len(source)]
    found: dict[str, Statement] = {}
    known = {name: part.text for name, part in (parts or {}).items()}
    for header, end in zip(headers, ends, strict=True):
        name = header["name"]
        if name in found or name in known:
            raise ValueError(f"two statements are named {name}")
        text = _COMMENT.sub("", source[header.end() : end]).strip()
        if header["kind"] == "part":
            known[name] = text
            continue
        if not fragments:
            text = _PART.sub(lambda part: known[part[1]].removeprefix("with "), text)
            text, _ = numbered(text)
        found[name] = Statement(name, text, tuple((header["indexes"] or "").split()))
    return MappingProxyType(found)


def load(
    file_name: str, *, fragments: bool = False, parts: Mapping[str, Statement] | None = None
) -> Mapping[str, Statement]:
    """The statements of a file of this package; see `parse`."""
    source = files(__package__).joinpath(file_name).read_text(encoding="utf-8")
    return parse(source, fragments=fragments, parts=parts)


WRITE = load("write.sql")
READ = load("read.sql")
SWEEP = load("sweep.sql")
LIST = load("list.sql", fragments=True)
LOG = load("log.sql")
BLOBS = load("blobs.sql")
ATTACHMENTS = load("attachments.sql")
IMPORTS = load("imports.sql")
WORK = load("work.sql")
FORKS = load("forks.sql")
HISTORY = load("history.sql")
WATCH = load("watch.sql")
PLACEMENT = load("placement.sql")
MOVING = load("moving.sql")
_FEEDS = load("feed_ends.sql", fragments=True)
SEARCH = load("search.sql", parts=_FEEDS)
SEARCH_LIST = load("search_list.sql", fragments=True)
SUMMARIES = load("summaries.sql", parts=_FEEDS)
ERASURES = load("erasures.sql")
TEMPLATES = load("templates.sql")
USAGE = load("usage.sql", parts=_FEEDS)
ENCRYPTION = load("encryption.sql")
RETENTION = load("retention.sql")
DOCUMENTS = load("documents.sql", parts=load("write.sql", fragments=True))
