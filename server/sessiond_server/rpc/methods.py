"""Builds grpc's handlers from the descriptor of a service.

Every method is registered as one that takes a stream, so that we read a unary request ourselves
(interceptors/reading.py), once the caller is known and the call has a place. Parsing also happens inside the
interceptors, so that a malformed request is answered, logged and counted like any other. Responses are bytes already.
Requests of many elements are parsed in slices, few requests at a time (elements.py); their JSON texts (json_texts.py)
and objects are checked in the same way.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from time import thread_time
from typing import Any, Final, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import AbortError, ServicerContext

from sessiond_server.domain import structs
from sessiond_server.errors import InvalidFields, MalformedRequest, RequestTooLarge, Violation
from sessiond_server.rpc import elements, json_texts, tracebacks
from sessiond_server.rpc.call import Call, Handler, Interceptor, Method, Parse
from sessiond_server.rpc.places import Places
from sessiond_server.rpc.tracebacks import freeing

METHOD_NOT_FOUND: Final = "Method not found!"
"""As grpc says it."""
Turn = Callable[[Callable[[], str]], Awaitable[None]]
"""Returns once a call may be refused, whose caller's address its argument returns."""

_END: Final[Any] = object()
_TOO_MANY: Final = (
    f"must have at most {elements.MOST} fields, items and values in all, and an item of a list at most "
    f"{elements.UNCUT // elements.ENTRY} entries of objects"
)


@dataclass(frozen=True, slots=True)
class Served:
    """An RPC with all that is done for each call of it."""

    name: str
    method: Method
    serve: Handler
    """Takes what grpc gives for the request, which a unary call reads itself."""


def served_methods(
    service: ServiceDescriptor,
    servicer: object,
    interceptors: Sequence[Interceptor],
    largest_request: int,
    slicing: Places,
) -> Sequence[Served]:
    """The RPCs of a service, by the methods of `servicer`, each named as its RPC in snake case and taking (request,
    Call).

    A method with a true `takes_bytes` receives the serialised messages of its stream and parses them itself.

    The first interceptor is the outermost. `slicing`: places of requests that are parsed in slices. Raises
    AttributeError if the servicer lacks an RPC.
    """
    return [
        _served(method, getattr(servicer, snake_case(method.name)), interceptors, largest_request, slicing)
        for method in service.methods
    ]


def generic_handler(service: ServiceDescriptor, methods: Iterable[Served]) -> grpc.GenericRpcHandler:
    """Has grpc serve the plain calls of a service."""
    handlers = {each.name: _method_handler(each) for each in methods}
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def unknown_methods(turn: Turn) -> grpc.GenericRpcHandler:
    """Refuses all calls, each once `turn` has returned, with UNIMPLEMENTED."""

    async def refuse(_: object, context: "ServicerContext[Any, Any]") -> None:
        await turn(context.peer)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, METHOD_NOT_FOUND)

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_unary_rpc_method_handler(cast(Any, freeing(refuse)))

    class Unknown(grpc.GenericRpcHandler):
        def service(self, handler_call_details: object) -> Any:
            return handler

    return Unknown()


def snake_case(name: str) -> str:
    """GetSession: get_session."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _served(
    descriptor: MethodDescriptor,
    behaviour: Handler,
    interceptors: Sequence[Interceptor],
    largest_request: int,
    slicing: Places,
) -> Served:
    incoming, outgoing = descriptor.client_streaming, descriptor.server_streaming
    path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
    method = Method(path, incoming, outgoing, largest_request)
    innermost = _parsing_each(descriptor, behaviour) if incoming else _parsing(descriptor, behaviour, slicing)
    stack = reduce(lambda proceed, one: one.around(method, proceed), reversed(interceptors), innermost)
    return Served(descriptor.name, method, stack)


def _method_handler(served: Served) -> "grpc.RpcMethodHandler[Any, Any]":
    method, stack = served.method, served.serve

    # grpc takes coroutine functions only, and for a streamed answer one that writes to the context itself.
    async def serve(request: Any, context: "ServicerContext[Any, Any]") -> bytes | None:
        call = Call(method, context)
        try:
            return await stack(request, call)
        except AbortError as aborted:
            tracebacks.forget(aborted)  # as `freeing`, without another coroutine for each call
            return None
        finally:
            call.forget_error()

    kind = grpc.stream_stream_rpc_method_handler if method.response_streaming else grpc.stream_unary_rpc_method_handler
    return cast("Callable[..., grpc.RpcMethodHandler[Any, Any]]", kind)(serve)


def _parsing(descriptor: MethodDescriptor, behaviour: Handler, slicing: Places) -> Handler:
    parse, name = _parser(descriptor)
    made = GetMessageClass(descriptor.input_type)
    fields = elements.table(descriptor.input_type)
    texts = json_texts.TEXTS.get(descriptor.input_type.full_name)

    def parsing(request: bytes, call: Call) -> Awaitable[bytes | None]:
        if not elements.is_small(request):
            return parsing_slices(request, call)
        try:
            message = parse(request)
        except DecodeError:
            raise MalformedRequest(name) from None
        if texts is not None:
            for _ in json_texts.check(texts(message)):
                pass  # a request that is parsed in one piece is too small for others to need a turn
        return behaviour(message, call)

    async def parsing_slices(request: bytes, call: Call) -> bytes | None:
        message, tenant_id, has_place = made(), call.principal.tenant_id, False
        walk, pieces, pace = elements.slices(request, fields), list[bytes](), elements.Pace(thread_time)
        try:
            # Parsed elements take many times of their bytes, so all are counted first.
            while (piece := next(walk, _END)) is not _END:
                if pieces or piece is None:
                    if not has_place:
                        await slicing.take(tenant_id)
                        has_place = True
                    await asyncio.sleep(pace.pause())
                    pace.go_on()
                pieces += () if piece is None else (piece,)
            for number, piece in enumerate(pieces):
                if number:
                    await asyncio.sleep(pace.pause())
                    pace.go_on()
                message.MergeFromString(piece)
            ahead = structs.Ahead()
            for _ in chain(json_texts.check(texts(message)) if texts is not None else (), ahead.look(message)):
                if not has_place:
                    await slicing.take(tenant_id)
                    has_place = True
                await asyncio.sleep(pace.pause())
                pace.go_on()
        except elements.TooManyElements:
            raise InvalidFields([Violation("request", _TOO_MANY)], "elements") from None
        except (DecodeError, elements.Malformed):
            raise MalformedRequest(name) from None
        finally:
            if has_place:
                slicing.give(tenant_id)
        with ahead.known():
            return await behaviour(message, call)

    return parsing


def _parsing_each(descriptor: MethodDescriptor, behaviour: Handler) -> Handler:
    parse, name = _parser(descriptor)
    if getattr(behaviour, "takes_bytes", False):
        parse = _as_it_is

    async def messages(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[object]:
        async for request in requests:
            call.request_bytes += len(request)
            if len(request) > call.method.largest_request:
                raise RequestTooLarge(len(request), call.method.largest_request)
            try:
                message = parse(request)
            except DecodeError:
                raise MalformedRequest(name) from None
            # The consumer may wait long before it takes the next message; these bytes must not stay in memory so long.
            del request
            yield message
            del message

    async def parsing(requests: AsyncIterator[bytes], call: Call) -> bytes | None:
        return await behaviour(messages(requests, call), call)

    return parsing


def _as_it_is(message: bytes) -> Any:
    return message


def _parser(descriptor: MethodDescriptor) -> tuple[Parse, str]:
    return GetMessageClass(descriptor.input_type).FromString, descriptor.input_type.full_name
