"""Converts between microseconds since 1970-01-01 UTC and protobuf's Timestamp and Duration."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

SECOND = 1_000_000


def set_timestamp(field: Timestamp, microseconds: int) -> None:
    """Sets a Timestamp in place."""
    field.seconds, rest = divmod(microseconds, SECOND)
    field.nanos = rest * 1000


def set_duration(field: Duration, microseconds: int) -> None:
    """Sets a Duration, which must not be negative, in place."""
    field.seconds, rest = divmod(microseconds, SECOND)
    field.nanos = rest * 1000


def microseconds(value: Timestamp | Duration) -> int:
    """Converts to microseconds: since 1970-01-01 UTC for a Timestamp. Truncates to whole microseconds."""
    return value.seconds * SECOND + value.nanos // 1000
