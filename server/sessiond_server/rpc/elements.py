"""Parses large requests in slices, so that no request holds the event loop, and refuses those of too many elements.

The parser runs in one piece and lets no other thread run meanwhile. It takes 0.03 microseconds for a field, an item or
a value, and 0.5 for an entry of a map (of which a Struct consists), measured on 2026-11-29. Counting them in Python
takes longer than parsing them. So both are done by turns, for `SLICE` elements at a time.

A serialised message may be cut between any two of its fields, and so may the messages inside it that are not items of a
list: one field, given twice, is merged. Items of lists are never cut.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

MOST: Final = 250_000
"""Elements of one request: fields that are set, items of lists, keys, values and entries of objects. An object of 1 MiB
with 50 000 small entries has 200 000."""
SLICE: Final = 5_000
"""Elements that are counted, and parsed, in one piece, or two: 10 ms at most."""
REST: Final = 2
"""What a slice leaves to other calls of the loop's time, in times of what it takes: a request of many elements takes a
third of the loop."""
ENTRY: Final = 20
"""What an entry of a map takes the parser, in elements of other kinds."""
UNCUT: Final = 800_000
"""Most of that for what cannot be cut: 20 ms. 40 000 entries of an object in an item of a list."""
DEEPEST: Final = 100
"""Levels of messages in messages, beyond which the parser takes a request for malformed."""
CUT_FROM: Final = 4096
"""Bytes of a message inside another one that are worth cutting."""

_LENGTH, _VARINT, _EIGHT, _FOUR = 2, 0, 1, 5


class TooManyElements(Exception):
    """More than MOST, or more than UNCUT in what cannot be cut."""


class Malformed(Exception):
    """No message of the type: the parser would say so too."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What a length-delimited field holds."""

    fields: "Table | None"
    """None: packed numbers."""
    weight: int
    single: bool
    """Whether it is a message, and no item of a list."""


class Pace:
    """How long slices wait for each other: as long as other calls need, whose turns a large request must not take."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds of CPU that the loop's thread has taken."""
        self._clock = clock
        self._since = clock()

    def pause(self) -> float:
        """Seconds to wait after a slice: REST times what it took."""
        return REST * (self._clock() - self._since)

    def go_on(self) -> None:
        """The next slice begins now."""
        self._since = self._clock()


Table = dict[int, Inside]
"""The fields of a message that hold messages or packed numbers, by number."""


def table(descriptor: Descriptor) -> Table:
    """The table of a message type."""
    return _table(descriptor, {})


def _table(descriptor: Descriptor, known: dict[str, Table]) -> Table:
    if descriptor.full_name not in known:
        fields = known[descriptor.full_name] = {}
        for field in descriptor.fields:
            inner = field.message_type
            if inner is not None:
                entry = inner.GetOptions().map_entry
                fields[field.number] = Inside(_table(inner, known), ENTRY if entry else 1, field.has_presence)
            elif field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
                fields[field.number] = Inside(None, 1, False)
    return known[descriptor.full_name]


def is_small(data: bytes) -> bool:
    """Whether there can't be more elements than one slice may have: an element takes two bytes at least."""
    return len(data) <= 2 * SLICE


def slices(data: bytes, fields: Table) -> Iterator[bytes | None]:
    """What to parse, one piece after the other, into one message: each is a serialised message of the same type. None:
    nothing yet, but others may have a turn of the loop.

    Takes 0.4 to 0.9 microseconds for each element. Raises TooManyElements before what is too much is given out, and
    Malformed, where the parser has not found out before.
    """
    try:
        yield from _Walk(data, fields).slices()
    except IndexError:
        raise Malformed from None


class _Walk:
    def __init__(self, data: bytes, fields: Table) -> None:
        self._data = data
        self._fields = fields
        self._path: list[bytes] = []
        """Tags of the messages around the place, outermost first, as far as they may be cut."""
        self._cut = 0
        """Where the next slice begins, in the innermost message that may be cut."""

    def slices(self) -> Iterator[bytes | None]:
        data, fields = self._data, self._fields
        place, end = 0, len(data)
        outer: list[tuple[int, Table]] = []
        count = weight = 0
        pause = SLICE
        while True:
            if place >= end:
                if not outer:
                    break
                if len(self._path) == len(outer):
                    yield self._slice(end)
                    self._path.pop()
                    weight = 0
                place = end
                end, fields = outer.pop()
                continue
            if count >= pause:
                if len(self._path) == len(outer):
                    if self._cut < place:
                        yield self._slice(place)
                        weight = 0
                    pause = count + SLICE
                elif count >= pause + SLICE:
                    pause += SLICE
                    yield None
            begin = place
            tag, place = _varint(data, place)
            count += 1
            weight += 1
            kind = tag & 7
            if kind == _LENGTH:
                length, inside = _varint(data, place)
                place = inside + length
                if place > end:
                    raise IndexError
                field = fields.get(tag >> 3)
                if field is not None:
                    if field.fields is None:
                        count += length
                        weight += length
                    elif length:
                        weight += field.weight
                        if len(outer) == DEEPEST:
                            raise IndexError
                        if field.single and length >= CUT_FROM and len(self._path) == len(outer):
                            if self._cut < begin:
                                yield self._slice(begin)
                                weight = 0
                            self._path.append(data[begin : _varint(data, begin)[1]])
                            self._cut = inside
                        outer.append((end, fields))
                        place, end, fields = inside, place, field.fields
            elif kind == _VARINT:
                _, place = _varint(data, place)
            elif kind in (_EIGHT, _FOUR):
                place += 8 if kind == _EIGHT else 4
            else:
                raise TooManyElements  # a group: no field of ours is one
            if count > MOST or weight > UNCUT:
                raise TooManyElements
        yield self._slice(end)

    def _slice(self, end: int) -> bytes:
        piece = self._data[self._cut : end]
        self._cut = end
        for tag in reversed(self._path):
            piece = tag + _length(len(piece)) + piece
        return piece


def _length(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """(value, place behind it). Raises IndexError where it does not end."""
    byte = data[place]
    place += 1
    if byte < 0x80:
        return byte, place
    value, shift = byte & 0x7F, 7
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise IndexError
