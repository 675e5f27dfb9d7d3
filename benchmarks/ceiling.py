"""The empty handler: grpc.aio with sessiond's options, which answers each method with constant bytes.

    python -m benchmarks.ceiling < {"/package.Service/Method": "base64 of the answer", ...}

Prints its port. Its throughput is the upper limit of any service on grpc.aio with these response sizes.
"""

import base64
import json
import sys

import grpc
import uvloop

from sessiond_server.rpc.wire_settings import WireSettings


class _Answers(grpc.GenericRpcHandler):
    def __init__(self, answers: dict[str, bytes]) -> None:
        self._handlers = {method: _handler(answer) for method, answer in answers.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        return self._handlers.get(handler_call_details.method)


def _handler(answer: bytes) -> "grpc.RpcMethodHandler[bytes, bytes]":
    async def call(request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(call)


async def serve(answers: dict[str, bytes]) -> None:
    server = grpc.aio.server(options=WireSettings().options())
    server.add_generic_rpc_handlers((_Answers(answers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)  # noqa: T201 - for the benchmark that started it
    await server.wait_for_termination()


def main() -> None:
    answers = {method: base64.b64decode(answer) for method, answer in json.load(sys.stdin).items()}
    uvloop.run(serve(answers))


if __name__ == "__main__":
    main()
