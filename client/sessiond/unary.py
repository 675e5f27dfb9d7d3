"""Unary calls, plainly or through a pipe."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc.aio
from google.protobuf.message import DecodeError

from sessiond.attempts import Attempts, Throttle
from sessiond.errors import ClientClosed
from sessiond.options import Retry
from sessiond.piped_call import DEADLINE_TEXT, NotSent, PipedCall, failure, failure_of
from sessiond.pipes import Pipes
from sessiond.status import typed_error

_NO_METADATA: Mapping[str, str] = {}
_ATTEMPTS_KEY = "grpc-previous-rpc-attempts"
_OF_THE_DATA = frozenset({"SESSION_LOCKED", "DOCUMENT_LOCKED"})
"""Reasons of UNAVAILABLE that every server would give."""


class UnaryCalls:
    """Stands in for the channel of the stubs, for unary calls only: each goes plainly, or through a pipe, with the
    same retries, deadline, errors and trailers."""

    def __init__(self, channel: grpc.aio.Channel, pipes: Pipes, retry: Retry) -> None:
        self._channel = channel
        self._pipes = pipes
        self._retry = retry
        self._throttle = Throttle(retry)

    def unary_unary(
        self,
        path: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
        **named: Any,
    ) -> Callable[..., Awaitable[Any]]:
        """One RPC."""
        plain: Any = self._channel.unary_unary(path, request_serializer, response_deserializer, **named)
        pipes = self._pipes

        async def call(request: Any, *, timeout: float, metadata: Any, wait_for_ready: bool | None) -> Any:
            pipes.under_way += 1
            try:
                if pipes.considers():
                    ends = asyncio.get_running_loop().time() + timeout
                    try:
                        return _parsed(
                            await self._piped(path, request_serializer(request), ends), response_deserializer
                        )
                    except NotSent:
                        if pipes.closed:
                            raise ClientClosed from None
                        timeout = _left(ends)
                return await plain(request, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready)
            finally:
                pipes.under_way -= 1

        return call

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """Not through pipes."""
        return self._channel.unary_stream(*arguments, **named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        """Not through pipes."""
        return self._channel.stream_unary(*arguments, **named)

    async def _piped(self, path: str, request: bytes, ends: float) -> bytes:
        """The response. Raises AioRpcError, ClientClosed; NotSent where the call is to be made plainly."""
        pipes, attempts = self._pipes, Attempts(self._retry, self._throttle)
        metadata = _NO_METADATA
        while await pipes.usable(len(request), ends, waits=attempts.failed > 0):
            call = PipedCall(path, request, ends, metadata)
            try:
                answer = await pipes.answer(call)
                if not answer.HasField("status"):
                    self._throttle.succeeded()
                    return answer.response
                error = failure_of(answer)
            except grpc.aio.AioRpcError as ended:
                error = ended
            pause = attempts.pause(error)
            if pause is None:
                raise error
            if call.pipe is not None and typed_error(error).reason not in _OF_THE_DATA:
                call.pipe.leave()  # the next one may be another server's, as the next attempt of a plain call is
            metadata = {_ATTEMPTS_KEY: str(attempts.failed)}
            await pipes.pause(min(pause, _left(ends)))
            _left(ends)
        raise NotSent


def _parsed(response: bytes, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(response)
    except DecodeError:
        raise failure(grpc.StatusCode.INTERNAL, "the answer cannot be parsed") from None


def _left(ends: float) -> float:
    """Seconds until the deadline. Raises the error of a call whose deadline has passed."""
    left = ends - asyncio.get_running_loop().time()
    if left <= 0:
        raise failure(grpc.StatusCode.DEADLINE_EXCEEDED, DEADLINE_TEXT)
    return left
