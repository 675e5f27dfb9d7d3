"""What callers with a session token may do: some RPCs, on the token's session only.

Each RPC that is not named here needs a key. proto comments of CreateSessionToken have the same list.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from sessiond.v1.message_pb2 import Role
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from sessiond.v1.session_pb2 import Session
from sessiond_server.auth import Grant
from sessiond_server.domain.sessions.incarnation import incarnation_of
from sessiond_server.errors import SessiondError, SessionNotFound, TokenForbids
from sessiond_server.rpc.call import Call
from sessiond_server.store.session_reads import Freshness, SessionReads

READS: Final = frozenset(
    (
        *("get_session", "get_session_metrics", "get_message", "list_messages", "list_summaries", "get_context"),
        *("get_run", "list_runs", "get_tool_call", "list_tool_calls", "watch_session", "list_events"),
        *("get_attachment", "list_attachments", "get_upload_status", "download_attachment"),
    )
)
"""The reads that a token allows; `session_id` of the request is the token's session."""
APPEND: Final = "append_messages"
"""What a token may allow besides."""

_STRONG: Final = Freshness(strong=True)

Serve = Callable[[Any, Call], Awaitable[bytes | None]]


class Granted:
    """Has the methods of a servicer, each of which refuses what a caller's session token does not allow with
    TokenForbids. Adds no coroutine to the calls of keys."""

    def __init__(self, servicer: object, sessions: SessionReads) -> None:
        """`sessions`: those of the servicer's database."""
        self._servicer = servicer
        self._sessions = sessions

    def __getattr__(self, name: str) -> Serve:
        """Raises AttributeError for a method that the servicer lacks."""
        serve: Serve = getattr(self._servicer, name)
        by_token = self._by_token(name, serve)

        def granted(request: Any, call: Call) -> Awaitable[bytes | None]:
            grant = call.principal.grant
            return serve(request, call) if grant is None else by_token(request, call, grant)

        granted.takes_bytes = getattr(serve, "takes_bytes", False)  # type: ignore[attr-defined]
        return granted

    def _by_token(self, name: str, serve: Serve) -> Callable[[Any, Call, Grant], Awaitable[bytes | None]]:
        if name == APPEND:
            return partial(_append, serve)
        if name in READS:
            return partial(self._read, serve)
        return _refuse

    async def _read(self, serve: Serve, request: Any, call: Call, grant: Grant) -> bytes | None:
        if request.session_id != grant.session_id:
            raise TokenForbids
        # Looked at behind the read: what was read before belongs to the token's session if it is there now.
        call.before_answer = confirm = _Once(partial(self._confirm, call, grant))
        try:
            answer = await serve(request, call)
        except SessiondError:
            await confirm()  # another session's errors tell of it too
            raise
        await confirm()
        return answer

    async def _confirm(self, call: Call, grant: Grant) -> None:
        """Raises SessionNotFound if the session's id belongs to another session now."""
        snapshot = await self._sessions.get_session(call.scope, grant.session_id, content=False, freshness=_STRONG)
        if incarnation_of(Session.FromString(snapshot.core)) != grant.incarnation:
            raise SessionNotFound(grant.session_id)


class _Once:
    """Calls a function before the first message of an answer, and not again."""

    def __init__(self, function: Callable[[], Awaitable[None]]) -> None:
        self._function: Callable[[], Awaitable[None]] | None = function

    async def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            await function()


async def _refuse(request: object, call: Call, grant: Grant) -> bytes | None:
    raise TokenForbids


async def _append(serve: Serve, request: AppendMessagesRequest, call: Call, grant: Grant) -> bytes | None:
    """The command carries the grant's incarnation, so the rules see to it that the session is the token's."""
    more = request.HasField("run") or request.HasField("update") or request.documents
    of_user = all(message.role == Role.ROLE_USER for message in request.messages)
    if request.session_id != grant.session_id or not grant.append or more or not of_user:
        raise TokenForbids
    return await serve(request, call)
