"""Every future is settled; otherwise its caller would wait for ever."""

import ast
import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from sessiond_server.domain.commands import Command, NothingToDo, Scope
from sessiond_server.errors import StoreUnavailable
from sessiond_server.redis.lane import Lane
from sessiond_server.redis.link import Link, Replies
from sessiond_server.store.batcher import Batcher
from sessiond_server.store.batching import Batching
from sessiond_server.store.cached.batched_reads import BatchedReads
from sessiond_server.store.commits import Applied, Commits
from tests.support.caller import Caller

ROOT = Path(__file__).parents[2]

SETTLED_BY = {
    "client/sessiond/blocking_channel.py BlockingChannel.threaded": "its thread, however the function ends",
    "client/sessiond/loop_thread.py in_caller": "the thread that waits for the call, or the call's cancellation",
    "client/sessiond/piped_call.py PipedCall.__init__": "its answer, its pipe's end, or its timer at the deadline",
    "client/sessiond/pipes.py Pipes._begin": "the task of the pipe, however that ends: tests/client/test_pipes.py",
    "client/sessiond/pipes.py Pipes.pause": "its caller, who waits for a time, or close: tests/client/test_pipes.py",
    "encryption/cache.py SealedCache.get": "the answer of the cache that it wraps, or its cancellation",
    "encryption/cache.py SealedCache.put": "the answer of the cache that it wraps, or its cancellation",
    "events/streams.py Stream.wait": "the hub's wake, its timer, or its reader's end",
    "memory/cache.py MemoryCache.get": "the method itself, before it returns",
    "memory/cache.py MemoryCache.put": "the method itself, before it returns",
    "redis/cache.py RedisCache.became_ready": "readiness, or __aexit__",
    "redis/cache.py RedisCache.get": "the method itself, before it returns",
    "redis/cache.py RedisCache.put": "its nodes, each of which answers whatever its link does; tested below",
    "redis/link.py Link.ask": "replies, or the end of the connection; tested below",
    "redis/node.py Node.get": "the lane, whatever the replies are: tests/cache/test_damage.py",
    "rpc/ahead.py Ahead.next": "grpc's core, which answers or refuses each request: tests/unit/test_ahead.py",
    "rpc/interceptors/boundary.py Boundary._cancelled": "its caller, who waits for a time and cancels it",
    "rpc/interceptors/gathering.py Gathering._turn": "a callback of the loop that calls nothing which can fail",
    "rpc/interceptors/occupancy.py Occupancy.emptied": "the end of the last call",
    "rpc/interceptors/refusals.py Refusals.turn": "its timer, which runs while any call is held, or drain",
    "rpc/moves.py Moves.settled": "the next answer of a database, or the time limit: tests/unit/test_moves.py",
    "rpc/pipe/piped_context.py PipedContext.read": "the last piece, or the pipe's end: tests/rpc/test_pipe.py",
    "slots.py Slots._turn": "the caller that gives a slot back, or its own end: tests/unit/test_shares.py",
    "store/batcher.py Batcher._drive": "the next command, or close",
    "store/batcher.py Batcher.write": "its shard's task, however that ends; tested below",
    "store/cached/batched_reads.py BatchedReads.ask": "its flight, however that ends, or close; tested below",
}
"""Every place that makes futures, and what settles them in any case. A new one needs an answer here, and a test."""


def test_every_place_that_makes_futures_says_what_settles_them() -> None:
    server = ROOT / "server/sessiond_server"
    places = [
        f"{path.relative_to(server) if path.is_relative_to(server) else path.relative_to(ROOT)} {place}"
        for folder in (server, ROOT / "client/sessiond")
        for path in folder.rglob("*.py")
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
        for place in makers_of_futures(ast.parse(path.read_text()))
    ]
    assert sorted(places) == sorted(SETTLED_BY)


def makers_of_futures(tree: ast.AST, within: tuple[str, ...] = ()) -> Iterator[str]:
    """The function around each call of `create_future` of a loop, or of `Future` of asyncio or concurrent.futures."""
    for node in ast.iter_child_nodes(tree):
        named = (node.name,) if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else ()
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name == "create_future" or name.endswith("Future"):
                yield ".".join(within)
        yield from makers_of_futures(node, (*within, *named))


def test_scan_finds_each_place() -> None:
    source = """
class A:
    async def b(self):
        x = loop.create_future()
        def c():
            return asyncio.Future(), get_running_loop().create_future()
waiter: asyncio.Future[None] = concurrent.futures.Future()
"""
    assert list(makers_of_futures(ast.parse(source))) == ["A.b", "A.b.c", "A.b.c", ""]


class Silent(asyncio.Transport):
    """A connection on which the test says what comes back."""

    def write(self, data: Any) -> None:
        pass

    def abort(self) -> None:
        pass


def link() -> Link:
    return Link(cast("Any", type("Connection", (), {})()), Silent(), 30.0)


def failing(*_: object) -> None:
    raise RuntimeError("a defect")


async def answered(waiting: "asyncio.Future[Any]") -> Any:
    async with asyncio.timeout(20):
        return await waiting


async def test_callback_that_raises_does_not_keep_replies_from_others(caplog: pytest.LogCaptureFixture) -> None:
    connection = link()
    connection.send(b"", 1, failing)
    other = asyncio.ensure_future(connection.ask(b"PING"))
    await asyncio.sleep(0)
    connection.data_received(b"+OK\r\n+PONG\r\n")
    assert await answered(other) == b"PONG"
    assert "a defect" in caplog.text


async def test_closed_connection_answers_callers_behind_a_callback_that_raises() -> None:
    connection = link()
    lost = asyncio.Event()
    connection.on_lost = lost.set
    connection.send(b"", 1, failing)
    answer: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
    connection.send(b"", 1, answer.set_result)
    connection.close()
    assert await answered(answer) is None
    assert lost.is_set()


@pytest.mark.parametrize("replies", [b"+one\r\n+two\r\n+epoch\r\n", b"-ERR no\r\n-ERR no\r\n-ERR no\r\n"])
async def test_lane_continues_after_a_callback_that_raises(replies: bytes) -> None:
    connection = link()
    lane = Lane(connection, b"key", b"epoch", lambda: None, 0)
    for _ in range(2):
        answer: asyncio.Future[Sequence[Any] | None] = asyncio.get_running_loop().create_future()
        lane.add(b"", 1, failing)
        lane.add(b"", 1, answer.set_result)
        while not connection._waiting:  # noqa: ASYNC110 - the lane sends within a few turns
            await asyncio.sleep(0)
        connection.data_received(replies.replace(b"+epoch", b"$5\r\nepoch"))
        found = await answered(answer)
        assert found == [b"two"] if replies.startswith(b"+") else found is None
    assert lane.waiting == 0


async def _too_few(keys: Sequence[str]) -> Sequence[str | Exception]:
    return []


async def _too_many(keys: Sequence[str]) -> Sequence[str | Exception]:
    return ["answer"] * (len(keys) + 1)


async def _raises(keys: Sequence[str]) -> Sequence[str | Exception]:
    raise LookupError


async def _cancelled(keys: Sequence[str]) -> Sequence[str | Exception]:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("read", "answer"),
    [
        (_too_few, RuntimeError),
        (_too_many, RuntimeError),
        (_raises, LookupError),
        (_cancelled, asyncio.CancelledError),
    ],
)
async def test_read_in_flight_answers_all_its_callers_however_it_ends(
    read: Callable[[Sequence[str]], Any], answer: type[BaseException]
) -> None:
    reads_in_flight: BatchedReads[str, str] = BatchedReads(read, most_keys=2, most_reads=1)
    asked = [reads_in_flight.ask(key) for key in ("a", "b", "a", "c")]
    async with asyncio.timeout(20):
        found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in found] == [answer] * 4
    await reads_in_flight.close()


async def test_flight_that_is_cancelled_before_it_begins_cancels_all_aboard() -> None:
    """Closing may come between the turn that makes its task and the one in which the task first runs."""
    reads_in_flight: BatchedReads[str, str] = BatchedReads(_raises, most_keys=2, most_reads=1)
    asked = [reads_in_flight.ask(key) for key in ("a", "b", "a", "c")]
    reads_in_flight._start_reads()
    async with asyncio.timeout(20):
        await reads_in_flight.close()
        found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in found] == [asyncio.CancelledError] * 4


async def test_read_asked_for_after_closing_is_cancelled() -> None:
    reads_in_flight: BatchedReads[str, str] = BatchedReads(_too_few, most_keys=2, most_reads=1)
    await reads_in_flight.close()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await reads_in_flight.ask("a")


class Scripted:
    """Commits that end as the script says, and then with as many results as there are commands."""

    def __init__(self, *ends: BaseException) -> None:
        self.ends = list(ends)

    async def apply(self, commands: Sequence[Command]) -> Applied:
        if self.ends:
            raise self.ends.pop(0)
        return cast("Applied", type("Done", (), {"results": [DONE] * len(commands)})())


CALLER = Caller(Scope("acme"))
DONE = NothingToDo(1)


def batcher(*ends: BaseException) -> Batcher:
    return Batcher(cast("Commits", Scripted(*ends)))


async def test_a_commit_that_cancels_itself_leaves_no_caller_waiting() -> None:
    """A library may do so when a result and a timeout race."""
    async with batcher(asyncio.CancelledError()) as writer, asyncio.timeout(20):
        with pytest.raises(StoreUnavailable):
            await writer.write(CALLER.create("s"))
        assert await writer.write(CALLER.create("s")) == DONE


@pytest.mark.parametrize("step", ["linger", "next_batch", "done"])
async def test_a_defect_in_any_step_of_a_batch_leaves_no_caller_waiting(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = getattr(Batching, step)
    left = [failing]

    def defective(*arguments: Any) -> Any:
        return (left.pop() if left else partial(whole))(*arguments)

    monkeypatch.setattr(Batching, step, defective)
    async with batcher() as writer, asyncio.timeout(20):
        first, second = (
            asyncio.gather(writer.write(CALLER.create("s")), writer.write(CALLER.create("t")), return_exceptions=True),
            writer.write(CALLER.create("u")),
        )
        assert {type(each) for each in await first} == {StoreUnavailable}
        assert await second == DONE
    assert "a defect" in caplog.text


async def test_results_that_do_not_fit_the_batch_are_an_error() -> None:
    async def apply(commands: Sequence[Command]) -> Any:
        return type("Done", (), {"results": []})()

    commits = type("Empty", (), {"apply": staticmethod(apply)})()
    async with Batcher(cast("Commits", commits)) as writer, asyncio.timeout(20):
        with pytest.raises(RuntimeError, match="0 results for 1 commands"):
            await writer.write(CALLER.create("s"))
