"""Reads runs and tool calls with the statements of work.sql."""

from collections.abc import Sequence
from typing import Any, Final

from sessiond.v1.run_pb2 import RunStatus
from sessiond.v1.tool_call_pb2 import ToolCallStatus
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.runs.work import with_lease
from sessiond_server.errors import RunNotFound, SessionNotFound, ToolCallNotFound
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.read import NO_BOUND
from sessiond_server.postgres.statements import WORK
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.session_reads import PAGE_BYTES
from sessiond_server.store.work import PendingKey, PendingPage, RunsPage, ToolCallsPage

GET_RUN = WORK["get_run"].text
LIST_RUNS = WORK["list_runs"].text
GET_METRICS = WORK["get_metrics"].text
GET_TOOL_CALL = WORK["get_tool_call"].text
LIST_TOOL_CALLS = WORK["list_tool_calls"].text
LIST_TOOL_CALLS_OF_RUN = WORK["list_tool_calls_of_run"].text
LIST_REQUESTED = WORK["list_requested"].text
LIST_PENDING = WORK["list_pending"].text
LIST_PENDING_OF_USER = WORK["list_pending_of_user"].text

_ANY_STATUS: Final = tuple(ToolCallStatus.values())[1:]
_RUNNING: Final = RunStatus.RUN_STATUS_RUNNING
_EARLIEST: Final[PendingKey] = (0, "", 0)

Row = Any
"""An asyncpg.Record: values by place or by name."""


class PostgresWorkReads:
    """Reads of runs and tool calls of the store (see store/work.py)."""

    _transactions: Transactions

    async def get_run(self, scope: Scope, session_id: str, run_id: str) -> tuple[int, bytes]:
        rows = await self._transactions.fetch(GET_RUN, scope.tenant_id, session_id, scope.user_id, run_id)
        if not rows:
            raise SessionNotFound(session_id)
        version, lease_expire_us, status, body = rows[0]
        if body is None:
            raise RunNotFound(session_id, run_id)
        return version, with_lease(body, lease_expire_us if status == _RUNNING else None)

    async def list_runs(
        self,
        scope: Scope,
        session_id: str,
        *,
        statuses: Sequence[int],
        before: int | None,
        limit: int,
        include_rewound: bool = False,
    ) -> RunsPage:
        rows = await self._transactions.fetch(
            LIST_RUNS,
            scope.tenant_id,
            session_id,
            scope.user_id,
            statuses,
            NO_BOUND if before is None else before,
            limit,
            include_rewound,
        )
        if not rows:
            raise SessionNotFound(session_id)
        version, lease_expire_us, first = rows[0][:3]
        if first is None:
            return RunsPage(version, [], None)
        page = [
            with_lease(body, lease_expire_us if status == _RUNNING else None)
            for _, _, _, status, body, _ in rows[:limit]
        ]
        return RunsPage(version, page, rows[len(page) - 1]["place"] if rows[0]["found"] > len(page) else None)

    async def get_metrics(self, scope: Scope, session_id: str) -> tuple[SessionSnapshot, bytes]:
        rows = await self._transactions.fetch(GET_METRICS, scope.tenant_id, session_id, scope.user_id)
        if not rows:
            raise SessionNotFound(session_id)
        version, core, counters = rows[0]
        return SessionSnapshot(version, core, b""), counters

    async def get_tool_call(self, scope: Scope, session_id: str, tool_call_id: str) -> tuple[int, bytes]:
        rows = await self._transactions.fetch(GET_TOOL_CALL, scope.tenant_id, session_id, scope.user_id, tool_call_id)
        if not rows:
            raise SessionNotFound(session_id)
        if rows[0]["body"] is None:
            raise ToolCallNotFound(session_id, tool_call_id)
        return rows[0]["version"], _whole(rows[0])

    async def list_tool_calls(
        self,
        scope: Scope,
        session_id: str,
        *,
        statuses: Sequence[int],
        run_id: str,
        before: int | None,
        limit: int,
        include_rewound: bool = False,
    ) -> ToolCallsPage:
        which = (LIST_TOOL_CALLS_OF_RUN, run_id) if run_id else (LIST_TOOL_CALLS,)
        rows = await self._transactions.fetch(
            which[0],
            scope.tenant_id,
            session_id,
            scope.user_id,
            statuses,
            NO_BOUND if before is None else before,
            limit,
            PAGE_BYTES,
            include_rewound,
            *which[1:],
        )
        if not rows:
            raise SessionNotFound(session_id)
        version, first = rows[0][:2]
        if first is None:
            return ToolCallsPage(version, [], None)
        more = rows[0]["found"] > len(rows)
        return ToolCallsPage(version, [_whole(row) for row in rows], rows[-1]["seq"] if more else None)

    async def list_requested(
        self, scope: Scope, session_id: str, *, ranges: Sequence[tuple[int, int]], limit: int
    ) -> Sequence[bytes]:
        rows = await self._transactions.fetch(
            LIST_REQUESTED,
            scope.tenant_id,
            session_id,
            scope.user_id,
            *columns(ranges, 2),
            _ANY_STATUS,
            limit,
            PAGE_BYTES,
        )
        if not rows:
            raise SessionNotFound(session_id)
        return [row["body"] for row in rows if row["body"] is not None]

    async def list_pending(self, scope: Scope, *, user_id: str, after: PendingKey | None, limit: int) -> PendingPage:
        if scope.user_id and user_id not in ("", scope.user_id):
            return PendingPage([], None)
        user_id = scope.user_id or user_id
        which = (LIST_PENDING_OF_USER, user_id) if user_id else (LIST_PENDING,)
        rows = await self._transactions.fetch(
            which[0], scope.tenant_id, *(_EARLIEST if after is None else after), limit, PAGE_BYTES, *which[1:]
        )
        more = bool(rows) and rows[0]["found"] > len(rows)
        last = rows[-1] if more else None
        key = None if last is None else (last["create_time"], last["session_id"], last["seq"])
        return PendingPage([row["body"] + (row["arguments"] or b"") for row in rows], key)


def _whole(row: Row) -> bytes:
    whole: bytes = row["body"] + (row["arguments"] or b"") + (row["result"] or b"")
    return whole
