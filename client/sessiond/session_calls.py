"""The client's methods for sessions."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Unpack, cast

from sessiond.connection import Connection
from sessiond.errors import SessiondError
from sessiond.fields import (
    ChangedSession,
    ConsistencyLike,
    EndReasonLike,
    Fence,
    NewSessionFields,
    SessionAccessLike,
    SessionChanges,
    SessionFields,
    SessionOrderLike,
    SessionWhere,
    StructUpdateLike,
    ViewLike,
    duration,
    enum_value,
    run_fence,
    session_filter,
    timestamp,
)
from sessiond.new_session import new_session
from sessiond.pages import Pages
from sessiond.request_ids import new_request_id
from sessiond.session_update import session_update
from sessiond.status import item_error
from sessiond.v1.erasure_pb2 import Erasure
from sessiond.v1.session_pb2 import Consistency, EndReason, Session, SessionView
from sessiond.v1.session_service_pb2 import (
    ActivateSessionRequest,
    BatchCreateSessionsRequest,
    BatchDeleteSessionsRequest,
    BatchDeleteSessionsResponse,
    BatchGetSessionsRequest,
    BatchGetSessionsResponse,
    BatchUpdateSessionsRequest,
    CountSessionsRequest,
    CreateSessionRequest,
    CreateSessionTokenRequest,
    DeleteSessionRequest,
    EndSessionRequest,
    EraseUserRequest,
    GetErasureRequest,
    GetSessionMetricsRequest,
    GetSessionRequest,
    ListErasuresRequest,
    ListErasuresResponse,
    ListSessionsRequest,
    ListSessionsResponse,
    ResumeSessionRequest,
    SessionAccess,
    SessionMetrics,
    SessionOrder,
    SessionResult,
    SessionToken,
    SuspendSessionRequest,
    TouchSessionRequest,
    UpdateSessionRequest,
)


class SessionCalls:
    """SessionService; see `Client` for what all methods have in common."""

    _connection: Connection

    async def create_session(
        self,
        session_id: str = "",
        *,
        template_id: str = "",
        request_id: str = "",
        timeout: float | None = None,
        **fields: Unpack[SessionFields],
    ) -> Session:
        """Creates a session; see SessionFields. Without `session_id` the service generates the id. What the fields do
        not say is taken from the template; see `put_template`.

        Raises SessionAlreadyExists, SessionQuotaReached, TemplateNotFound; ValueError for a field that sessions do not
        have.
        """
        new = new_session({"session_id": session_id, **fields})
        request = CreateSessionRequest(
            session=new.session,
            runs=new.runs,
            no_expiry=new.no_expiry,
            reuse_deleted=new.reuse_deleted,
            template_id=template_id,
            request_id=request_id or new_request_id(),
        )
        call = self._connection.sessions.CreateSession
        return await self._connection.call(call, request, timeout, request.request_id)

    async def batch_create_sessions(
        self, sessions: Iterable[NewSessionFields], *, request_id: str = "", timeout: float | None = None
    ) -> list[Session | SessiondError]:
        """Creates 1 to 100 sessions, each on its own, and returns for each, in order, the session without its content,
        or the error that `create_session` would have raised.

        After an error that is raised, a retry with the same `request_id` (`SessiondError.request_id`) continues where
        the first attempt stopped. Raises InvalidFields where a field breaks its rule: then none is created.
        """
        request = BatchCreateSessionsRequest(sessions=map(new_session, sessions))
        request.request_id = request_id or new_request_id()
        call = self._connection.sessions.BatchCreateSessions
        answer = await self._connection.call(call, request, timeout, request.request_id)
        return [_result(result, request.request_id) for result in answer.results]

    async def get_session(
        self,
        session_id: str,
        *,
        view: ViewLike = "full",
        as_of_seq: int = 0,
        as_of_time: datetime | None = None,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> Session:
        """Returns a session, as it is; with `as_of_seq`, as it was at that version; with `as_of_time`, at that time.

        Raises SessionNotFound, VersionNotReached; InvalidFields for a place that the session has not.
        """
        request = GetSessionRequest(
            session_id=session_id,
            view=enum_value(SessionView.DESCRIPTOR, view),
            min_version=min_version,
            consistency=enum_value(Consistency.DESCRIPTOR, consistency),
            as_of_seq=as_of_seq,
            as_of_time=None if as_of_time is None else timestamp(as_of_time),
        )
        return await self._connection.call(self._connection.sessions.GetSession, request, timeout)

    async def batch_get_sessions(
        self,
        session_ids: Iterable[str],
        *,
        view: ViewLike = "basic",
        min_versions: Iterable[int] = (),
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> BatchGetSessionsResponse:
        """Returns 1 to 100 sessions. The answer names the sessions that were not found, and those to request again.

        `min_versions` has one entry for each id, in the same order, or is empty. Raises VersionNotReached.
        """
        request = BatchGetSessionsRequest(
            session_ids=session_ids,
            min_versions=min_versions,
            view=enum_value(SessionView.DESCRIPTOR, view),
            consistency=enum_value(Consistency.DESCRIPTOR, consistency),
        )
        return await self._connection.call(self._connection.sessions.BatchGetSessions, request, timeout)

    def list_sessions(
        self,
        *,
        order_by: SessionOrderLike = "create_time_desc",
        page_size: int = 0,
        page_token: str = "",
        view: ViewLike = "basic",
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
        **where: Unpack[SessionWhere],
    ) -> Pages[ListSessionsResponse, Session]:
        """Lists the sessions that `where` selects, for `async for`; see Pages.

        `page_size` 0 means 20; the maximum is 100. `timeout` applies to each page. Raises, when it is read:
        InvalidPageToken.
        """
        selected = session_filter(where)
        order, shown = enum_value(SessionOrder.DESCRIPTOR, order_by), enum_value(SessionView.DESCRIPTOR, view)
        freshness = enum_value(Consistency.DESCRIPTOR, consistency)

        async def fetch(token: str) -> ListSessionsResponse:
            request = ListSessionsRequest(
                filter=selected,
                order_by=order,
                page_size=page_size,
                page_token=token,
                view=shown,
                consistency=freshness,
            )
            return await self._connection.call(self._connection.sessions.ListSessions, request, timeout)

        return Pages(fetch, lambda page: page.sessions, page_token)

    async def count_sessions(
        self,
        *,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
        **where: Unpack[SessionWhere],
    ) -> int:
        """Returns the number of sessions that `where` selects."""
        request = CountSessionsRequest(
            filter=session_filter(where), consistency=enum_value(Consistency.DESCRIPTOR, consistency)
        )
        return (await self._connection.call(self._connection.sessions.CountSessions, request, timeout)).count

    async def update_session(
        self,
        session_id: str,
        *,
        struct_update: StructUpdateLike = "replace",
        remove_keys: Iterable[str] = (),
        run: Fence | None = None,
        view: ViewLike = "full",
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
        **changes: Unpack[SessionChanges],
    ) -> Session:
        """Changes the fields that are given (None or an empty value clears one); returns the session after it, with
        view "basic" without its content: the change of one member of a large object then costs what the change costs.

        `struct_update` says how `metadata`, `state` and `agent_data` are written: "replace" the stored object; "merge"
        into it, where a member that is None goes; "set_keys", where each member given replaces the stored one whole,
        and `remove_keys` such as "state.draft" go. `run` is the run that writes. Raises SessionNotFound, SessionEnded,
        VersionMismatch, RunFenced; ValueError when nothing is given.
        """
        update = session_update(changes, struct_update, remove_keys)
        update.session.session_id = session_id
        request = UpdateSessionRequest(
            session=update.session,
            update_mask=update.update_mask,
            struct_update=update.struct_update,
            remove_keys=update.remove_keys,
            run=run_fence(run),
            view=enum_value(SessionView.DESCRIPTOR, view),
            expected_version=expected_version,
            request_id=request_id or new_request_id(),
        )
        call = self._connection.sessions.UpdateSession
        return await self._connection.call(call, request, timeout, request.request_id)

    async def batch_update_sessions(
        self, updates: Iterable[ChangedSession], *, request_id: str = "", timeout: float | None = None
    ) -> list[Session | SessiondError]:
        """Changes 1 to 100 sessions, each on its own, and returns for each, in order, the session without its content,
        or the error that `update_session` would have raised. Errors that are raised: as of `batch_create_sessions`."""
        request = BatchUpdateSessionsRequest(request_id=request_id or new_request_id())
        for given in updates:
            changes: dict[str, Any] = {**given}
            session_id, version = changes.pop("session_id"), changes.pop("expected_version", 0)
            how, keys = changes.pop("struct_update", "replace"), changes.pop("remove_keys", ())
            update = session_update(cast("SessionChanges", changes), how, keys)
            update.session.session_id = session_id
            request.updates.append(update)
            request.expected_versions.append(version)
        call = self._connection.sessions.BatchUpdateSessions
        answer = await self._connection.call(call, request, timeout, request.request_id)
        return [_result(result, request.request_id) for result in answer.results]

    async def activate_session(
        self, session_id: str, *, expected_version: int = 0, request_id: str = "", timeout: float | None = None
    ) -> Session:
        """Changes the status from CREATED or SUSPENDED to ACTIVE. Raises SessionNotFound, IllegalTransition,
        SessionEnded."""
        request = ActivateSessionRequest(
            session_id=session_id, request_id=request_id or new_request_id(), expected_version=expected_version
        )
        call = self._connection.sessions.ActivateSession
        return await self._connection.call(call, request, timeout, request.request_id)

    async def suspend_session(
        self, session_id: str, *, expected_version: int = 0, request_id: str = "", timeout: float | None = None
    ) -> Session:
        """Changes the status from ACTIVE to SUSPENDED. Raises SessionNotFound, IllegalTransition, SessionEnded."""
        request = SuspendSessionRequest(
            session_id=session_id, request_id=request_id or new_request_id(), expected_version=expected_version
        )
        call = self._connection.sessions.SuspendSession
        return await self._connection.call(call, request, timeout, request.request_id)

    async def resume_session(
        self, session_id: str, *, expected_version: int = 0, request_id: str = "", timeout: float | None = None
    ) -> Session:
        """Changes the status from SUSPENDED to ACTIVE. Raises SessionNotFound, IllegalTransition, SessionEnded."""
        request = ResumeSessionRequest(
            session_id=session_id, request_id=request_id or new_request_id(), expected_version=expected_version
        )
        call = self._connection.sessions.ResumeSession
        return await self._connection.call(call, request, timeout, request.request_id)

    async def end_session(
        self,
        session_id: str,
        *,
        reason: EndReasonLike = "client",
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Session:
        """Ends a session of any status for ever; an ended session stays unchanged. Raises SessionNotFound."""
        request = EndSessionRequest(
            session_id=session_id,
            reason=enum_value(EndReason.DESCRIPTOR, reason),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.sessions.EndSession
        return await self._connection.call(call, request, timeout, request.request_id)

    async def touch_session(
        self,
        session_id: str,
        *,
        extend: timedelta | float | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Session:
        """Marks the session as used: it expires `extend` from now at the earliest (seconds, if a number; None: its
        ttl).

        Raises SessionNotFound, SessionEnded.
        """
        request = TouchSessionRequest(
            session_id=session_id,
            extend=duration(extend) if extend is not None else None,
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.sessions.TouchSession
        return await self._connection.call(call, request, timeout, request.request_id)

    async def delete_session(
        self, session_id: str, *, expected_version: int = 0, request_id: str = "", timeout: float | None = None
    ) -> int:
        """Deletes the session with everything that it owns and returns the `seq` of its final event. Raises
        SessionNotFound."""
        request = DeleteSessionRequest(
            session_id=session_id, request_id=request_id or new_request_id(), expected_version=expected_version
        )
        call = self._connection.sessions.DeleteSession
        return (await self._connection.call(call, request, timeout, request.request_id)).version

    async def erase_user(self, user_id: str = "", *, request_id: str = "", timeout: float | None = None) -> Erasure:
        """Begins to remove all that the user has, and returns the erasure: the one under way, where there is one.

        `user_id` empty: the user that the key is bound to. Servers do it in the background; `get_erasure` says how far
        they have come. Stop the user's writers first: what is created after the last pass stays.
        """
        request = EraseUserRequest(user_id=user_id, request_id=request_id or new_request_id())
        call = self._connection.sessions.EraseUser
        return await self._connection.call(call, request, timeout, request.request_id)

    async def get_erasure(self, user_id: str = "", *, timeout: float | None = None) -> Erasure:
        """Returns the last erasure of the user. `user_id` empty: the user that the key is bound to. Raises
        ErasureNotFound."""
        request = GetErasureRequest(user_id=user_id)
        return await self._connection.call(self._connection.sessions.GetErasure, request, timeout)

    def list_erasures(
        self, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> Pages[ListErasuresResponse, Erasure]:
        """Lists the last erasure of each user, ascending by user id, without reports. See `Pages`.

        `page_size` 0 means 100; the maximum is 1 000. `timeout` applies to each page. Raises, when it is read:
        InvalidPageToken.
        """

        async def fetch(token: str) -> ListErasuresResponse:
            request = ListErasuresRequest(page_size=page_size, page_token=token)
            return await self._connection.call(self._connection.sessions.ListErasures, request, timeout)

        return Pages(fetch, lambda page: page.erasures, page_token)

    async def batch_delete_sessions(
        self, session_ids: Iterable[str], *, request_id: str = "", timeout: float | None = None
    ) -> BatchDeleteSessionsResponse:
        """Deletes 1 to 100 sessions, each in its own write. The answer names the sessions that were not found.

        After an error, a retry with the same `request_id` (`SessiondError.request_id`) continues where the call
        stopped.
        """
        request = BatchDeleteSessionsRequest(session_ids=session_ids, request_id=request_id or new_request_id())
        call = self._connection.sessions.BatchDeleteSessions
        return await self._connection.call(call, request, timeout, request.request_id)

    async def get_session_metrics(
        self,
        session_id: str,
        *,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> SessionMetrics:
        """Returns the metrics of a session and, in `runs`, of its runs, from counters. Raises SessionNotFound,
        VersionNotReached."""
        request = GetSessionMetricsRequest(
            session_id=session_id,
            min_version=min_version,
            consistency=enum_value(Consistency.DESCRIPTOR, consistency),
        )
        return await self._connection.call(self._connection.sessions.GetSessionMetrics, request, timeout)

    async def create_session_token(
        self,
        session_id: str,
        *,
        access: SessionAccessLike = "read",
        ttl: timedelta | float | None = None,
        timeout: float | None = None,
    ) -> SessionToken:
        """Returns a token for this one session, to give to a browser in place of a key. It allows to read the session,
        live as well, and with access "append" to append messages of the user, for `ttl` (1 second to 60 minutes,
        seconds if a number; None: 5 minutes). `Client(api_key=)` takes it. The service keeps nothing of it.

        Raises SessionNotFound, ScopeMissing.
        """
        request = CreateSessionTokenRequest(
            session_id=session_id,
            access=enum_value(SessionAccess.DESCRIPTOR, access),
            ttl=duration(ttl) if ttl is not None else None,
        )
        return await self._connection.call(self._connection.sessions.CreateSessionToken, request, timeout)


def _result(result: SessionResult, request_id: str) -> Session | SessiondError:
    return result.session if result.HasField("session") else item_error(result.error, request_id)
