"""gRPC server reflection. Callers need no key, so few calls run at a time, each of a bounded age."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, cast

import grpc
from grpc.aio import EOF, Server
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from sessiond_server.rpc.open_calls import Context, OpenCalls

MOST_CALLS: Final = 16
AGE: Final = 60.0
"""Seconds. Tools ask for what they need at once."""
LONGEST_QUESTION: Final = 1024
"""Bytes."""


def add_to(server: Server, services: Sequence[str], refused: Callable[[], None]) -> None:
    """Answers for the services, and for reflection itself. `refused` is called for each call that ends for want of a
    place."""
    servicer: Any = reflection.aio.ReflectionServicer([*services, reflection.SERVICE_NAME])

    async def serve(_: object, context: Context) -> None:
        async with asyncio.timeout(AGE):
            async for answer in servicer.ServerReflectionInfo(_questions(context), context):
                await context.write(cast(ServerReflectionResponse, answer).SerializeToString())

    bounded = cast(Any, OpenCalls(MOST_CALLS, refused).bounded(serve))
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(bounded)
    handlers = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, handlers)])


async def _questions(context: Context) -> AsyncIterator[ServerReflectionRequest]:
    while (data := cast(Any, await context.read())) is not EOF:
        if len(data) > LONGEST_QUESTION:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the question is too long")
        yield ServerReflectionRequest.FromString(data)
