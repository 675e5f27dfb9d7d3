"""The contract for reads of runs and tool calls. Every implementation passes tests/conformance.

Commands create and change them, through Commits.apply. Each read goes to the primary and is from one snapshot. Errors,
times, bytes and cancelling as in contract.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond_server.domain.commands import Scope, SessionSnapshot

PendingKey = tuple[int, str, int]
"""Sort key of pending tool calls: (create time in microseconds, session_id, seq of the tool call)."""


@dataclass(frozen=True, slots=True)
class RunsPage:
    version: int
    """The session's version that the page describes."""
    runs: Sequence[bytes]
    """Serialised Runs, newest first."""
    next_place: int | None
    """RunRow.place of the last run, if there are more; else None."""


@dataclass(frozen=True, slots=True)
class ToolCallsPage:
    version: int
    """The session's version that the page describes."""
    tool_calls: Sequence[bytes]
    """Serialised ToolCalls with their data, newest first."""
    next_seq: int | None
    """`seq` of the last call, if there are more; else None."""


@dataclass(frozen=True, slots=True)
class PendingPage:
    tool_calls: Sequence[bytes]
    """Serialised ToolCalls with their data, oldest first."""
    next_key: PendingKey | None
    """Key of the last call, if there are more; else None."""


class WorkStore(Protocol):
    """Reads of runs and tool calls."""

    async def get_run(self, scope: Scope, session_id: str, run_id: str) -> tuple[int, bytes]:
        """(version of the session, serialised Run). The live run has the `lease_expire_time` of its last heartbeat.
        Raises SessionNotFound, RunNotFound."""
        ...

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
        """At most `limit` runs with one of `statuses` (not empty, no duplicates) and place < `before` (None: no bound),
        by descending place; those that rewinds have hidden only with `include_rewound`. Raises SessionNotFound."""
        ...

    async def get_metrics(self, scope: Scope, session_id: str) -> tuple[SessionSnapshot, bytes]:
        """(the session without its content, encoded RunCounters). The cost does not grow with the session's history.
        Raises SessionNotFound."""
        ...

    async def get_tool_call(self, scope: Scope, session_id: str, tool_call_id: str) -> tuple[int, bytes]:
        """(version of the session, serialised ToolCall with its data). Raises SessionNotFound, ToolCallNotFound."""
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
        include_rewound: bool = False,
    ) -> ToolCallsPage:
        """At most `limit` tool calls with one of `statuses` (not empty, no duplicates), requested by the run `run_id`
        ("": no filter), with seq < `before` (None: no bound), by descending seq, within PAGE_BYTES; those that rewinds
        have hidden only with `include_rewound`. Raises SessionNotFound."""
        ...

    async def list_requested(
        self, scope: Scope, session_id: str, *, ranges: Sequence[tuple[int, int]], limit: int
    ) -> Sequence[bytes]:
        """Of each of the ranges, which ascend and do not overlap, the first `limit` tool calls with a seq above its
        first number and at most its second one, by ascending seq. Serialised ToolCalls without their data, together at
        most PAGE_BYTES: the newest ones. Raises SessionNotFound."""
        ...

    async def list_pending(self, scope: Scope, *, user_id: str, after: PendingKey | None, limit: int) -> PendingPage:
        """At most `limit` tool calls that await an approval and have not expired, in all sessions in scope (unless
        `user_id` is "", only of that user), strictly behind `after`, by ascending key, within PAGE_BYTES."""
        ...
