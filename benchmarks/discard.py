"""Plain streams: grpc.aio with sessiond's options, which discards the bytes that it receives and sends constant bytes.

    python -m benchmarks.discard BYTES

Prints its port. Every client stream is read to its end and answered with nothing; every other call is answered with
BYTES bytes in messages of 256 KiB. Its throughput is the upper limit of any service on grpc.aio.
"""

import sys
from collections.abc import AsyncIterator

import grpc
import uvloop

from sessiond_server.rpc.wire_settings import WireSettings

CHUNK = 256 * 1024
UPLOAD = "/sessiond.v1.AttachmentService/UploadAttachment"


class _Plain(grpc.GenericRpcHandler):
    def __init__(self, size: int) -> None:
        self._upload: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(_discard)
        self._download: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(_sending(size))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return self._upload if handler_call_details.method == UPLOAD else self._download


async def _discard(messages: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
    await context.send_initial_metadata(())
    async for _ in messages:
        continue
    return b""


def _sending(size: int):  # type: ignore[no-untyped-def]  # grpc's own types of handlers are not those of grpc.aio
    data = bytes(CHUNK)

    async def send(request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        for _ in range(size // CHUNK):
            await context.write(data)

    return send


async def serve(size: int) -> None:
    server = grpc.aio.server(options=WireSettings().options())
    server.add_generic_rpc_handlers((_Plain(size),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)  # noqa: T201 - for the benchmark that started it
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
