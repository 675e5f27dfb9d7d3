"""Finished spans, and their form in OTLP: the fields of `opentelemetry.proto.trace.v1` that ours have.

Written by hand because it is most of what a traced call costs: the SDK's own spans and their encoding took as long as a
GetSession. Tests read what it writes with OpenTelemetry's generated messages. No I/O, and nothing of OpenTelemetry.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import starmap
from struct import Struct
from typing import Final

from sessiond_server.spans import Attributes

INTERNAL: Final = 1
SERVER: Final = 2
CLIENT: Final = 3
"""Kinds of spans."""

_IDS: Final = b"\x0a\x10%b\x12\x08%b"
_PARENT: Final = b"\x22\x08%b"
_TIMES: Final = Struct("<BBBQBQ").pack
"""Kind, beginning and end, each behind its tag."""
_FAILED: Final = b"\x7a\x02\x18\x02"
_SAMPLED: Final = b"\x85\x01\x01\x01\x00\x00"
"""Flags: sampled, and known whether the parent is of another process, which it is not."""
_SAMPLED_REMOTE: Final = b"\x85\x01\x01\x03\x00\x00"
_LINKED: Final = b"\x6a\x21" + _IDS + b"\x35\x01\x01\x00\x00"

Place = tuple[bytes, bytes]
"""The ids of a trace, of 16 bytes, and of a span in it, of 8."""


class FinishedSpan:
    """A span that has ended, and is sampled."""

    __slots__ = (
        "attributes",
        "begin",
        "end_time",
        "failed",
        "kind",
        "links",
        "name",
        "parent",
        "place",
        "remote",
        "state",
    )

    def __init__(self, place: Place, parent: bytes, name: str, kind: int, begin: int, attributes: Attributes) -> None:
        self.place = place
        self.parent = parent
        """Id of its parent; empty for the first span of a trace."""
        self.remote = False
        """Whether the parent is a span of another process."""
        self.name = name
        self.kind = kind
        self.begin = begin
        self.end_time = 0
        """Both in nanoseconds since 1970."""
        self.attributes = dict(attributes)
        self.links: list[Place] = []
        self.failed = False
        self.state = ""
        """The `tracestate` of the trace."""


def request(resource: bytes, scope: bytes, spans: Iterable[FinishedSpan]) -> bytes:
    """A serialised ExportTraceServiceRequest of spans of one resource and scope, both serialised."""
    parts = [_nested(0x0A, scope)]
    for span in spans:
        encoded = _span(span)
        parts += (b"\x12", _length(len(encoded)), encoded)
    return _nested(0x0A, _nested(0x0A, resource) + _nested(0x12, b"".join(parts)))


def attributes(values: Mapping[str, object]) -> bytes:
    """A serialised Resource with these attributes; of other types than those of spans, their texts."""
    plain = {key: value if isinstance(value, str | bool | int | float) else str(value) for key, value in values.items()}
    return b"".join(_nested(0x0A, _key_value(key, value)) for key, value in plain.items())


def scope(name: str, version: str) -> bytes:
    """A serialised InstrumentationScope."""
    return _nested(0x0A, name.encode()) + _nested(0x12, version.encode())


def _span(span: FinishedSpan) -> bytes:
    parts = [_IDS % span.place]
    if span.state:
        parts.append(_nested(0x1A, span.state.encode()))
    if span.parent:
        parts.append(_PARENT % span.parent)
    parts += (_name(span.name), _TIMES(0x30, span.kind, 0x39, span.begin, 0x41, span.end_time))
    parts += starmap(_attribute, span.attributes.items())
    if span.links:
        parts += [_LINKED % place for place in span.links]
    if span.failed:
        parts.append(_FAILED)
    parts.append(_SAMPLED_REMOTE if span.remote else _SAMPLED)
    return b"".join(parts)


@lru_cache(512)
def _name(name: str) -> bytes:
    return _nested(0x2A, name.encode())


def _attribute(key: str, value: str | bool | int | float) -> bytes:
    if isinstance(value, str) and len(value) > _SELDOM:
        return _nested(0x4A, _key_value(key, value))
    return _frequent(key, value)


_SELDOM: Final = 31
"""Longer texts are ids of calls and sessions, of which each comes once or a few times."""


@lru_cache(4096, typed=True)
def _frequent(key: str, value: str | bool | int | float) -> bytes:
    """Most values come again and again: codes, tenants, names."""
    return _nested(0x4A, _key_value(key, value))


@lru_cache(512)
def _key(key: str) -> bytes:
    return _nested(0x0A, key.encode())


_DOUBLE: Final = Struct("<Bd").pack


def _key_value(key: str, value: str | bool | int | float) -> bytes:
    if isinstance(value, str):
        encoded = _nested(0x0A, value.encode("utf-8", "replace"))
    elif isinstance(value, bool):
        encoded = b"\x10\x01" if value else b"\x10\x00"
    elif isinstance(value, int):
        encoded = b"\x18" + _length(value & 0xFFFF_FFFF_FFFF_FFFF)
    else:
        encoded = _DOUBLE(0x21, value)
    return _key(key) + _nested(0x12, encoded)


def _nested(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return b"%c%c%b" % (tag, length, content)
    return b"%c%b%b" % (tag, _length(length), content)


def _length(value: int) -> bytes:
    """As a varint."""
    if value < 0x80:
        return _SMALL[value]
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_SMALL: Final = [bytes((value,)) for value in range(0x80)]
