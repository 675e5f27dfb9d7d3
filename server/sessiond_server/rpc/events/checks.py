"""Checks of the requests of EventService: one function per RPC. See rpc/sessions/checks.py.

Positions are not checked here: they are signed, and the code that opens them checks them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.event_service_pb2 import (
    Delta,
    DeltaData,
    FeedFilter,
    FeedStart,
    ListEventsRequest,
    PublishDeltaRequest,
    WatchEventsRequest,
    WatchSessionRequest,
)
from sessiond_server.domain import text, validation
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import fields
from sessiond_server.rpc.events.filters import FeedSelection, SessionSelection

EVENTS_PAGE: Final = (50, 1000)
FILTER_TYPES: Final = 64
FILTER_SESSIONS: Final = 256
FILTER_LABELS: Final = 16
DELTAS: Final = 64
DELTAS_BYTES: Final = 256 * validation.KIB
PIECE_BYTES: Final = 65_536
MOST_PARTS: Final = 256
SHORTEST_SILENCE: Final = 1
"""Shortest bookmark interval, in seconds, for a watcher: a bookmark needs a read, and reads run once a second."""

_PIECES: Final = ("text", "thinking", "arguments")
_ALL: Final = SessionSelection()


@dataclass(frozen=True, slots=True)
class SessionWatch:
    """Options of a watch of a session."""

    selection: SessionSelection
    full: bool
    """SESSION_VIEW_FULL for the snapshot."""
    from_beginning: bool
    silence: float
    """Seconds without a frame after which the watcher wants a bookmark; infinite: the server decides."""


@dataclass(frozen=True, slots=True)
class FeedWatch:
    """Options of a watch of a tenant's feed."""

    selection: FeedSelection
    from_beginning: bool
    silence: float
    """As in SessionWatch."""


@dataclass(frozen=True, slots=True)
class EventsList:
    """A requested page of events."""

    selection: SessionSelection
    limit: int
    """Page size: 1 to 1000."""


def watch_session(request: WatchSessionRequest) -> SessionWatch:
    found = FieldViolations()
    found.add("session_id", text.identifier(request.session_id))
    types = _types(found, request.filter.types)
    full = fields.full_view(found, request.view)
    if request.position and request.from_beginning:
        found.add("from_beginning", "must not be set with a position")
    validation.enum(found, "start", request.start, FeedStart.DESCRIPTOR)
    from_beginning = request.from_beginning or request.start == FeedStart.FEED_START_BEGINNING
    silence = _silence(found, request)
    found.check()
    return SessionWatch(_session_selection(types), full, from_beginning, silence)


def watch_events(request: WatchEventsRequest, owner: str) -> FeedWatch:
    """`owner` is the user to whom the caller's key is bound; empty for none."""
    found = FieldViolations()
    validation.enum(found, "start", request.start, FeedStart.DESCRIPTOR)
    where = request.filter
    types = _feed_filter(found, where)
    silence = _silence(found, request)
    found.check()
    selection = FeedSelection.made(owner, where.session_ids, where.agent_id, where.user_id, where.labels, types)
    return FeedWatch(selection, request.start == FeedStart.FEED_START_BEGINNING, silence)


def list_events(request: ListEventsRequest) -> EventsList:
    found = FieldViolations()
    found.add("session_id", text.identifier(request.session_id))
    types = _types(found, request.filter.types)
    if request.page_size < 0:
        found.add("page_size", "must not be negative")
    found.check()
    default, most = EVENTS_PAGE
    return EventsList(_session_selection(types), min(request.page_size or default, most))


def publish_delta(request: PublishDeltaRequest) -> list[bytes]:
    """The deltas, serialised."""
    found = FieldViolations()
    found.add("session_id", text.identifier(request.session_id))
    if not 1 <= len(request.deltas) <= DELTAS:
        found.add("deltas", f"must be 1 to {DELTAS}")
        found.check()
    for index, delta in enumerate(request.deltas):
        if found.enough:
            break
        _delta(found, f"deltas[{index}]", delta)
    data = [delta.SerializeToString() for delta in request.deltas]
    if sum(map(len, data)) > DELTAS_BYTES:
        found.add("deltas", f"must be at most {DELTAS_BYTES} bytes together")
    found.check()
    return data


def _silence(found: FieldViolations, request: WatchSessionRequest | WatchEventsRequest) -> float:
    if not request.HasField("bookmark_interval"):
        return inf
    seconds = request.bookmark_interval.seconds + request.bookmark_interval.nanos / 1e9
    if seconds < SHORTEST_SILENCE:
        found.add("bookmark_interval", f"must be {SHORTEST_SILENCE} second or more")
    return seconds


def _delta(found: FieldViolations, path: str, delta: Delta) -> None:
    found.add(f"{path}.message_id", text.identifier(delta.message_id))
    if not 0 <= delta.part_index < MOST_PARTS:
        found.add(f"{path}.part_index", f"must be 0 to {MOST_PARTS - 1}")
    piece = delta.WhichOneof("piece")
    size = len(getattr(delta, piece).encode()) if piece in _PIECES else 0
    # A kept draft is sent anew in smaller pieces, whose offsets lie between the offset and the end of this one.
    if not 0 <= delta.offset <= validation.MOST_INTEGER - size:
        found.add(f"{path}.offset", "must be 0 to 2^53 - 1, as the piece's end must")
    if piece is None:
        found.add(f"{path}.piece", "is required")
    elif size > PIECE_BYTES:
        found.add(f"{path}.{piece}", f"must be at most {PIECE_BYTES} bytes")
    elif piece == "data":
        _data(found, f"{path}.data", delta.data)
    found.add(f"{path}.name", text.line(delta.name, 0, 128))
    if delta.run_id:
        found.add(f"{path}.run_id", text.identifier(delta.run_id))


def _data(found: FieldViolations, path: str, data: DeltaData) -> None:
    content = data.WhichOneof("content")
    if content is None:
        found.add(f"{path}.content", "is required")
    elif len(data.blob if content == "blob" else data.json.encode()) > PIECE_BYTES:
        found.add(f"{path}.{content}", f"must be at most {PIECE_BYTES} bytes")
    if "\0" in data.json:
        found.add(f"{path}.json", text.NUL_RULE)
    found.add(f"{path}.media_type", text.line(data.media_type, 0, 128))


def _feed_filter(found: FieldViolations, where: FeedFilter) -> frozenset[int]:
    """Checks the filter; returns the event types that it selects, empty for all."""
    if len(where.session_ids) > FILTER_SESSIONS:
        found.add("filter.session_ids", f"must be at most {FILTER_SESSIONS}")
    for index, session_id in enumerate(where.session_ids[:FILTER_SESSIONS]):
        if found.enough:
            break
        found.add(f"filter.session_ids[{index}]", text.identifier(session_id))
    for name in ("agent_id", "user_id"):
        found.add(f"filter.{name}", text.line(getattr(where, name), 0, text.ID_BYTES))
    validation.labels(found, "filter.labels", where.labels, FILTER_LABELS)
    return _types(found, where.types)


def _types(found: FieldViolations, types: Iterable[int]) -> frozenset[int]:
    """The selected event types; empty for all."""
    given = list(types)
    if len(given) > FILTER_TYPES:
        found.add("filter.types", f"must be at most {FILTER_TYPES}")
    for index, value in enumerate(given[:FILTER_TYPES]):
        validation.enum(found, f"filter.types[{index}]", value, EventType.DESCRIPTOR)
    return frozenset() if EventType.EVENT_TYPE_UNSPECIFIED in given else frozenset(given)


def _session_selection(types: frozenset[int]) -> SessionSelection:
    # Most watchers have no filter, so they share one selection.
    return SessionSelection(types) if types else _ALL
