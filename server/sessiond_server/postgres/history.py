"""Reads of a session as it was at an earlier place of its log, with the statements of history.sql."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import encoding
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.forks.place import (
    call_steps,
    check_place,
    core_after,
    prefix_of,
    run_then,
    too_early,
    too_far,
)
from sessiond_server.domain.forks.rows import LOOKED_BACK
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rewinds.ranges import Ranges
from sessiond_server.domain.rows import Key, StoredEvent
from sessiond_server.domain.sessions.content import whole
from sessiond_server.errors import SessionNotFound
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.read import GET_CORE, NO_BOUND, PostgresSessionReads
from sessiond_server.postgres.statements import HISTORY
from sessiond_server.store.session_reads import LOOKED_AT, PAGE_BYTES
from sessiond_server.store.work import RunsPage, ToolCallsPage

LOG_AT = HISTORY["log_at"].text
RUNS_AT = HISTORY["runs_at"].text
BODIES_AT = HISTORY["bodies_at"].text
CALLS_AT = HISTORY["calls_at"].text
CALLS_OF_RUN_AT = HISTORY["calls_of_run_at"].text
CALL_STATES = HISTORY["call_states"].text
CALL_DATA = HISTORY["call_data"].text
PLACE_AT = HISTORY["place_at"].text

RUN_STATUSES: Final = 5
CALL_STATUSES: Final = 7

Fetch = Callable[..., Awaitable[Sequence[Any]]]
"""Transactions.fetch, or that of a connection."""


class PostgresHistory(PostgresSessionReads):
    """HistoryReads of the store (see store/history.py)."""

    async def get_session_at(
        self, scope: Scope, session_id: str, seq: int, *, content: bool
    ) -> tuple[int, SessionSnapshot]:
        found = await core_at(self._transactions.fetch, (scope.tenant_id, session_id), seq, scope.user_id)
        if found is None:
            raise too_far()
        version, core = found
        stored = b""
        if content and core.content_version:
            chain = await self._chain(scope, session_id, core.content_version)
            if not chain:
                # Deleted since, and the id is another session's now.
                raise SessionNotFound(session_id)
            stored = whole(chain)
        return version, SessionSnapshot(seq, core.SerializeToString(), stored)

    async def list_runs_at(
        self, scope: Scope, session_id: str, seq: int, *, statuses: Sequence[int], before: int | None, limit: int
    ) -> RunsPage:
        look_at = limit if len(statuses) == RUN_STATUSES else LOOKED_AT
        rows = await self._transactions.fetch(
            RUNS_AT,
            *(scope.tenant_id, session_id, scope.user_id),
            NO_BOUND if before is None else before,
            *(seq, look_at, PAGE_BYTES),
        )
        looked_at = _looked_at(session_id, rows, seq, "place")
        rewound = await self._rewound(scope, session_id, looked_at, seq)
        then = [(row, *run_then(Run.FromString(row["body"]), row["status"], seq)) for row in looked_at]
        found = [
            (row, event_seq)
            for row, status, event_seq in then
            if status in statuses and not ranges.hides(rewound, row["place"])
        ]
        page, last = found[:limit], _last(rows, looked_at, found, limit, "place")
        bodies = await self._bodies(scope, session_id, rows, (event_seq for _, event_seq in page if event_seq), _RUN_ID)
        return RunsPage(
            rows[0]["version"], [bodies[event_seq] if event_seq else row["body"] for row, event_seq in page], last
        )

    async def list_tool_calls_at(
        self,
        scope: Scope,
        session_id: str,
        seq: int,
        *,
        statuses: Sequence[int],
        run_id: str,
        before: int | None,
        limit: int,
    ) -> ToolCallsPage:
        statement, of_run = (CALLS_OF_RUN_AT, (run_id,)) if run_id else (CALLS_AT, ())
        rows = await self._transactions.fetch(
            statement,
            *(scope.tenant_id, session_id, scope.user_id),
            NO_BOUND if before is None else before,
            *(seq, limit if len(statuses) == CALL_STATUSES else LOOKED_AT, PAGE_BYTES),
            *of_run,
        )
        looked_at = _looked_at(session_id, rows, seq, "seq")
        rewound = await self._rewound(scope, session_id, looked_at, seq)
        calls = [(row, ToolCall.FromString(row["body"])) for row in looked_at]
        opened = await self._open_then(scope, session_id, rows, [call for _, call in calls if call.version > seq], seq)
        then = [(row, opened.get(call.seq, (row["status"], row["body"]))) for row, call in calls]
        found = [
            (row, body) for row, (status, body) in then if status in statuses and not ranges.hides(rewound, row["seq"])
        ]
        data = await self._data(scope, session_id, found[:limit], opened)
        whole = [body + (kept[0] or b"") + (kept[1] or b"") for (_, body), kept in zip(found, data, strict=False)]
        return ToolCallsPage(rows[0]["version"], whole, _last(rows, looked_at, found, len(whole), "seq"))

    async def find_place(self, scope: Scope, session_id: str, time_us: int) -> int:
        named = (scope.tenant_id, session_id, scope.user_id)
        rows = await self._transactions.fetch(GET_CORE, *named)
        if rows:
            now = Session.FromString(rows[0]["core"])
            rows = await self._transactions.fetch(PLACE_AT, *named, now.base_version, rows[0]["version"], time_us)
        if not rows:
            raise SessionNotFound(session_id)
        if rows[0]["seq"] == now.base_version:
            raise too_early()
        return int(rows[0]["seq"])

    async def _rewound(self, scope: Scope, session_id: str, rows: Sequence[Any], seq: int) -> Ranges:
        """What rewinds had hidden at the place, for rows of a list."""
        now = ranges.of_session(Session.FromString(rows[0]["core"])) if rows else ranges.NOTHING
        if not ranges.hides(now, seq):
            return now  # up to a place that is visible the same is hidden now as was then
        found = await core_at(self._transactions.fetch, (scope.tenant_id, session_id), seq, scope.user_id)
        if found is None:
            raise too_far()
        return ranges.of_session(found[1])

    async def _bodies(
        self, scope: Scope, session_id: str, rows: Sequence[Any], seqs: Iterable[int], id_tag: bytes
    ) -> Mapping[int, bytes]:
        """The bodies of events, by seq, as the session shows them."""
        asked, fork_seq = list(seqs), rows[0]["fork_seq"] or 0
        if not asked:
            return {}
        found = await self._transactions.fetch(BODIES_AT, scope.tenant_id, session_id, asked)
        if len(found) < len(asked):
            # Deleted since the rows were read.
            raise SessionNotFound(session_id)
        shown = encoding.field(id_tag, session_id.encode())
        return {at: body + shown if at <= fork_seq else body for at, body in found}

    async def _open_then(
        self, scope: Scope, session_id: str, rows: Sequence[Any], calls: Sequence[ToolCall], seq: int
    ) -> Mapping[int, tuple[int, bytes]]:
        """(status, body) at the place `seq` of calls that were open there, by the seq of their requests."""
        key = (scope.tenant_id, session_id)
        places = await call_places(self._transactions.fetch, key, calls, seq, sealed=self.keyring is not None)
        bodies = await self._bodies(scope, session_id, rows, places.values(), _CALL_ID)
        return {at: (ToolCall.FromString(bodies[place]).status, bodies[place]) for at, place in places.items()}

    async def _data(
        self, scope: Scope, session_id: str, found: Sequence[tuple[Any, bytes]], opened: Mapping[int, object]
    ) -> Sequence[Any]:
        """(arguments, result) of the calls, of as many as fit into a page."""
        if not found:
            return ()
        asked = [(row["seq"], 0 if row["seq"] in opened else row["result_seq"]) for row, _ in found]
        size = sum(len(body) for _, body in found)
        return await self._transactions.fetch(
            CALL_DATA, scope.tenant_id, session_id, *columns(asked, 2), max(PAGE_BYTES - size, 0)
        )


_RUN_ID: Final = encoding.tag(Run.SESSION_ID_FIELD_NUMBER)
_CALL_ID: Final = encoding.tag(ToolCall.SESSION_ID_FIELD_NUMBER)


async def core_at(fetch: Fetch, key: Key, seq: int, user_id: str = "") -> tuple[int, Session] | None:
    """(the session's version now, its core at the place); None if no event with a core is near enough. `user_id`: whose
    session it must be, if it is not empty. Raises SessionNotFound, and InvalidFields if it has no such place."""
    core, version = Session(), 0
    while core.version < seq:
        rows = await fetch(LOG_AT, *key, user_id, seq, core.version, LOOKED_BACK, PAGE_BYTES)
        if not rows:
            raise SessionNotFound(key[1])
        _check(rows[0], seq)
        if rows[0]["seq"] is None:
            if core.version:
                # Deleted since the rows before were read.
                raise SessionNotFound(key[1])
            return None
        version = rows[0]["version"]
        events = [StoredEvent(*row[3:9]) for row in rows]
        if not core.version:
            core = Session.FromString(rows[0]["kept"])
            events = events[1:]
        core_after(core, events)
    core.session_id = key[1]
    return version, core


async def call_places(fetch: Fetch, key: Key, calls: Sequence[ToolCall], seq: int, *, sealed: bool) -> dict[int, int]:
    """`seq` of the event of each call that has it as it was at the place `seq`, by the seq of its request. The calls,
    as they are now, were open there. `sealed`: bodies may be encrypted, so Postgres cannot tell how they begin."""
    places = {call.seq: call.seq for call in calls}
    steps = [
        (call.seq, time_us, kind, prefix_of(call.tool_call_id)) for call in calls for kind, time_us in call_steps(call)
    ]
    if steps:
        asked = [(*step[:3], b"" if sealed else step[3]) for step in steps]
        for step, found, body in await fetch(CALL_STATES, *key, seq, *columns(asked, 4)):
            requested, *_, prefix = steps[step - 1]
            if not body.startswith(prefix):
                continue
            places[requested] = max(places[requested], found)
    return places


def _check(row: Any, seq: int) -> None:
    now = Session.FromString(row["core"])
    now.version = row["version"]
    check_place(now, seq)


def _looked_at(session_id: str, rows: Sequence[Any], seq: int, place: str) -> Sequence[Any]:
    """The rows of a list that have an item. Raises SessionNotFound, InvalidFields."""
    if not rows:
        raise SessionNotFound(session_id)
    _check(rows[0], seq)
    return () if rows[0][place] is None else rows


def _last(rows: Sequence[Any], looked_at: Sequence[Any], found: Sequence[Any], shown: int, place: str) -> int | None:
    """The place behind which the next page begins; None if there is none. `shown`: how many of `found` the page may
    have."""
    if shown < len(found):
        return int(found[shown - 1][0][place])
    return int(looked_at[-1][place]) if looked_at and rows[0]["found"] > len(looked_at) else None
