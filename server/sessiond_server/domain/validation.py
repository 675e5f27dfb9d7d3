"""Validates resource messages by the rules that their proto comments state; here is what all resources share.

Each check adds violations to `found`, under the path of the field in the request. Checks ignore output-only fields.
Rules that need the clock or the stored session (is `expire_time` in the future? is the tool allowed?) are in the
`rules.py` of each resource.
"""

from collections.abc import Mapping
from typing import Final

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.session_pb2 import TokenUsage
from sessiond_server.domain import structs, text
from sessiond_server.errors import InvalidFields, Violation

KIB: Final = 1024
MIB: Final = 1024 * KIB
METADATA_BYTES: Final = 64 * KIB
LABELS: Final = 64
LABELS_BYTES: Final = 16 * KIB
"""Keeps a page of 100 sessions without content below 4 MiB."""
MOST_INTEGER: Final = 2**53 - 1
"""Largest integer of the API: the largest that every client language represents exactly, JavaScript too."""
PATH_CHARACTERS: Final = 160
"""Longest path of a violation. 16 violations must fit into the 8 KiB that gRPC allows for metadata."""
_EARLIEST_SECOND: Final = -62_135_596_800  # 0001-01-01T00:00:00Z, the first instant that a Timestamp may be
_LATEST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last; timestamptz reaches further both ways


class FieldViolations:
    """The violations of one request."""

    __slots__ = ("_violations",)

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def add(self, path: str, rule: str | None) -> None:
        """Records that the field at `path` breaks `rule`. Does nothing if `rule` is None. Truncates long paths."""
        if rule is not None:
            if len(path) > PATH_CHARACTERS:
                path = path[: PATH_CHARACTERS - 3] + "..."
            self._violations.append(Violation(path, rule))

    @property
    def enough(self) -> bool:
        """Whether the limit of reported violations is reached, so that loops over the request may stop."""
        return len(self._violations) >= InvalidFields.MOST

    def check(self) -> None:
        """Raises InvalidFields if there is any violation."""
        if self._violations:
            raise InvalidFields(self._violations)


def enum(found: FieldViolations, path: str, value: int, known: EnumDescriptor) -> None:
    """Checks that an enum's number is known to this version. Zero (unspecified) is always valid."""
    if value != 0 and value not in known.values_by_number:
        found.add(path, "must be a known value")


def struct(found: FieldViolations, path: str, value: Struct, most_bytes: int = 0) -> None:
    """Checks an object: serialised size, depth, no NaN, no infinity, no U+0000. Adds only the first fault."""
    fault = structs.fault(value, most_bytes)
    if fault is not None:
        found.add(path + fault[0], fault[1])


def labels(found: FieldViolations, path: str, value: Mapping[str, str], most: int = LABELS) -> None:
    if len(value) > most:
        found.add(path, f"must be at most {most}")
    if sum(len(key) + len(label.encode()) for key, label in value.items()) > LABELS_BYTES:
        found.add(path, "must be at most 16 KiB, keys and values together")
    for key, label in value.items():
        if found.enough:
            return
        here = f"{path}[{text.quoted_key(key)}]"
        found.add(here, text.label_key(key))
        found.add(here, text.text(label, 255))


def timestamp(found: FieldViolations, path: str, value: Timestamp) -> bool:
    """Checks that a Timestamp lies in the years 1 to 9999 and has 0 to 999 999 999 nanoseconds; returns whether."""
    if not _EARLIEST_SECOND <= value.seconds <= _LATEST_SECOND or not 0 <= value.nanos <= 999_999_999:
        found.add(path, "must be a valid timestamp of the years 1 to 9999")
        return False
    return True


def usage(found: FieldViolations, path: str, value: TokenUsage) -> None:
    for field, tokens in value.ListFields():
        if not 0 <= tokens <= MOST_INTEGER:
            found.add(f"{path}.{field.name}", "must be 0 to 2^53 - 1")
