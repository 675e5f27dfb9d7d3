"""The contract for reads of a session as it was at an earlier place of its log. Errors, times, bytes and cancelling as
in contract.py."""

from collections.abc import Sequence
from typing import Protocol

from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.store.work import RunsPage, ToolCallsPage


class HistoryReads(Protocol):
    """Reads as of a place: a `seq` above the session's base_version and at most its version; in a fork also one that it
    shares with its parent.

    They answer what would have been answered when the session was at that version, but for what was redacted since.
    Each goes to the primary; its cost grows at most with the logarithm of the length of the log. The `version` of a
    page is that of the session now. All raise SessionNotFound, and InvalidFields (`as_of_seq`) for a `seq` that is none
    of the session's places.
    """

    async def get_session_at(
        self, scope: Scope, session_id: str, seq: int, *, content: bool
    ) -> tuple[int, SessionSnapshot]:
        """(version of the session now, the session at the place): what the events through the place fold to. Without
        `content`, the snapshot's content is b"". Raises InvalidFields also where the log was written, or imported, by a
        server of a version that kept no cores, and no event with the session is among the LOOKED_BACK before the place.
        """
        ...

    async def list_runs_at(
        self, scope: Scope, session_id: str, seq: int, *, statuses: Sequence[int], before: int | None, limit: int
    ) -> RunsPage:
        """As WorkStore.list_runs. May compare LOOKED_AT runs, or PAGE_BYTES of them: then the page is short or empty
        and has `next_place`. A live run has the `lease_expire_time` of its start."""
        ...

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
        """As WorkStore.list_tool_calls. May compare LOOKED_AT calls, or PAGE_BYTES of them: then the page is short or
        empty and has `next_seq`."""
        ...

    async def find_place(self, scope: Scope, session_id: str, time_us: int) -> int:
        """`seq` of the session's last event at or before the time. Raises SessionNotFound, and InvalidFields
        (`as_of_time`) if all are after it."""
        ...
