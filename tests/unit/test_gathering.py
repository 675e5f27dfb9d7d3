"""Calls that arrive at nearly the same time begin together, and the wait of each is bounded."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from sessiond_server.rpc.call import Call, Method
from sessiond_server.rpc.interceptors.gathering import ENOUGH, QUIET_TURNS, Gathering

UNARY = Method("/a.B/C", False, False, 1)
CALL = cast(Call, SimpleNamespace(piped=False))


class Turns:
    """Counts the turns of the loop, and notes in which one each call began."""

    def __init__(self) -> None:
        self.now = 0
        self.began: list[int] = []
        self._stopped = False

    def __enter__(self) -> "Turns":
        self._tick()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True

    async def handler(self, request: Any, call: Call) -> bytes | None:
        self.began.append(self.now)
        return b"answer"

    async def pass_by(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    def _tick(self) -> None:
        self.now += 1
        if not self._stopped:
            asyncio.get_running_loop().call_soon(self._tick)


async def test_a_lone_call_begins_after_the_quiet_turns() -> None:
    with Turns() as turns:
        serve = Gathering().around(UNARY, turns.handler)
        assert await serve(b"", CALL) == b"answer"
        assert len(turns.began) == 1
        assert QUIET_TURNS <= turns.began[0] <= QUIET_TURNS + 4


async def test_calls_of_neighbouring_turns_begin_in_one() -> None:
    with Turns() as turns:
        serve = Gathering().around(UNARY, turns.handler)
        calls = []
        for _ in range(5):
            calls.append(asyncio.ensure_future(serve(b"", CALL)))
            await turns.pass_by(QUIET_TURNS - 2)
        assert turns.began == []
        await asyncio.gather(*calls)
        assert len(turns.began) == 5
        assert len(set(turns.began)) == 1


async def test_enough_calls_do_not_wait_for_quiet() -> None:
    with Turns() as turns:
        serve = Gathering().around(UNARY, turns.handler)
        calls = [asyncio.ensure_future(serve(b"", CALL)) for _ in range(ENOUGH)]
        await asyncio.gather(*calls)
        assert len(turns.began) == ENOUGH
        assert turns.began[-1] < QUIET_TURNS


async def test_a_steady_stream_of_calls_keeps_none_waiting() -> None:
    with Turns() as turns:
        serve = Gathering().around(UNARY, turns.handler)
        calls = []
        for _ in range(3 * ENOUGH):
            calls.append(asyncio.ensure_future(serve(b"", CALL)))
            await turns.pass_by(1)
        assert len(turns.began) >= 2 * ENOUGH
        await asyncio.gather(*calls)


async def test_cancelling_one_leaves_its_neighbours() -> None:
    with Turns() as turns:
        serve = Gathering().around(UNARY, turns.handler)
        calls = [asyncio.ensure_future(serve(b"", CALL)) for _ in range(3)]
        await turns.pass_by(1)
        calls[1].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers[0] == answers[2] == b"answer"
        assert isinstance(answers[1], asyncio.CancelledError)
        assert len(turns.began) == 2


def test_streams_begin_at_once() -> None:
    turns = Turns()
    for incoming, outgoing in ((True, False), (False, True), (True, True)):
        streaming = Method("/a.B/C", incoming, outgoing, 1)
        assert Gathering().around(streaming, turns.handler) == turns.handler


async def test_calls_of_a_pipe_begin_at_once() -> None:
    turns = Turns()
    serve = Gathering().around(UNARY, turns.handler)
    assert await serve(b"", cast(Call, SimpleNamespace(piped=True))) == b"answer"
