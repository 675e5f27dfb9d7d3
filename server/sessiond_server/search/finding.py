"""Finds hits: asks an index for candidates, compares them with the query, and cuts pages.

The work for one page is bounded by what is looked at, LOOKED_AT candidates or LOOKED_AT_BYTES, and by SECONDS, so a
page may be short.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import DecodeError

from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.search_service_pb2 import MessageHit, SessionHit
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.times import set_timestamp
from sessiond_server.search import texts
from sessiond_server.search.contract import (
    C,
    Candidates,
    EventCandidate,
    Place,
    SearchIndex,
    SessionCandidate,
    Where,
)
from sessiond_server.search.matching import Match, match, snippets
from sessiond_server.search.query import Query

LOOKED_AT: Final = 400
LOOKED_AT_BYTES: Final = 2 * 1024 * 1024
"""Bytes that are compared with eight terms; of queries with more terms, fewer."""
_FIRST: Final = 50
"""Candidates that are read first; where they do not suffice, all others at once, because each reading begins anew to
look for them in the index."""
SECONDS: Final = 1.0
"""Longest time for one page; the candidates that were being read by then are still compared."""
_TURN_BYTES: Final = 64 * 1024
"""Bytes that are compared before other calls have a turn."""

Hit = TypeVar("Hit", MessageHit, SessionHit)
Token = list[int | str]


@dataclass(frozen=True, slots=True)
class Hits(Generic[Hit]):
    """A page of hits."""

    hits: Sequence[Hit]
    next: Token | None
    """What the next page needs; None: there are no more hits."""
    partial: bool
    """Whether the index is not complete yet, or candidates were left out of a page by relevance."""


@dataclass(frozen=True, slots=True)
class _Kind(Generic[C, Hit]):
    """What is searched: how to read candidates, and what to make of them."""

    read: Callable[[Place | None, int], Awaitable[Candidates[C]]]
    compare: Callable[[C], Match | None]
    """Raises DecodeError for one that is damaged."""
    size: Callable[[C], int]
    """What comparing it counts, in bytes."""
    hit: Callable[[C, Match], Hit]


async def find_messages(
    index: SearchIndex, scope: Scope, query: Query, where: Where, *, relevance: bool, after: Token | None, limit: int
) -> Hits[MessageHit]:
    """A page of hits. `after`: `next` of the page before. Raises InvalidPageToken."""
    weight = _weight(query)

    def compare(candidate: EventCandidate) -> Match | None:
        if candidate.type == texts.APPENDED:
            found = texts.of_message(Message.FromString(candidate.data))
        else:
            found = texts.of_tool_call(candidate.type, ToolCall.FromString(candidate.data))
        return match(query, texts.searched(found))

    kind = _Kind(
        lambda before, most: index.message_candidates(scope, query, where, before=before, limit=most),
        compare,
        lambda candidate: len(candidate.data) * weight,
        _message_hit,
    )
    return await _page(kind, relevance, after, limit)


async def find_sessions(
    index: SearchIndex, scope: Scope, query: Query, where: Where, *, relevance: bool, after: Token | None, limit: int
) -> Hits[SessionHit]:
    """As find_messages."""
    weight = _weight(query)

    def compare(candidate: SessionCandidate) -> Match | None:
        session = Session.FromString(candidate.session.core + candidate.session.content)
        return match(query, texts.searched(texts.of_session(session)))

    kind = _Kind(
        lambda before, most: index.session_candidates(scope, query, where, before=before, limit=most),
        compare,
        lambda candidate: (len(candidate.session.core) + len(candidate.session.content)) * weight,
        lambda candidate, found: SessionHit(
            session=Session.FromString(candidate.session.core), snippets=snippets(found)
        ),
    )
    return await _page(kind, relevance, after, limit)


def _weight(query: Query) -> int:
    """How many times a text counts that is compared with the query."""
    return 1 + (query.size - 1) // 8


@dataclass(frozen=True, slots=True)
class _Looked(Generic[C]):
    """What came out of looking at candidates."""

    found: list[tuple[C, Match]]
    next: Place | None
    """Before which place there may be more matches."""
    edge: Place
    complete: bool
    """Whether the index was."""


async def _page(kind: _Kind[C, Hit], relevance: bool, after: Token | None, limit: int) -> Hits[Hit]:
    if relevance:
        return await _page_by_relevance(kind, after, limit)
    looked = await _look(kind, tuple(after) if after else None, limit)
    return Hits(await _hits(kind, looked.found), list(looked.next) if looked.next else None, not looked.complete)


async def _hits(kind: _Kind[C, Hit], found: Sequence[tuple[C, Match]]) -> list[Hit]:
    hits = []
    for each in found:
        hits.append(kind.hit(*each))
        await asyncio.sleep(0)  # cutting snippets out of long texts takes as long as comparing them
    return hits


async def _page_by_relevance(kind: _Kind[C, Hit], after: Token | None, limit: int) -> Hits[Hit]:
    """Compares the same candidates for each page, without those that have come since the first one."""
    before, last = _opened(after) if after else (None, None)
    looked = await _look(kind, before, None)
    ranked = sorted(looked.found, key=_rank, reverse=True)
    rest = ranked if last is None else [each for each in ranked if _rank(each) < last]
    page = rest[:limit]
    more = len(rest) > limit
    token = _sealed(looked.edge if before is None else before, _rank(page[-1])) if more else None
    return Hits(await _hits(kind, page), token, looked.next is not None or not looked.complete)


_Rank = tuple[int, Place]
"""(score, place)."""


def _rank(found: tuple[C, Match]) -> _Rank:
    return found[1].score, found[0].place


def _sealed(edge: Place, last: _Rank) -> Token:
    return [len(edge), *edge, last[0], *last[1]]


def _opened(token: Token) -> tuple[Place, _Rank]:
    length, *rest = token
    assert isinstance(length, int)
    score, *place = rest[length:]
    assert isinstance(score, int)
    return tuple(rest[:length]), (score, tuple(place))


async def _look(kind: _Kind[C, Hit], before: Place | None, enough: int | None) -> _Looked[C]:
    """Compares candidates before a place, until `enough` match, or the bounds are reached."""
    found: list[tuple[C, Match]] = []
    edge: Place = ()
    complete = True
    count = size = turn = 0
    batch = _FIRST
    loop = asyncio.get_running_loop()
    until = loop.time() + SECONDS
    while True:
        page = await kind.read(before, batch)
        edge = edge or page.edge
        complete = complete and page.complete
        for number, candidate in enumerate(page.items, 1):
            try:
                matched = kind.compare(candidate)
            except DecodeError:
                matched = None  # a damaged row keeps no other one from being found
            compared = kind.size(candidate)
            count, size, turn = count + 1, size + compared, turn + compared
            if turn > _TURN_BYTES:
                turn = 0
                await asyncio.sleep(0)
            if matched is None:
                continue
            found.append((candidate, matched))
            if len(found) == enough:
                more = number < len(page.items) or page.next is not None
                return _Looked(found, candidate.place if more else None, edge, complete)
        before = page.next
        if before is None or count >= LOOKED_AT or size >= LOOKED_AT_BYTES or loop.time() >= until:
            return _Looked(found, before, edge, complete)
        batch = LOOKED_AT - _FIRST


def _message_hit(candidate: EventCandidate, found: Match) -> MessageHit:
    hit = MessageHit(session_id=candidate.session_id, seq=candidate.seq, snippets=snippets(found))
    if candidate.type == texts.APPENDED:
        message = Message.FromString(candidate.data)
        hit.message_id, hit.role = message.message_id, message.role
    else:
        hit.tool_call_id, hit.role = ToolCall.FromString(candidate.data).tool_call_id, Role.ROLE_TOOL
    set_timestamp(hit.create_time, candidate.create_time_us)
    return hit
