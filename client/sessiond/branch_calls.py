"""The client's methods for forks and rewinds."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from typing import Unpack

from sessiond.connection import Connection
from sessiond.fields import (
    Fence,
    RewindStateLike,
    SessionChanges,
    enum_value,
    run_fence,
)
from sessiond.pages import Pages
from sessiond.request_ids import new_request_id
from sessiond.session_update import session_update
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import (
    ForkSessionRequest,
    ListForksRequest,
    ListForksResponse,
    RewindSessionRequest,
    RewindState,
)


class BranchCalls:
    """Forks and rewinds, of SessionService; see `Client` for what all methods have in common. All methods raise
    SessionNotFound."""

    _connection: Connection

    async def fork_session(
        self,
        session_id: str,
        *,
        at: int | str | None = None,
        fork_session_id: str = "",
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
        **changes: Unpack[SessionChanges],
    ) -> Session:
        """Makes a new session that continues another one from one of its places, and returns it. What it shares with
        its parent is not copied.

        `at`: the last place that the fork shares, as a `seq` or as the id of a message, which the fork still has. None:
        the session's last event. `changes`: fields that the fork has instead of the parent's; see SessionChanges.
        `expected_version`: of the parent. Raises SessionNotFound, MessageNotFound, InvalidFields (`seq` is none of the
        session's places), SessionAlreadyExists, SessionQuotaReached, ForkLimitReached, VersionMismatch.
        """
        request = ForkSessionRequest(
            session_id=session_id,
            fork_session_id=fork_session_id,
            expected_version=expected_version,
            request_id=request_id or new_request_id(),
        )
        if isinstance(at, str):
            request.message_id = at
        elif at is not None:
            request.seq = at
        if changes:
            update = session_update(changes, "replace", ())
            request.session.CopyFrom(update.session)
            request.update_mask.CopyFrom(update.update_mask)
        call = self._connection.sessions.ForkSession
        return await self._connection.call(call, request, timeout, request.request_id)

    async def rewind_session(
        self,
        session_id: str,
        *,
        to: int | str | None = None,
        before: str | None = None,
        state: RewindStateLike = "restore",
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Session:
        """Takes a session back to one of its places, and returns it: what is visible afterwards is exactly what was
        visible then. Nothing is removed, so a rewind to the place before another rewind undoes it.

        `to`: the place, as a `seq` or as the id of a message, which is visible afterwards. `before`: the id of a
        message, to go to the place before it. Exactly one of the two. `state`: "restore" brings `state`, `agent_data`,
        `metadata` and `summary` back as well; "keep" leaves them. `run`: needed while a run is live: that run. Raises
        SessionNotFound, MessageNotFound, InvalidFields (no such place), SessionEnded, RunInProgress, RunFenced,
        RewindLimitReached, VersionMismatch; ValueError for both places or none.
        """
        if (to is None) == (before is None):
            raise ValueError("either `to` or `before` must say where to go")
        request = RewindSessionRequest(
            session_id=session_id,
            state=enum_value(RewindState.DESCRIPTOR, state),
            expected_version=expected_version,
            request_id=request_id or new_request_id(),
            run=run_fence(run),
        )
        if before is not None:
            request.before_message_id = before
        elif isinstance(to, str):
            request.message_id = to
        elif to is not None:
            request.seq = to
        call = self._connection.sessions.RewindSession
        return await self._connection.call(call, request, timeout, request.request_id)

    async def regenerate(
        self,
        session_id: str,
        message_id: str,
        *,
        state: RewindStateLike = "restore",
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Session:
        """Takes an answer back, with all that followed it, so that another one can be made: returns the session as it
        was just before it. `get_context` then has what to send to the model.

        `message_id`: of the answer; of an answer in several messages, such as calls of tools, the first one to make
        anew. The other arguments and errors are those of `rewind_session`, of which this is the call with `before`.
        """
        return await self.rewind_session(
            session_id,
            before=message_id,
            state=state,
            run=run,
            expected_version=expected_version,
            request_id=request_id,
            timeout=timeout,
        )

    def list_forks(
        self, session_id: str, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> Pages[ListForksResponse, Session]:
        """Lists the sessions that were forked directly from a session, oldest first, for `async for`; see Pages.

        `page_size` 0 means 20; the maximum is 100. `timeout` applies to each page. Raises, when it is read:
        SessionNotFound, InvalidPageToken.
        """

        async def fetch(token: str) -> ListForksResponse:
            request = ListForksRequest(session_id=session_id, page_size=page_size, page_token=token)
            return await self._connection.call(self._connection.sessions.ListForks, request, timeout)

        return Pages(fetch, lambda page: page.sessions, page_token)
