"""Counts the elements of a serialised request without parsing it, up to the limit.

Parsing takes about a microsecond for each message, value or map entry, and blocks the loop: 4 MiB can hold two million.
"""

from collections.abc import Mapping
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

MOST: Final = 20_000
"""Most elements of one request: set fields, items of lists, entries and values of objects. They take 20 ms to parse."""

_LENGTH, _VARINT, _EIGHT, _FOUR = 2, 0, 1, 5

Table = dict[int, "Table | None"]
"""Field number -> content of a length-delimited field: the table of a message type, or None for packed numbers."""


def table(descriptor: Descriptor) -> Table:
    """The table of a message type."""
    return _table(descriptor, {})


def _table(descriptor: Descriptor, known: dict[str, Table]) -> Table:
    if descriptor.full_name not in known:
        fields = known[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                fields[field.number] = _table(field.message_type, known)
            elif field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
                fields[field.number] = None
    return known[descriptor.full_name]


def too_many(data: bytes, fields: Mapping[int, "Table | None"], most: int = MOST) -> bool:
    """Whether the message has more than `most` elements. Takes 0.3 µs per element. Ignores malformed data."""
    if len(data) <= 2 * most:
        return False
    pending: list[tuple[int, int, Mapping[int, Table | None]]] = [(0, len(data), fields)]
    count = 0
    try:
        while pending:
            place, end, fields = pending.pop()
            while place < end:
                count += 1
                if count > most:
                    return True
                tag, place = _varint(data, place)
                kind = tag & 7
                if kind == _LENGTH:
                    length, place = _varint(data, place)
                    number = tag >> 3
                    if number in fields:
                        inner = fields[number]
                        if inner is None:
                            count += length
                        elif length:
                            pending.append((place, min(place + length, end), inner))
                    place += length
                elif kind == _VARINT:
                    _, place = _varint(data, place)
                elif kind in (_EIGHT, _FOUR):
                    place += 8 if kind == _EIGHT else 4
                else:
                    return True  # a group, which none of our fields is
    except IndexError:
        return False
    return count > most


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """(value, index after it) of a varint. Raises IndexError if it does not end."""
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
