"""The place of a session's log of which a read tells: `as_of_seq`, or the last event at or before `as_of_time`."""

from typing import Final, Literal, Protocol, cast

from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import validation
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.forks.place import AS_OF_SEQ, AS_OF_TIME, check_place
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.times import microseconds
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import fields
from sessiond_server.rpc.paging import Position
from sessiond_server.store.history import HistoryReads
from sessiond_server.store.session_reads import Freshness, SessionReads

_TIME: Final = "as_of_time"
"""As AS_OF_TIME, for HasField, whose stubs want a literal."""


class Request(Protocol):
    @property
    def session_id(self) -> str: ...
    @property
    def as_of_seq(self) -> int: ...
    @property
    def as_of_time(self) -> Timestamp: ...

    def HasField(self, field_name: Literal["as_of_time"]) -> bool: ...  # noqa: N802 - protobuf's name


def check(found: FieldViolations, request: Request) -> bool:
    """Adds the violations of the two fields. Returns whether the read is as of a place."""
    fields.not_negative(found, AS_OF_SEQ, request.as_of_seq)
    if not request.HasField(_TIME):
        return bool(request.as_of_seq)
    validation.timestamp(found, AS_OF_TIME, request.as_of_time)
    if request.as_of_seq:
        found.add(AS_OF_TIME, "excludes as_of_seq: set one of them")
    return True


def bound_to(request: Request) -> tuple[str, ...]:
    """What page tokens of the checked request are bound to; nothing for a read as of now."""
    if request.HasField(_TIME):
        return (f"{AS_OF_TIME} {microseconds(request.as_of_time)}",)
    return (f"{AS_OF_SEQ} {request.as_of_seq}",) if request.as_of_seq else ()


def sealed(last: int, seq: int) -> Position:
    """The position to seal in a page token: the place of the page's last item, and the `seq` as of which the list is,
    if it is one."""
    return [last, seq] if seq else [last]


def opened(position: Position | None) -> tuple[int | None, int]:
    """(place of the last item of the page before, or None, the `seq` as of which the list is, or 0) of what `sealed`
    has made."""
    last, seq, *_ = [*cast("list[int]", position or []), 0, 0]
    return (last if position else None), seq


async def place(history: HistoryReads, scope: Scope, request: Request, sealed: int = 0) -> int:
    """The `seq` of the place; 0: as of now. `sealed`: the one that the request's page token has, or 0: all pages of a
    list are as of one place, whatever has been written meanwhile. Raises SessionNotFound, InvalidFields."""
    if sealed or not request.HasField(_TIME):
        return sealed or min(request.as_of_seq, validation.MOST_INTEGER)
    return await history.find_place(scope, request.session_id, microseconds(request.as_of_time))


async def check_page(sessions: SessionReads, scope: Scope, session_id: str, seq: int, version: int) -> bool:
    """Raises InvalidFields unless `seq` was a place of the session when a page was read, which has this version.
    Returns whether the page, read without what is hidden now, has up to the place what was visible then."""
    # Read after the page: if the session was deleted in between, and its id taken anew, that one has no such place.
    snapshot = await sessions.get_session(scope, session_id, content=False, freshness=Freshness(max(version, seq)))
    now = Session.FromString(snapshot.core)
    now.version = snapshot.version
    check_place(now, seq, version)
    # Up to a place that is visible the same is hidden now as was then.
    rewound = ranges.of_session(now)
    return not rewound or (now.version == version and not ranges.hides(rewound, seq))
