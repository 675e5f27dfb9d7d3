"""The memory store's reads of runs and tool calls."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Final, Protocol

from sessiond.v1.run_pb2 import RunStatus
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.rewinds.ranges import Ranges, hides
from sessiond_server.domain.rows import Head, Key, RunRow, StoredToolCall, ToolCallRow
from sessiond_server.domain.runs.work import with_lease
from sessiond_server.errors import RunNotFound, ToolCallNotFound
from sessiond_server.memory.pages import fitting
from sessiond_server.store.session_reads import PAGE_BYTES
from sessiond_server.store.work import PendingKey, PendingPage, RunsPage, ToolCallsPage

_RUNNING: Final = RunStatus.RUN_STATUS_RUNNING


class Log(Protocol):
    """One session of the store."""

    @property
    def head(self) -> Head: ...

    @property
    def runs(self) -> Mapping[str, RunRow]: ...

    @property
    def tool_calls(self) -> Mapping[str, ToolCallRow]: ...

    def stored(self, call: ToolCallRow) -> StoredToolCall: ...


def run(log: Log, session_id: str, run_id: str) -> tuple[int, bytes]:
    if (row := log.runs.get(run_id)) is None:
        raise RunNotFound(session_id, run_id)
    return log.head.version, _with_lease(log, row)


def runs(log: Log, statuses: Sequence[int], before: int | None, limit: int, rewound: Ranges) -> RunsPage:
    rows = [
        row
        for row in log.runs.values()
        if row.status in statuses and (before is None or row.place < before) and not hides(rewound, row.place)
    ]
    rows.sort(key=attrgetter("place"), reverse=True)
    page = rows[:limit]
    more = len(page) < len(rows)
    return RunsPage(log.head.version, [_with_lease(log, row) for row in page], page[-1].place if more else None)


def tool_call(log: Log, session_id: str, tool_call_id: str) -> tuple[int, bytes]:
    if (row := log.tool_calls.get(tool_call_id)) is None:
        raise ToolCallNotFound(session_id, tool_call_id)
    return log.head.version, _with_data(log, row)


def tool_calls(
    log: Log, statuses: Sequence[int], run_id: str, before: int | None, limit: int, rewound: Ranges
) -> ToolCallsPage:
    rows = [
        row
        for row in log.tool_calls.values()
        if row.status in statuses and run_id in ("", row.run_id) and (before is None or row.seq < before)
        if not hides(rewound, row.seq)
    ]
    rows.sort(key=attrgetter("seq"), reverse=True)
    page = fitting(_with_data(log, row) for row in rows[:limit])
    more = len(page) < len(rows)
    return ToolCallsPage(log.head.version, page, rows[len(page) - 1].seq if more else None)


def requested(log: Log, ranges: Sequence[tuple[int, int]], limit: int) -> Sequence[bytes]:
    rows = sorted(log.tool_calls.values(), key=attrgetter("seq"))
    found: list[bytes] = []
    for after, until in ranges:
        found += [row.body for row in rows if after < row.seq <= until][:limit]
    size = 0
    for place in range(len(found) - 1, -1, -1):
        size += len(found[place])
        if size > PAGE_BYTES:
            return found[place + 1 :]
    return found


def pending(
    logs: Mapping[Key, Log], scope: Scope, user_id: str, after: PendingKey | None, limit: int, now_us: int
) -> PendingPage:
    found = sorted(
        ((row.create_time_us, row.key[1], row.seq), row)
        for (tenant_id, _), log in logs.items()
        if tenant_id == scope.tenant_id
        for row in log.tool_calls.values()
        if row.awaits_approval
        and row.user_id in _users(scope, user_id, row.user_id)
        and (row.expire_time_us is None or row.expire_time_us > now_us)
    )
    rows = found if after is None else found[bisect_right(found, after, key=lambda item: item[0]) :]
    page = fitting(_with_data(logs[row.key], row) for _, row in rows[:limit])
    return PendingPage(page, rows[len(page) - 1][0] if len(page) < len(rows) else None)


def _users(scope: Scope, user_id: str, own: str) -> Sequence[str]:
    """The user ids whose calls match: [own], or none if the scope's or the request's user id, where set, differs."""
    asked = {user for user in (scope.user_id, user_id) if user}
    return [own] if asked <= {own} else []


def _with_lease(log: Log, row: RunRow) -> bytes:
    return with_lease(row.body, log.head.lease_expire_us if row.status == _RUNNING else None)


def _with_data(log: Log, row: ToolCallRow) -> bytes:
    stored = log.stored(row)
    return stored.body + stored.arguments + stored.result
