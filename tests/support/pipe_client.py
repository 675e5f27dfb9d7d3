"""A client of PipeService by plain stubs, as protos/sessiond/v1/pipe_service.proto describes one."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from sessiond.v1.pipe_service_pb2 import OpenRequest, OpenResponse, PipeAnswer, PipeCall, PipePiece, PipeWindow
from tests.support.wire import PATHS, RPCS, TENANT, Failure, Wire

OPEN = "/sessiond.v1.PipeService/Open"


class PipeClient:
    """One pipe. Sends a frame for each call, and reads always unless it is told not to."""

    def __init__(self, stream: Any, window: PipeWindow, *, reads: bool) -> None:
        self.window = window
        self.going_away = asyncio.Event()
        self.answers: dict[int, asyncio.Future[PipeAnswer]] = {}
        self._stream = stream
        self._numbers = 0
        self._arriving: dict[int, tuple[PipeAnswer, bytearray]] = {}
        self.pieces: list[int] = []
        """Numbers of the calls whose pieces and answers came, in their order."""
        self.reader = asyncio.create_task(self._read()) if reads else None

    async def begin(
        self,
        rpc: str,
        request: Message | bytes,
        *,
        number: int | None = None,
        timeout: float | None = 20.0,  # noqa: ASYNC109 - it goes to the server with the call
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Sends a call, by the RPC's name alone or its path; returns its number."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        self._numbers = number if number is not None else self._numbers + 1
        call = PipeCall(number=self._numbers, method=PATHS.get(rpc, rpc), request=data, metadata=metadata or {})
        if timeout is not None:
            call.timeout_ms = round(timeout * 1000)
        size, piece = len(data), self.window.piece_bytes
        if size > piece:
            call.request, call.request_size = data[:piece], size
        self.answers.setdefault(self._numbers, asyncio.get_running_loop().create_future())
        await self.send(OpenRequest(calls=[call]))
        for at in range(piece, size, piece):
            await self.send(OpenRequest(pieces=[PipePiece(number=call.number, data=data[at : at + piece])]))
        return call.number

    async def send(self, frame: OpenRequest | bytes) -> None:
        await self._stream.write(frame if isinstance(frame, bytes) else frame.SerializeToString())

    async def answer(self, number: int) -> PipeAnswer:
        """The whole answer; the pipe's own error if it ended before."""
        assert self.reader is not None
        waiting = self.answers[number]
        await asyncio.wait([cast("asyncio.Future[Any]", waiting), self.reader], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            await self.reader
            raise AssertionError(f"the pipe ended without an answer to call {number}")
        return waiting.result()

    async def call(self, rpc: str, request: Message | bytes, **options: Any) -> Any:
        """The response; or Failure."""
        answer = await self.answer(await self.begin(rpc, request, **options))
        if answer.HasField("status"):
            raise failure_of(answer)
        return GetMessageClass(RPCS[rpc].output_type).FromString(answer.response)

    async def failure(self, rpc: str, request: Message | bytes, **options: Any) -> Failure:
        """How a call that must fail does."""
        try:
            answer = await self.call(rpc, request, **options)
        except Failure as failure:
            return failure
        raise AssertionError(f"{rpc} succeeded: {answer}")

    async def ended(self) -> Failure | None:
        """How the pipe ends; None: with OK."""
        assert self.reader is not None
        try:
            await self.reader
        except Failure as failure:
            return failure
        return None

    async def end(self) -> None:
        """Ends the client's side."""
        await self._stream.done_writing()

    def cancel(self) -> None:
        self._stream.cancel()

    async def read(self) -> OpenResponse | None:
        """The next frame, of a pipe that does not read by itself; None at the end."""
        try:
            data = await self._stream.read()
        except grpc.aio.AioRpcError as error:
            raise Failure.of(error) from None
        return None if data is grpc.aio.EOF else OpenResponse.FromString(data)

    async def _read(self) -> None:
        while (frame := await self.read()) is not None:
            if frame.HasField("going_away"):
                self.going_away.set()
            for answer in frame.answers:
                self._arrived(answer, answer.response)
            for piece in frame.pieces:
                self._arrived(self._arriving[piece.number][0], piece.data)

    def _arrived(self, answer: PipeAnswer, data: bytes) -> None:
        self.pieces.append(answer.number)
        if answer.response_size:
            whole = self._arriving.setdefault(answer.number, (answer, bytearray()))[1]
            whole += data
            assert len(whole) <= answer.response_size
            if len(whole) < answer.response_size:
                return
            del self._arriving[answer.number]
            answer.response = bytes(whole)
        self.answers[answer.number].set_result(answer)


def failure_of(answer: PipeAnswer) -> Failure:
    """The error of an answer, as that of a plain call."""
    code = next(code for code in grpc.StatusCode if code.value[0] == answer.status.code)
    trailers: list[tuple[str, str | bytes]] = list(answer.trailers.items())
    if answer.status.details:
        trailers.append(("grpc-status-details-bin", answer.status.details))
    metadata = grpc.aio.Metadata
    return Failure.of(grpc.aio.AioRpcError(code, metadata(), metadata(*trailers), answer.status.message))


@asynccontextmanager
async def opened(
    wire: Wire, *, key: str = TENANT, metadata: Sequence[tuple[str, str]] = (), reads: bool = True
) -> AsyncIterator[PipeClient]:
    """An open pipe, whose window has come. Raises Failure."""
    bearer = (("authorization", f"Bearer {key}"),) if key else ()
    invoke: Any = wire.channel.stream_stream(OPEN)
    stream = invoke(metadata=(*bearer, *metadata))
    try:
        first = await stream.read()
        if first is grpc.aio.EOF:
            raise AssertionError("the pipe ended before its window came")
    except grpc.aio.AioRpcError as error:
        raise Failure.of(error) from None
    client = PipeClient(stream, OpenResponse.FromString(first).window, reads=reads)
    try:
        yield client
    finally:
        stream.cancel()
        if client.reader is not None:
            client.reader.cancel()
            await asyncio.wait({client.reader})
            if not client.reader.cancelled():
                client.reader.exception()
