"""Checks of the requests of SearchService. See rpc/sessions/checks.py."""

from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.message_pb2 import Role
from sessiond.v1.search_service_pb2 import SearchMessagesRequest, SearchOrder, SearchSessionsRequest
from sessiond_server.domain import text, validation
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import fields
from sessiond_server.rpc.sessions import checks as sessions
from sessiond_server.search.contract import Where
from sessiond_server.search.query import Query, QueryInvalid, parse

HITS_PAGE: Final = (20, 100)
ROLES: Final = 4


@dataclass(frozen=True, slots=True)
class Search:
    """A requested page of hits."""

    query: Query
    where: Where
    relevance: bool
    limit: int
    """Page size: 1 to 100."""
    selection: bytes
    """The request without what may differ between pages, to bind page tokens to."""


def search_messages(request: SearchMessagesRequest) -> Search:
    found = FieldViolations()
    query = _query(found, request)
    if request.session_id:
        fields.session_id(found, request.session_id)
    if len(request.roles) > ROLES:
        found.add("roles", f"must be at most {ROLES}")
    for index, role in enumerate(request.roles[:ROLES]):
        if not role or role not in Role.values():
            found.add(f"roles[{index}]", "must be a known role")
    bounds = {
        name: _microseconds_up(getattr(request, name))
        for name in ("time_from", "time_until")
        if request.HasField(name) and validation.timestamp(found, name, getattr(request, name))
    }
    if len(bounds) == 2 and bounds["time_until"] <= bounds["time_from"]:
        found.add("time_until", "must be after time_from")
    found.check()
    assert query is not None
    where = Where(
        session_id=request.session_id,
        sessions=request.filter,
        roles=frozenset(request.roles),
        from_us=bounds.get("time_from"),
        until_us=bounds.get("time_until"),
    )
    return _search(request, query, where)


def search_sessions(request: SearchSessionsRequest) -> Search:
    found = FieldViolations()
    query = _query(found, request)
    found.check()
    assert query is not None
    return _search(request, query, Where(sessions=request.filter))


def _query(found: FieldViolations, request: SearchMessagesRequest | SearchSessionsRequest) -> Query | None:
    """Checks what both requests have."""
    validation.enum(found, "order_by", request.order_by, SearchOrder.DESCRIPTOR)
    fields.page_size(found, request.page_size, HITS_PAGE)
    if request.HasField("wait_for"):
        found.add("wait_for.session_id", text.identifier(request.wait_for.session_id))
        if request.wait_for.version < 1:
            found.add("wait_for.version", "must be at least 1")
    sessions.check_filter(found, request.filter)
    try:
        return parse(request.query)
    except QueryInvalid as invalid:
        found.add("query", str(invalid))
        return None


def _search(request: SearchMessagesRequest | SearchSessionsRequest, query: Query, where: Where) -> Search:
    selection = type(request)()
    selection.CopyFrom(request)  # type: ignore[arg-type]
    for name in ("page_token", "page_size", "wait_for"):
        selection.ClearField(name)
    return Search(
        query,
        where,
        request.order_by == SearchOrder.SEARCH_ORDER_RELEVANCE,
        min(request.page_size or HITS_PAGE[0], HITS_PAGE[1]),
        selection.SerializeToString(deterministic=True),
    )


def _microseconds_up(value: Timestamp) -> int:
    """The time in microseconds, rounded up: stored times are whole microseconds."""
    return value.seconds * 1_000_000 + -(-value.nanos // 1000)
