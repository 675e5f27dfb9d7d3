"""The connection to the service: opens channels, sends calls through them, closes them."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

import asyncio
import re
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import grpc.aio
from google.protobuf.message import Message

from sessiond.channel import channel_options, open_channel, stream_options
from sessiond.errors import ClientClosed, RequestTooLarge, SessiondError
from sessiond.forks import connecting, forked
from sessiond.options import TLS, Keepalive, Retry
from sessiond.pipes import Pipes, PipeUse
from sessiond.status import typed_error
from sessiond.streams import Sending, Stream, StreamChannels, Stubs
from sessiond.target import is_local
from sessiond.unary import UnaryCalls
from sessiond.v1.attachment_service_pb2_grpc import AttachmentServiceStub
from sessiond.v1.context_service_pb2_grpc import ContextServiceStub
from sessiond.v1.document_service_pb2_grpc import DocumentServiceStub
from sessiond.v1.event_service_pb2_grpc import EventServiceStub
from sessiond.v1.message_service_pb2_grpc import MessageServiceStub
from sessiond.v1.retention_service_pb2_grpc import RetentionServiceStub
from sessiond.v1.run_service_pb2_grpc import RunServiceStub
from sessiond.v1.search_service_pb2_grpc import SearchServiceStub
from sessiond.v1.session_service_pb2_grpc import SessionServiceStub
from sessiond.v1.template_service_pb2_grpc import TemplateServiceStub
from sessiond.v1.tool_call_service_pb2_grpc import ToolCallServiceStub
from sessiond.v1.usage_service_pb2_grpc import UsageServiceStub

if TYPE_CHECKING:
    from sessiond.v1.attachment_service_pb2_grpc import AttachmentServiceAsyncStub
    from sessiond.v1.context_service_pb2_grpc import ContextServiceAsyncStub
    from sessiond.v1.document_service_pb2_grpc import DocumentServiceAsyncStub
    from sessiond.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from sessiond.v1.message_service_pb2_grpc import MessageServiceAsyncStub
    from sessiond.v1.retention_service_pb2_grpc import RetentionServiceAsyncStub
    from sessiond.v1.run_service_pb2_grpc import RunServiceAsyncStub
    from sessiond.v1.search_service_pb2_grpc import SearchServiceAsyncStub
    from sessiond.v1.session_service_pb2_grpc import SessionServiceAsyncStub
    from sessiond.v1.template_service_pb2_grpc import TemplateServiceAsyncStub
    from sessiond.v1.tool_call_service_pb2_grpc import ToolCallServiceAsyncStub
    from sessiond.v1.usage_service_pb2_grpc import UsageServiceAsyncStub

RECONNECT_WAIT = 1.5
"""Seconds that a call waits for a connection after its last attempt had none: longer than the backoff between two
connection attempts, whose maximum is in `channel_options`."""
_RECONNECT_POLL = 0.05
_ANOTHER_SERVER_MAY_SERVE = frozenset({"STARTING", "DRAINING"})

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")


class Connection:
    """One channel for unary calls and more channels for streams. Each opens when it is first used. A connection belongs
    to one event loop. `Client` documents the parameters."""

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None,
        database: str | None,
        tls: TLS | None,
        allow_insecure_key: bool,
        timeout: float,
        wait_for_ready: bool,
        retry: Retry,
        keepalive: Keepalive,
        max_message_bytes: int,
        user_agent: str,
        channel: grpc.aio.Channel | None,
        pipe: PipeUse,
    ) -> None:
        if timeout <= 0:
            raise ValueError("timeout: must be above 0")
        if api_key is not None and not (api_key and all("!" <= each <= "~" for each in api_key)):
            # The text does not name the key. One that was read from a file often ends with a line break.
            raise ValueError("api_key: must be printable ASCII without spaces and line breaks, and not empty")
        if database is not None and not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", database):
            raise ValueError("database: must be 1 to 32 of [a-z0-9-] and begin with a letter")
        if pipe not in get_args(PipeUse):
            raise ValueError("pipe: must be auto, off or on")
        if not all(" " <= each <= "~" for each in user_agent):
            raise ValueError("user_agent: must be printable ASCII")
        protected = channel is not None or tls is not None or is_local(target)
        if api_key is not None and not (allow_insecure_key or protected):
            raise ValueError(
                "api_key: would cross the network in clear text; pass tls=TLS(), or allow_insecure_key=True where"
                " something else protects the way"
            )
        self._timeout = timeout
        self._largest = max_message_bytes
        self._wait_for_ready = wait_for_ready
        # The key is in each call's metadata and not in call credentials: the check above has shown that the channel
        # may carry it, and a credentials plugin costs each call a trip through another thread.
        self._metadata = (
            *((("authorization", f"Bearer {api_key}"),) if api_key is not None else ()),
            *((("db_id", database),) if database is not None else ()),
        )
        options = channel_options(target, tls, retry, keepalive, max_message_bytes, user_agent)

        def for_calls() -> grpc.aio.Channel:
            return channel if channel is not None else open_channel(target, tls, options)

        def for_streams() -> grpc.aio.Channel:
            return channel if channel is not None else open_channel(target, tls, stream_options(options))

        self._connect = for_calls
        self._retry = retry
        # A channel of the caller's own may have interceptors, which must see each call.
        self._pipe_use: PipeUse = pipe if channel is None else "off"
        self._pipes: Pipes | None = None
        self._reconnects = channel is None and retry.max_attempts > 1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._streams = StreamChannels(for_streams)
        # Transfers have channels of their own, so that events do not queue behind the bytes of files.
        self._transfers = StreamChannels(for_streams)
        self._closed = False

    @property
    def sessions(self) -> "SessionServiceAsyncStub":
        """Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one."""
        self._open()
        return self._sessions

    @property
    def messages(self) -> "MessageServiceAsyncStub":
        """Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one."""
        self._open()
        return self._messages

    @property
    def events(self) -> "EventServiceAsyncStub":
        """Its unary calls; for streams: `stream`. Raises ClientClosed, ClientForked, or RuntimeError on another event
        loop than the first one."""
        self._open()
        return self._events

    @property
    def runs(self) -> "RunServiceAsyncStub":
        """Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one."""
        self._open()
        return self._runs

    @property
    def tool_calls(self) -> "ToolCallServiceAsyncStub":
        """Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one."""
        self._open()
        return self._tool_calls

    @property
    def attachments(self) -> "AttachmentServiceAsyncStub":
        """Its unary calls. Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first
        one."""
        self._open()
        return self._attachments

    @property
    def context(self) -> "ContextServiceAsyncStub":
        """Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one."""
        self._open()
        return self._context

    @property
    def documents(self) -> "DocumentServiceAsyncStub":
        """Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one."""
        self._open()
        return self._documents

    @property
    def templates(self) -> "TemplateServiceAsyncStub":
        """Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one."""
        self._open()
        return self._templates

    @property
    def usage(self) -> "UsageServiceAsyncStub":
        """Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one."""
        self._open()
        return self._usage

    @property
    def retention(self) -> "RetentionServiceAsyncStub":
        """Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one."""
        self._open()
        return self._retention

    @property
    def search(self) -> "SearchServiceAsyncStub":
        """Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one."""
        self._open()
        return self._search

    def stream(
        self, method: "Callable[[Stubs], grpc.aio.UnaryStreamMultiCallable[Any, Response]]", request: Message
    ) -> Stream[Response]:
        """A stream without a deadline, which waits for a connection as long as its reader does.

        Raises ClientClosed, ClientForked, or RuntimeError on another event loop than the first one. All other errors
        are raised when it is read.
        """
        self._open()
        return self._streams.open(lambda stubs: self._stream(method(stubs), request))

    def receive(
        self, method: "Callable[[Stubs], grpc.aio.UnaryStreamMultiCallable[Any, Response]]", request: Message
    ) -> Stream[Response]:
        """Opens a stream as `stream` does, on the channels for transfers."""
        self._open()
        return self._transfers.open(lambda stubs: self._stream(method(stubs), request))

    def send(
        self, method: "Callable[[Stubs], grpc.aio.StreamUnaryMultiCallable[Request, Response]]"
    ) -> Sending[Request, Response]:
        """Opens a call that sends a stream of requests, on the channels for transfers. Raises as `stream`."""
        self._open()
        return self._transfers.open(lambda stubs: Sending(method(stubs)(metadata=self._metadata, wait_for_ready=True)))

    def end(self, stream: Stream[Any] | Sending[Any, Any]) -> None:
        """Ends a stream that `stream`, `receive` or `send` returned. Idempotent."""
        self._streams.end(stream)
        self._transfers.end(stream)

    async def call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        timeout: float | None,
        request_id: str = "",
    ) -> Response:
        """Sends a unary call and returns its answer, within `timeout` seconds (None: the client's default).

        Raises the errors of `sessiond.errors`; ClientClosed when the client is closed meanwhile. Cancelling the task
        cancels the call; a write may still have happened.
        """
        if timeout is None:
            timeout = self._timeout
        elif timeout <= 0:
            raise ValueError("timeout: must be above 0")
        began = time.monotonic()
        try:
            return await self._attempt(method, request, timeout)
        except grpc.aio.AioRpcError as error:
            failed = error
        left = timeout - (time.monotonic() - began)
        if not await self._can_reach_another_server(failed, left):
            raise self._typed(failed, request, request_id) from failed
        try:
            return await self._attempt(method, request, max(0.001, timeout - (time.monotonic() - began)))
        except grpc.aio.AioRpcError as error:
            raise self._typed(error, request, request_id) from error

    async def _attempt(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]", request: Request, timeout: float
    ) -> Response:
        """Sends the call, with the retries that grpc makes by itself."""
        try:
            return await method(
                request, timeout=timeout, metadata=self._metadata, wait_for_ready=self._wait_for_ready or None
            )
        except asyncio.CancelledError:
            # A channel that closes cancels its calls; grpc.aio raises that as if the waiting task were cancelled.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise ClientClosed from None
            raise

    async def _can_reach_another_server(self, error: grpc.aio.AioRpcError, left: float) -> bool:
        """Whether a call that grpc has given up should be sent once more: its last attempt met a server that starts or
        stops and another one may serve, or it met none and a server is connected within RECONNECT_WAIT, or the `left`
        seconds of the call's deadline.

        Where servers restart in turn, a call can spend all of its attempts on those that are away.
        """
        channel, unavailable = self._channel, error.code() is grpc.StatusCode.UNAVAILABLE
        if channel is None or self._closed or not (self._reconnects and unavailable):
            return False
        if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return typed_error(error).reason in _ANOTHER_SERVER_MAY_SERVE
        ends = time.monotonic() + min(left, RECONNECT_WAIT)
        while (now := time.monotonic()) < ends and not self._closed:
            await asyncio.sleep(min(_RECONNECT_POLL, ends - now))
            if not self._closed and channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
                return True
        return False

    async def close(self, grace: float | None = None) -> None:
        """Refuses new calls, cancels all streams at once, and cancels the calls in flight after `grace` seconds (None:
        at once). Idempotent."""
        self._closed = True
        if forked():
            return
        await self._streams.close(grace)
        await self._transfers.close(grace)
        began = time.monotonic()
        if self._pipes is not None:
            await self._pipes.close(grace)
        if self._channel is not None:
            await self._channel.close(grace and max(0.0, grace - (time.monotonic() - began)))

    def _stream(self, method: "grpc.aio.UnaryStreamMultiCallable[Any, Response]", request: Message) -> Stream[Response]:
        return Stream(method(request, metadata=self._metadata, wait_for_ready=True))

    def _typed(self, error: grpc.aio.AioRpcError, request: Message, request_id: str) -> SessiondError:
        # grpc refuses to send what is too large with the code that also stands for quotas and full queues.
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and (size := request.ByteSize()) > self._largest:
            return RequestTooLarge(
                f"the request has {size} bytes; the limit is {self._largest}",
                reason="REQUEST_TOO_LARGE",
                code="INVALID_ARGUMENT",
                metadata={"size_bytes": str(size), "limit_bytes": str(self._largest)},
                request_id=request_id,
            )
        return typed_error(error, request_id)

    def _open(self) -> None:
        if self._closed:
            raise ClientClosed
        connecting()
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._loop = loop
            self._channel = self._connect()
            channel = self._for_stubs(self._channel, loop)
            self._sessions = cast("SessionServiceAsyncStub", SessionServiceStub(channel))
            self._messages = cast("MessageServiceAsyncStub", MessageServiceStub(channel))
            self._events = cast("EventServiceAsyncStub", EventServiceStub(channel))
            self._runs = cast("RunServiceAsyncStub", RunServiceStub(channel))
            self._tool_calls = cast("ToolCallServiceAsyncStub", ToolCallServiceStub(channel))
            self._attachments = cast("AttachmentServiceAsyncStub", AttachmentServiceStub(channel))
            self._context = cast("ContextServiceAsyncStub", ContextServiceStub(channel))
            self._documents = cast("DocumentServiceAsyncStub", DocumentServiceStub(channel))
            self._retention = cast("RetentionServiceAsyncStub", RetentionServiceStub(channel))
            self._search = cast("SearchServiceAsyncStub", SearchServiceStub(channel))
            self._templates = cast("TemplateServiceAsyncStub", TemplateServiceStub(channel))
            self._usage = cast("UsageServiceAsyncStub", UsageServiceStub(channel))
        elif loop is not self._loop:
            raise RuntimeError("a client belongs to the event loop of its first call; make one for each loop")

    def _for_stubs(self, channel: grpc.aio.Channel, loop: asyncio.AbstractEventLoop) -> grpc.aio.Channel:
        if self._pipe_use == "off":
            return channel
        self._pipes = pipes = Pipes(channel, self._metadata, self._pipe_use, self._largest)
        # The tasks of pipes would outlive a client that is dropped without `close`.
        weakref.finalize(self, _abandon, pipes, loop).atexit = False
        return cast("grpc.aio.Channel", UnaryCalls(channel, pipes, self._retry))


def _abandon(pipes: Pipes, loop: asyncio.AbstractEventLoop) -> None:
    """The collector may run in any thread, and after the loop has ended."""
    with suppress(RuntimeError):
        if not forked():
            loop.call_soon_threadsafe(pipes.abandon)
