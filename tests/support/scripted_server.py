"""A real gRPC server whose answers are written down beforehand: for what a healthy service does not do on demand."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from sessiond.v1 import (
    attachment_service_pb2,
    context_service_pb2,
    document_service_pb2,
    event_service_pb2,
    export_service_pb2,
    message_service_pb2,
    retention_service_pb2,
    run_service_pb2,
    search_service_pb2,
    session_service_pb2,
    template_service_pb2,
    tool_call_service_pb2,
    usage_service_pb2,
)
from sessiond.v1.pipe_service_pb2 import PipeWindow
from sessiond_server import errors as server_errors
from sessiond_server.rpc import status as server_status
from tests.support.scripted_pipe import WINDOW, ScriptedPipe

METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for service in (
        session_service_pb2.DESCRIPTOR.services_by_name["SessionService"],
        message_service_pb2.DESCRIPTOR.services_by_name["MessageService"],
        event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
        run_service_pb2.DESCRIPTOR.services_by_name["RunService"],
        tool_call_service_pb2.DESCRIPTOR.services_by_name["ToolCallService"],
        attachment_service_pb2.DESCRIPTOR.services_by_name["AttachmentService"],
        context_service_pb2.DESCRIPTOR.services_by_name["ContextService"],
        search_service_pb2.DESCRIPTOR.services_by_name["SearchService"],
        template_service_pb2.DESCRIPTOR.services_by_name["TemplateService"],
        usage_service_pb2.DESCRIPTOR.services_by_name["UsageService"],
        document_service_pb2.DESCRIPTOR.services_by_name["DocumentService"],
        export_service_pb2.DESCRIPTOR.services_by_name["ExportService"],
        retention_service_pb2.DESCRIPTOR.services_by_name["RetentionService"],
    )
    for method in service.methods
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One attempt of one call, as it reached the server."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    time_remaining: float
    peer: str
    """The connection."""


@dataclass(frozen=True, slots=True)
class Fail:
    code: grpc.StatusCode
    text: str = "as scripted"
    details: Sequence[Message] = ()
    trailers: tuple[tuple[str, str | bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Answers, with the default, once `until` is set."""

    until: asyncio.Event


@dataclass(frozen=True, slots=True)
class Take:
    """Of a streamed request it reads so many messages only."""

    messages: int
    then: "Message | Fail | Wait"


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing happens any more."""


Step = Message | Fail | Wait | Quiet | AsyncIterator[Message]
Steps = Sequence[Step]
Answer = Message | Fail | Wait | Take | Steps | Callable[[Any], Steps]
"""Steps are what a stream does, one after the other; at their end it ends with OK. A function finds them for the
request, where a test can't say how often the client asks."""

QUIET = Quiet()


class ScriptedServer:
    """Answers each attempt with the next entry of the script; without any, with an empty message, or a stream on which
    nothing happens."""

    def __init__(self) -> None:
        self.target = ""
        self.script: deque[Answer] = deque()
        self.always: Answer | None = None
        """What to answer when the script is at its end."""
        self.seen: list[Seen] = []
        self.arrived = asyncio.Event()
        """Set when any attempt arrives."""
        self.cancelled = asyncio.Event()
        """Set when the client takes back a call that waits."""
        self.streams = 0
        """Streams that are open."""
        self.window: PipeWindow | None = WINDOW
        """What the client may send through a pipe; None: pipes are not known."""
        self.piping: Callable[[AsyncIterator[bytes], Any], Awaitable[None]] | None = None
        """What happens in pipes, with the frames of the client and grpc's context, in place of serving them."""
        self.opens = 0
        """Pipes that clients have asked for."""
        self.pipes: set[ScriptedPipe] = set()
        """Those that are open."""
        self.piped = 0
        """Attempts that came through a pipe."""

    async def _answer(self, name: str, request: Message, context: "grpc.aio.ServicerContext[Any, Any]") -> Message:
        metadata = dict(context.invocation_metadata() or ())
        self.seen.append(Seen(name, request, metadata, context.time_remaining() or 0.0, context.peer()))
        self.arrived.set()
        answer = self.script.popleft() if self.script else self.always
        match answer:
            case Message():
                return answer
            case Fail():
                await _fail(context, answer)
            case Wait():
                try:
                    await answer.until.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
        return GetMessageClass(METHODS[name].output_type)()

    async def _open(self, requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        self.opens += 1
        if self.window is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

        async def serve(name: str, request: Message, call: Any) -> Message:
            self.piped += 1
            return await self._answer(name, request, call)

        if self.piping is not None:
            await self.piping(requests, context)
            return
        pipe = ScriptedPipe(serve, context, self.window)
        self.pipes.add(pipe)
        try:
            await pipe.run(requests)
        finally:
            self.pipes.discard(pipe)

    async def _stream(
        self, name: str, request: Message, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[Message]:
        metadata = dict(context.invocation_metadata() or ())
        self.seen.append(Seen(name, request, metadata, context.time_remaining() or math.inf, context.peer()))
        self.arrived.set()
        answer = self.script.popleft() if self.script else self.always
        assert not isinstance(answer, Take)
        steps = answer(request) if callable(answer) else answer
        self.streams += 1
        try:
            for step in steps if isinstance(steps, Sequence) else [steps or QUIET]:
                match step:
                    case Message():
                        yield step
                    case Fail():
                        await _fail(context, step)
                    case Wait():
                        await step.until.wait()
                    case Quiet():
                        await asyncio.Event().wait()
                    case _:
                        async for message in step:
                            yield message
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.streams -= 1

    async def _take(
        self, name: str, requests: AsyncIterator[Any], context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> Message:
        """A streamed request: as many messages as `Take` says, or all, and then the answer."""
        answer = self.script.popleft() if self.script else self.always
        metadata = dict(context.invocation_metadata() or ())
        received: list[Any] = []
        self.seen.append(Seen(name, received, metadata, context.time_remaining() or math.inf, context.peer()))
        take, then = (answer.messages, answer.then) if isinstance(answer, Take) else (math.inf, answer)
        self.streams += 1
        try:
            if take == 0:  # refused before it is taken up
                await anext(requests)
            while len(received) < take and (message := await anext(requests, None)) is not None:
                if not received:
                    await context.send_initial_metadata((("sessiond-upload-call", str(len(self.seen))),))
                received.append(message)
                self.arrived.set()
            match then:
                case Message():
                    return then
                case Fail():
                    await _fail(context, then)
                case Wait():
                    await then.until.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.streams -= 1
        return GetMessageClass(METHODS[name].output_type)()

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for name, method in METHODS.items():
            handler: Any = _unary
            behaviour: Any = self._answer
            if method.server_streaming:
                handler, behaviour = grpc.unary_stream_rpc_method_handler, self._stream
            elif method.client_streaming:
                handler, behaviour = grpc.stream_unary_rpc_method_handler, self._take
            services.setdefault(method.containing_service.full_name, {})[name] = handler(
                partial(behaviour, name),
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=_serialized,
            )
        pipes: Any = grpc.stream_stream_rpc_method_handler
        services["sessiond.v1.PipeService"] = {"Open": pipes(self._open)}
        return [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]


_unary = grpc.unary_unary_rpc_method_handler


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


async def _fail(context: "grpc.aio.ServicerContext[Any, Any]", fail: Fail) -> None:
    trailers = fail.trailers
    if fail.details:
        status = Status(code=fail.code.value[0], message=fail.text)
        for detail in fail.details:
            status.details.add().Pack(detail)
        trailers += (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(fail.code, fail.text, trailers)


@asynccontextmanager
async def scripted_server(
    listen: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None, *, grace: float | None = None
) -> AsyncIterator[ScriptedServer]:
    """At its end it leaves calls so many seconds; None: nothing."""
    scripted = ScriptedServer()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(scripted.handlers())
    port = server.add_insecure_port(listen) if credentials is None else server.add_secure_port(listen, credentials)
    scripted.target = listen if listen.startswith("unix:") else f"127.0.0.1:{port}"
    await server.start()
    try:
        yield scripted
    finally:
        await server.stop(grace)


UNAVAILABLE = Fail(grpc.StatusCode.UNAVAILABLE)


def failing(error: server_errors.SessiondError) -> Fail:
    """As the service answers."""
    answer = server_status.answer(error)
    return Fail(answer.code, answer.text, trailers=answer.trailers)


def asked(server: ScriptedServer) -> list[str]:
    """The position that each stream began at."""
    return [seen.request.position for seen in server.seen]
