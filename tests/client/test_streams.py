"""Calls with streams, where grpc.aio ends them in ways that no server can be made to end them in."""

import asyncio
from collections.abc import Generator
from typing import Any, cast

import grpc
import pytest

import sessiond
from sessiond.streams import Sending


class BrokenAtItsEnd:
    """A call whose connection breaks as its stream of requests is closed."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    async def done_writing(self) -> None:
        raise grpc.aio.InternalError("Failed")

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0).__await__()
        raise grpc.aio.AioRpcError(self._code, grpc.aio.Metadata(), grpc.aio.Metadata(), "Socket closed")

    def done(self) -> bool:
        return True


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
async def test_connection_that_breaks_as_the_requests_end_is_unavailable(code: grpc.StatusCode) -> None:
    """Found by `make faults KIND=forget SEED=22`: uploads raised an error of grpc's own instead."""
    sending: Sending[Any, Any] = Sending(cast(Any, BrokenAtItsEnd(code)))
    with pytest.raises(sessiond.Unavailable):
        await sending.answer()
