"""One call in progress: the state that interceptors set and handlers use."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import Message
from grpc.aio import ServicerContext

from sessiond_server.auth import Principal
from sessiond_server.domain import ids
from sessiond_server.domain.commands import INTERNAL_REQUEST_PREFIX, Action, Command, Fence, Scope
from sessiond_server.domain.shares import Shares
from sessiond_server.errors import RequestTooLarge, ScopeMissing, SessiondError, TooManyCalls
from sessiond_server.rpc import tracebacks
from sessiond_server.rpc.loopback import LOCAL, PEER_KEY
from sessiond_server.rpc.places import RETRY_AFTER

CALL_ID: Final[ContextVar[str]] = ContextVar("call_id", default="")
"""`x-request-id` of the call that the current task serves, for log records; empty outside calls."""

_NOBODY = Principal("", "", "", frozenset())
_FINGERPRINT_BYTES = 16
UNCOUNTED: Final = 4 * 1024
"""Largest message of a stream, in bytes, that needs no budget: the number of streams bounds these."""


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC as the interceptors see it."""

    path: str
    """Path on the wire: `/sessiond.v1.SessionService/GetSession`."""
    request_streaming: bool
    response_streaming: bool
    largest_request: int
    """Largest accepted request message, in bytes."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a request for several sessions does with one of them."""

    session_id: str
    action: Action
    size: int
    """Bytes of the request that are for this session."""
    expected_version: int = 0


class Call:
    """One call. Belongs to one task."""

    __slots__ = (
        "before_answer", "context", "database", "error", "id", "metadata", "method", "piped", "principal",
        "request_bytes", "response_bytes", "unsent",
    )  # fmt: skip

    def __init__(self, method: Method, context: "ServicerContext[Any, Any]", *, piped: bool = False) -> None:
        self.method = method
        self.piped = piped
        """Whether the call came through a pipe, together with others."""
        self.context = context
        self.metadata: Iterable[tuple[str, str | bytes]] = context.invocation_metadata() or ()
        """The caller's metadata. Read once, because grpc builds it again for each access."""
        self.before_answer: Callable[[], Awaitable[None]] | None = None
        """Awaited before each message of a streamed answer."""
        self.id = ""
        """`x-request-id`; not the idempotency key of a request."""
        self.principal = _NOBODY
        """The caller; without tenant and scopes until authentication."""
        self.error: SessiondError | None = None
        """The error with which the call was answered; None unless it failed."""
        self.database = ""
        """Id of the database that serves the call; empty while there is one only."""
        self.request_bytes = 0
        """Bytes of all request messages received so far."""
        self.response_bytes = 0
        self.unsent: Shares | None = None
        """Budget for bytes of answers that clients have not received yet."""

    def when_over(self, callback: Callable[[Any], object]) -> None:
        """Calls `callback` once the answer has been handed to the transport, or the call has ended without one. To be
        called by the task that serves the call.

        A done callback of grpc's context would put the call into a cycle: its memory, grpc's own included, would be
        kept until the garbage collector comes, and then be freed together with that of hundreds of others.
        """
        if self.piped:
            self.context.add_done_callback(callback)  # type: ignore[arg-type]  # it has no cycle
        else:
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(callback)

    def forget_error(self) -> None:
        """For the end of the call: see `tracebacks`."""
        if self.error is not None:
            tracebacks.forget(self.error)
            self.error = None

    def peer(self) -> str:
        """The caller's address, as gRPC writes addresses. A call over the socket of `Loopback` says on whose behalf it
        is made."""
        address = self.context.peer()
        if address.startswith(LOCAL):
            for key, value in self.metadata:
                if key == PEER_KEY and isinstance(value, str):
                    return value
        return address

    @property
    def scope(self) -> Scope:
        """The scope of the caller, for checks that depend on its user. `admit` authorises it."""
        return Scope(self.principal.tenant_id, self.principal.user_id)

    def admit(self, scope: str) -> Scope:
        """Authorises a checked request; returns the scope of sessions that it may access. Raises RequestTooLarge,
        ScopeMissing.

        The size is checked here, after the checks of the fields, because those name the field that is too large.
        """
        if self.request_bytes > self.method.largest_request and not self.method.request_streaming:
            raise RequestTooLarge(self.request_bytes, self.method.largest_request)
        principal = self.principal
        if scope not in principal.scopes:
            raise ScopeMissing(scope)
        return Scope(principal.tenant_id, principal.user_id)

    def command(
        self,
        scope: Scope,
        request: "WriteRequest",
        session_id: str,
        action: Action,
        expected_version: int = 0,
        fence: Fence | None = None,
    ) -> Command:
        """The command for a write request. `fence`: that of the writing run; None: no run writes."""
        request_id, fingerprint = self.identity(request)
        size, actor, grant = self.request_bytes, self.principal.name, self.principal.grant
        incarnation = None if grant is None else grant.incarnation
        return Command(
            *(scope, session_id, action, actor, request_id, fingerprint, expected_version, size, fence, incarnation)
        )

    def commands(self, scope: Scope, request: "WriteRequest", items: Iterable["Item"]) -> list[Command]:
        """The commands that a request for several sessions means. Each has the request's id: no session may occur
        twice."""
        request_id, fingerprint = self.identity(request)
        return [
            Command(
                scope,
                item.session_id,
                item.action,
                self.principal.name,
                request_id if fingerprint else INTERNAL_REQUEST_PREFIX + ids.uuid7(),
                fingerprint,
                item.expected_version,
                item.size,
            )
            for item in items
        ]

    def identity(self, request: "WriteRequest") -> tuple[str, bytes]:
        """(request id, fingerprint). A request without an id gets one, and no fingerprint."""
        if not request.request_id:
            return INTERNAL_REQUEST_PREFIX + ids.uuid7(), b""
        content, key = request.SerializeToString(deterministic=True), self.method.path.encode()
        key = key[-hashlib.blake2b.MAX_KEY_SIZE :]
        return request.request_id, hashlib.blake2b(content, digest_size=_FINGERPRINT_BYTES, key=key).digest()

    def repeatable(self, scope: Scope, session_id: str, action: Action, fence: Fence | None) -> Command:
        """The command for a request without a `request_id`, whose action is idempotent by itself."""
        request_id = INTERNAL_REQUEST_PREFIX + ids.uuid7()
        size = self.request_bytes
        return Command(scope, session_id, action, self.principal.name, request_id, size=size, fence=fence)

    async def begin_answer(self, key: str, value: str) -> None:
        """Sends the initial metadata with this entry now, before the answer."""
        await self.context.send_initial_metadata(((key, value),))

    def add_trailer(self, key: str, value: str) -> None:
        """Adds an entry to the trailing metadata of a successful answer. All entries together have at most 8 KiB."""
        self.context.set_trailing_metadata((*(self.context.trailing_metadata() or ()), (key, value)))

    async def write(self, message: bytes) -> None:
        """Sends one message of a streamed answer; returns once the transport has accepted it.

        Raises TooManyCalls if the budget for unsent bytes has no room for it. If it is cancelled, the message stays in
        the transport, and keeps its bytes of the budget, until the call has ended there.
        """
        if self.before_answer is not None:
            await self.before_answer()
        size, unsent, tenant_id = len(message), self.unsent, self.principal.tenant_id
        self.response_bytes += size
        if unsent is None or size <= UNCOUNTED:
            await self.context.write(message)
            return
        if not unsent.take(tenant_id, size):
            raise TooManyCalls(RETRY_AFTER, "answer_bytes")
        try:
            await self.context.write(message)
        except asyncio.CancelledError:
            self.context.add_done_callback(LeftBehind(unsent, tenant_id, size))  # type: ignore[arg-type]
            raise
        except BaseException:
            unsent.give(tenant_id, size)
            raise
        unsent.give(tenant_id, size)


class LeftBehind:
    """Bytes that the transport holds for a call whose handler has ended.

    grpc keeps this object, as a done callback, for as long as it keeps the call. When the object is collected, the
    bytes are returned to the budget.
    """

    def __init__(self, unsent: Shares, tenant_id: str, size: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._give = partial(unsent.give, tenant_id, size)

    def __call__(self, context: object) -> None:
        """Does nothing: the handler has ended, but the call in the transport has not."""

    def __del__(self) -> None:
        # The collector may run in any thread.
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._give)


class WriteRequest(Protocol):
    """Fields that all requests of mutations have."""

    @property
    def request_id(self) -> str: ...

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...  # noqa: N802 - protobuf's name


_Method = TypeVar("_Method", bound=Callable[..., Any])


def taking_bytes(method: _Method) -> _Method:
    """Marks a method of a servicer that receives serialised messages of its stream; see methods.generic_handler."""
    method.takes_bytes = True  # type: ignore[attr-defined]
    return method


Handler = Callable[[Any, Call], Awaitable[bytes | None]]
"""Serves a call of any of the four kinds.

Takes the serialised request, or an async iterator of requests. Returns the serialised response, or None after it has
sent a streamed answer with `Call.write`. Raises SessiondError.
"""


class Interceptor(Protocol):
    """One concern of every call. It wraps handlers once, when the server is built, so a call costs coroutines only."""

    def around(self, method: Method, proceed: Handler) -> Handler:
        """A handler that does this concern's part and calls `proceed`; or `proceed` itself if the method needs none.

        If it has nothing left to do after `proceed`, it is a plain function that returns the awaitable of `proceed`,
        which saves a coroutine per call.
        """
        ...


Parse = Callable[[bytes], Message]
