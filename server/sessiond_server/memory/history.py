"""The memory store's reads of a session as it was at an earlier place of its log. They look through the log."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import encoding
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.forks.place import call_at, check_place, prefix_of, run_at, too_early
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rows import RunRow, ToolCallRow
from sessiond_server.memory import work
from sessiond_server.memory.session import MemorySession
from sessiond_server.store.work import RunsPage, ToolCallsPage

_RUNS: Final = range(encoding.FIRST_RUN_EVENT, encoding.FIRST_TOOL_CALL_EVENT)
_CALLS: Final = range(encoding.FIRST_TOOL_CALL_EVENT, encoding.FIRST_ATTACHMENT_EVENT)
_LATE: Final = EventType.EVENT_TYPE_TOOL_CALL_LATE_RESULT


class MemoryHistory:
    """HistoryReads of the store (see store/history.py)."""

    _log: Callable[[Scope, str], MemorySession]
    """The session of the store. Raises SessionNotFound."""

    async def get_session_at(
        self, scope: Scope, session_id: str, seq: int, *, content: bool
    ) -> tuple[int, SessionSnapshot]:
        log = self._at(scope, session_id, seq)
        core = log.core_at(seq)
        core.session_id = session_id
        stored = log.content(core.content_version) if content else b""
        return log.head.version, SessionSnapshot(seq, core.SerializeToString(), stored)

    async def list_runs_at(
        self, scope: Scope, session_id: str, seq: int, *, statuses: Sequence[int], before: int | None, limit: int
    ) -> RunsPage:
        log = self._at(scope, session_id, seq)
        then = {row.run_id: run_then(log, row, seq) for row in log.runs.values() if row.place <= seq}
        # The lease of the live run is the one of its start.
        past = replace(log, head=replace(log.head, lease_expire_us=None), runs=then)
        return work.runs(past, statuses, before, limit, ranges.of_session(log.core_at(seq)))

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
        log = self._at(scope, session_id, seq)
        then = {row.tool_call_id: call_then(log, row, seq) for row in log.tool_calls.values() if row.seq <= seq}
        rewound = ranges.of_session(log.core_at(seq))
        return work.tool_calls(replace(log, tool_calls=then), statuses, run_id, before, limit, rewound)

    async def find_place(self, scope: Scope, session_id: str, time_us: int) -> int:
        log = self._log(scope, session_id)
        base = Session.FromString(log.head.core).base_version
        before = [seq for seq, event in log.events.items() if seq > base and event.create_time_us <= time_us]
        if not before:
            raise too_early()
        return max(before)

    def _at(self, scope: Scope, session_id: str, seq: int) -> MemorySession:
        """The session, as it is. Raises InvalidFields unless `seq` is a place of it."""
        log = self._log(scope, session_id)
        now = Session.FromString(log.head.core)
        now.version = log.head.version
        check_place(now, seq)
        return log


def run_then(log: MemorySession, row: RunRow, seq: int) -> RunRow:
    """The run as it was at the place: it had begun."""
    if Run.FromString(row.body).version <= seq:
        return row
    return run_at(row, _last_body(log, _RUNS, prefix_of(row.run_id), seq))


def call_then(log: MemorySession, row: ToolCallRow, seq: int) -> ToolCallRow:
    """The tool call as it was at the place: it had been requested."""
    if ToolCall.FromString(row.body).version <= seq:
        return row
    return call_at(row, _last_body(log, _CALLS, prefix_of(row.tool_call_id), seq))


def _last_body(log: MemorySession, types: range, prefix: bytes, seq: int) -> bytes:
    events = (log.events[at] for at in range(seq, 0, -1))
    return next(e.body for e in events if e.type in types and e.type != _LATE and e.body.startswith(prefix))
