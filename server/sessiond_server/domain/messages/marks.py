"""Marks: the short strings under which the store finds a session's messages. A message without labels and client time
has none."""

from collections.abc import Iterator, Mapping
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.message_pb2 import Message

_YEAR_ONE: Final = 62_135_596_800
"""Seconds from 0001-01-01 to 1970-01-01."""


def has_marks(message: Message) -> bool:
    return bool(message.labels) or message.HasField("client_time")


def of_message(message: Message) -> Iterator[str]:
    yield from of_labels(message.labels)
    if message.HasField("client_time"):
        yield of_time(message.client_time)


def of_labels(labels: Mapping[str, str]) -> list[str]:
    """One mark for each label. Keys have no "=", so marks of different labels differ."""
    return [f"l{key}={value}" for key, value in labels.items()]


def of_time(time: Timestamp) -> str:
    """Marks of times sort by code points as their times do."""
    return f"t{time.seconds + _YEAR_ONE:012}{time.nanos:09}"


EARLIEST: Final = "t"
"""At or before every mark of a time."""
LATEST: Final = "u"
"""After every mark of a time."""
