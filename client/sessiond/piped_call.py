"""One attempt of a call through a pipe, and the errors that such attempts end with."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import grpc.aio

from sessiond.v1.pipe_service_pb2 import PipeAnswer

CODES = {code.value[0]: code for code in grpc.StatusCode}
DETAILS_KEY = "grpc-status-details-bin"
DEADLINE_TEXT = "Deadline Exceeded"


class Taker(Protocol):
    """What a call needs of its pipe."""

    def give_up(self, call: "PipedCall") -> None:
        """Cancels a call that the pipe has taken."""

    def leave(self) -> None:
        """Takes no more calls."""


class NotSent(Exception):
    """The attempt has not reached a server, because no pipe is left. It does not count."""


class PipedCall:
    """One attempt. It ends once: with the answer, an error, at its deadline, or when its caller is cancelled."""

    __slots__ = (
        "answer", "ends", "metadata", "number", "path", "patience", "pipe", "request", "size", "timer",
    )  # fmt: skip

    def __init__(self, path: str, request: bytes, ends: float, metadata: Mapping[str, str]) -> None:
        """`ends`: the deadline, by the clock of the event loop."""
        self.path = path
        self.request = request
        self.size = len(request)
        self.ends = ends
        self.metadata = metadata
        self.number = 0
        """Within the pipe that has taken it; 0: none has."""
        self.pipe: Taker | None = None
        """The pipe that has taken it."""
        self.answer: asyncio.Future[PipeAnswer | Exception] = asyncio.get_running_loop().create_future()
        """An error is a result, so that one which comes after its caller has gone is not reported as lost."""
        self.timer: asyncio.TimerHandle | None = None
        """Ends it at its deadline."""
        self.patience: asyncio.TimerHandle | None = None
        """Ends a pipe that does not answer it after it was given up."""

    @property
    def over(self) -> bool:
        return self.answer.done()

    def end(self, outcome: PipeAnswer | Exception) -> None:
        """Idempotent."""
        if not self.answer.done():
            self.answer.set_result(outcome)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def answered(self) -> None:
        """Its pipe expects nothing more for it."""
        if self.patience is not None:
            self.patience.cancel()
            self.patience = None


def failure(code: grpc.StatusCode, text: str) -> grpc.aio.AioRpcError:
    """An error as grpc raises it, without trailing metadata."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=text)


def failure_of(answer: PipeAnswer) -> grpc.aio.AioRpcError:
    """The error of an answer with a status, as grpc raises that of a plain call."""
    status = answer.status
    trailers: list[tuple[str, str | bytes]] = list(answer.trailers.items())
    if status.details:
        trailers.append((DETAILS_KEY, status.details))
    code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.OK:
        code = grpc.StatusCode.UNKNOWN
    metadata = grpc.aio.Metadata
    return grpc.aio.AioRpcError(code, metadata(), metadata(*trailers), details=status.message)
