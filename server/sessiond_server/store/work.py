"""What a store tells of runs and tool calls. Every implementation passes tests/conformance.

They come and change by commands, through Store.apply. Reads are of the truth, each of one snapshot. Errors, times,
bytes and cancelling as in contract.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond_server.domain.commands import Scope, SessionSnapshot

PendingKey = tuple[int, str, int]
"""Place in the inbox: (create time in microseconds, session_id, seq of the tool call)."""


@dataclass(frozen=True, slots=True)
class RunsPage:
    version: int
    """The session's version that the page describes."""
    runs: Sequence[bytes]
    """Serialised Runs, those begun last first."""
    next_place: int | None
    """Place of the last of them (RunRow.place), when there are more; else None."""


@dataclass(frozen=True, slots=True)
class ToolCallsPage:
    version: int
    """The session's version that the page describes."""
    tool_calls: Sequence[bytes]
    """Serialised ToolCalls with their data, those requested last first."""
    next_seq: int | None
    """`seq` of the last of them, when there are more; else None."""


@dataclass(frozen=True, slots=True)
class PendingPage:
    tool_calls: Sequence[bytes]
    """Serialised ToolCalls with their data, those that have waited longest first."""
    next_key: PendingKey | None
    """Of the last of them, when there are more; else None."""


class WorkStore(Protocol):
    """Runs and tool calls."""

    async def get_run(self, scope: Scope, session_id: str, run_id: str) -> tuple[int, bytes]:
        """(version of the session, serialised Run). Of the live run, `lease_expire_time` is as the last heartbeat left
        it. Raises SessionNotFound; RunNotFound."""
        ...

    async def list_runs(
        self, scope: Scope, session_id: str, *, statuses: Sequence[int], before: int | None, limit: int
    ) -> RunsPage:
        """At most `limit` runs of these statuses (not empty, without duplicates) with place < `before` (None: no
        bound), by place descending. Raises SessionNotFound."""
        ...

    async def get_metrics(self, scope: Scope, session_id: str) -> tuple[SessionSnapshot, bytes]:
        """(the session without its content, RunCounters encoded). Costs the same whatever the history. Raises
        SessionNotFound."""
        ...

    async def get_tool_call(self, scope: Scope, session_id: str, tool_call_id: str) -> tuple[int, bytes]:
        """(version of the session, serialised ToolCall with its data). Raises SessionNotFound; ToolCallNotFound."""
        ...

    async def list_tool_calls(
        self,
        scope: Scope,
        session_id: str,
        *,
        statuses: Sequence[int],
        run_id: str,
        before: int | None,
        limit: int,
    ) -> ToolCallsPage:
        """At most `limit` tool calls of these statuses (not empty, without duplicates), of this run ("": of any and of
        none), with seq < `before` (None: no bound), by seq descending, obeying PAGE_BYTES. Raises SessionNotFound."""
        ...

    async def list_pending(self, scope: Scope, *, user_id: str, after: PendingKey | None, limit: int) -> PendingPage:
        """At most `limit` tool calls that await an approval, of all sessions in scope (of this user's, unless ""),
        strictly behind `after`, ascending by key, obeying PAGE_BYTES."""
        ...
