"""gRPC server reflection, v1 and v1alpha. Callers need no key, so few calls run at a time, each of a bounded age."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, cast

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc.aio import EOF, Server
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from sessiond_server.rpc.open_calls import Context, OpenCalls

MOST_CALLS: Final = 16
AGE: Final = 60.0
"""Seconds. Tools ask for what they need at once."""
LONGEST_QUESTION: Final = 1024
"""Bytes."""


_ALPHA: Final = reflection.SERVICE_NAME
_STABLE: Final = _ALPHA.replace("v1alpha", "v1")
"""The two versions have the same messages, so one servicer answers both. grpcio-reflection has the first only."""
_STABLE_FILE: Final = "grpc_reflection/v1/reflection.proto"


def add_to(server: Server, services: Sequence[str], refused: Callable[[], None]) -> None:
    """Answers for the services, and for reflection itself. `refused` is called for each call that ends for want of a
    place."""
    names = [*services, _ALPHA, _STABLE]
    servicer: Any = reflection.aio.ReflectionServicer(names, pool=_Symbols(_with_stable(Default())))

    async def serve(_: object, context: Context) -> None:
        async with asyncio.timeout(AGE):
            async for answer in servicer.ServerReflectionInfo(_questions(context), context):
                await context.write(cast(ServerReflectionResponse, answer).SerializeToString())

    bounded = cast(Any, OpenCalls(MOST_CALLS, refused).bounded(serve))
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(bounded)
    handlers = {"ServerReflectionInfo": handler}
    for name in (_ALPHA, _STABLE):
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])


class _Symbols:
    """A pool that also finds methods, which tools such as grpcurl ask for by `package.Service.Method`."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - protobuf's name
        """Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def _with_stable(pool: DescriptorPool) -> DescriptorPool:
    """The pool, with the description of v1."""
    try:
        pool.FindFileByName(_STABLE_FILE)
    except KeyError:
        alpha = FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        stable = text_format.Parse(text_format.MessageToString(alpha).replace("v1alpha", "v1"), FileDescriptorProto())
        pool.AddSerializedFile(stable.SerializeToString())
    return pool


async def _questions(context: Context) -> AsyncIterator[ServerReflectionRequest]:
    while (data := cast(Any, await context.read())) is not EOF:
        if len(data) > LONGEST_QUESTION:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the question is too long")
        yield ServerReflectionRequest.FromString(data)
