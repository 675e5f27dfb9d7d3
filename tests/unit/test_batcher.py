"""The asyncio driver of the batcher, over a store whose every answer the test decides."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import cast

import pytest

from sessiond_server.domain.commands import Command, MessagesAppended, Outcome, Result, Scope, TouchSession
from sessiond_server.domain.rows import Writes
from sessiond_server.errors import DeadlinePassed, Draining, QueueFull, SessionNotFound, StoreUnavailable
from sessiond_server.store.batcher import Batcher, BatcherState
from sessiond_server.store.batching import BUSY, Batching, BatchLimits, Ticket
from sessiond_server.store.commits import Applied
from sessiond_server.store.contract import Store

ONE_SHARD = BatchLimits(
    shards=1, queue_commands=4, batch_commands=8, outage=1000.0, backoff_first=0.0, backoff_most=0.0
)


class ScriptedStore:
    """Shows every batch to the test, and waits until the test answers it."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[tuple[list[str], asyncio.Future[Sequence[Result] | None]]] = asyncio.Queue()
        self.cancelled = 0

    async def apply(self, commands: Sequence[Command]) -> Applied:
        answer: asyncio.Future[Sequence[Result] | None] = asyncio.get_running_loop().create_future()
        self.batches.put_nowait(([command.request_id for command in commands], answer))
        try:
            results = await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if results is None:
            results = [appended(command.request_id) for command in commands]
        return Applied(results, Writes())

    async def next(self) -> tuple[list[str], asyncio.Future[Sequence[Result] | None]]:
        return await asyncio.wait_for(self.batches.get(), 10)


def appended(request_id: str) -> MessagesAppended:
    return MessagesAppended(1, 1, (request_id,), 0)


def command(request_id: str, session_id: str = "s") -> Command:
    return Command(Scope("t"), session_id, TouchSession(0), "local", request_id, size=10)


def batcher_over(store: ScriptedStore, limits: BatchLimits = ONE_SHARD) -> Batcher:
    return Batcher(cast(Store, store), limits)


async def turns(count: int = 5) -> None:
    """Lets every task that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_lone_command_is_sent_at_once_and_commands_queued_meanwhile_form_the_next_batch() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        first = asyncio.create_task(batcher.write(command("a")))
        names, answer = await store.next()
        assert names == ["a"]
        rest = [asyncio.create_task(batcher.write(command(name))) for name in "bcd"]
        await turns()
        assert batcher.queued() == (3, 30)
        assert store.batches.empty(), "one batch under way per shard"
        answer.set_result(None)
        names, answer = await store.next()
        assert names == ["b", "c", "d"]
        answer.set_result(None)
        assert await asyncio.gather(first, *rest) == [appended(name) for name in "abcd"]
        again = asyncio.create_task(batcher.write(command("e")))
        names, answer = await store.next()
        assert names == ["e"]
        answer.set_result(None)
        assert await again == appended("e")


def test_waits_for_the_first_transaction_and_the_age_of_the_oldest_write_are_measured() -> None:
    batching = Batching[str](replace(ONE_SHARD, batch_commands=2), Random(1))
    for at, name in enumerate("abc"):
        batching.submit(command(name), name, now=float(at))
    assert batching.oldest(4.0) == 4.0
    assert len(batching.next_batch(0, 5.0)[0]) == 2
    assert (batching.oldest(5.0), batching.waits.seconds) == (3.0, 5.0 + 4.0)
    batching.unknown(0, 6.0)
    assert len(batching.next_batch(0, 7.0)[0]) == 2
    assert batching.waits.seconds == 9.0, "a batch that is sent again has waited once"
    batching.done(0, [appended("a"), appended("b")], 8.0)
    assert len(batching.next_batch(0, 8.0)[0]) == 1
    assert (batching.oldest(8.0), batching.waits.seconds, sum(batching.waits.counts)) == (0.0, 9.0 + 6.0, 3)


def test_oldest_write_of_any_tenant_counts() -> None:
    batching = Batching[str](ONE_SHARD, Random(1))
    batching.submit(command("a"), "a", now=1.0)
    batching.submit(replace(command("b"), scope=Scope("u")), "b", now=3.0)
    assert batching.oldest(4.0) == 3.0
    batching.submit(replace(command("c"), scope=Scope("v")), "c", now=0.5)
    assert batching.oldest(4.0) == 3.5


async def test_state_shows_the_age_of_the_oldest_queued_write() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        first = asyncio.create_task(batcher.write(command("a")))
        _, answer = await store.next()
        assert batcher.state().oldest_seconds == 0.0
        second = asyncio.create_task(batcher.write(command("b")))
        await turns()
        seen = batcher.state().oldest_seconds
        await asyncio.sleep(0)
        assert 0.0 < seen < batcher.state().oldest_seconds
        answer.set_result(None)
        (await store.next())[1].set_result(None)
        await asyncio.gather(first, second)
        assert batcher.state().oldest_seconds == 0.0
        assert sum(batcher.waits.counts) == sum(batcher.batch_times.counts) == 2


async def test_a_refusal_is_raised_to_its_caller_alone() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        calls = [asyncio.create_task(batcher.write(command(name))) for name in "ab"]
        names, answer = await store.next()
        assert names == ["a", "b"]
        answer.set_result([SessionNotFound("s"), appended("b")])
        with pytest.raises(SessionNotFound):
            await calls[0]
        assert await calls[1] == appended("b")


async def test_command_that_breaks_its_batch_fails_alone() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        calls = [asyncio.create_task(batcher.write(command(name))) for name in ("a", "b", "poison", "c")]
        sent = []
        while not all(call.done() for call in calls):
            names, answer = await store.next()
            sent.append(names)
            if "poison" in names:
                answer.set_exception(ValueError("cannot take it"))
            else:
                answer.set_result(None)
            await turns()
        assert sent == [["a", "b", "poison", "c"], ["a", "b"], ["poison", "c"], ["poison"], ["c"]]
        with pytest.raises(ValueError, match="cannot take it"):
            await calls[2]
        assert [await calls[i] for i in (0, 1, 3)] == [appended(name) for name in "abc"]


async def test_wrong_number_of_results_fails_the_batch() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        call = asyncio.create_task(batcher.write(command("a")))
        _, answer = await store.next()
        answer.set_result([])
        with pytest.raises(RuntimeError, match="0 results for 1 commands"):
            await call


async def test_a_batch_of_unknown_outcome_is_sent_again_unchanged() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        calls = [asyncio.create_task(batcher.write(command(name))) for name in "ab"]
        _, answer = await store.next()
        answer.set_exception(StoreUnavailable())
        calls.append(asyncio.create_task(batcher.write(command("c"))))
        names, answer = await store.next()
        assert names == ["a", "b"]
        answer.set_result(None)
        names, answer = await store.next()
        assert names == ["c"]
        answer.set_result(None)
        assert await asyncio.gather(*calls) == [appended(name) for name in "abc"]
        assert batcher.state() == BatcherState(queued_commands=0, queued_bytes=0, batches=2, batched_commands=3)


async def test_callers_get_store_unavailable_after_the_outage_limit() -> None:
    store = ScriptedStore()
    limits = BatchLimits(shards=1, outage=0.0, backoff_first=0.001, backoff_most=0.001)
    async with batcher_over(store, limits) as batcher:
        calls = [asyncio.create_task(batcher.write(command(name))) for name in "ab"]
        _, answer = await store.next()
        answer.set_exception(StoreUnavailable())
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [StoreUnavailable, StoreUnavailable]
        assert errors[0] is not errors[1], "one traceback each"
        recovered = asyncio.create_task(batcher.write(command("c")))
        _, answer = await store.next()
        answer.set_result(None)
        assert await recovered == appended("c")


async def test_cancelled_caller_withdraws_only_its_unsent_command() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        sent = asyncio.create_task(batcher.write(command("sent")))
        _, answer = await store.next()
        queued = [asyncio.create_task(batcher.write(command(name))) for name in ("withdrawn", "kept")]
        await turns()
        sent.cancel()
        queued[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent
        with pytest.raises(asyncio.CancelledError):
            await queued[0]
        assert batcher.queued() == (1, 10)
        assert not answer.cancelled(), "the commit goes on without its caller"
        answer.set_result(None)
        names, answer = await store.next()
        assert names == ["kept"]
        answer.set_result(None)
        assert await queued[1] == appended("kept")
    assert store.cancelled == 0


async def test_a_full_queue_refuses_at_once() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        calls = [asyncio.create_task(batcher.write(command("a")))]
        _, answer = await store.next()
        calls += [asyncio.create_task(batcher.write(command(name))) for name in "bcde"]
        await turns()
        with pytest.raises(QueueFull) as refused:
            await batcher.write(command("f"))
        assert refused.value.retry_after is not None
        answer.set_result(None)
        _, answer = await store.next()
        answer.set_result(None)
        assert len(await asyncio.gather(*calls)) == 5


async def test_a_deadline_that_passes_in_the_queue_is_honoured_before_sending() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        loop = asyncio.get_running_loop()
        with pytest.raises(DeadlinePassed):
            await batcher.write(command("late"), deadline=loop.time() - 1)
        first = asyncio.create_task(batcher.write(command("a")))
        _, answer = await store.next()
        deadline = loop.time() + 0.001
        late = asyncio.create_task(batcher.write(command("b"), deadline=deadline))
        await turns()
        passed = loop.create_future()
        loop.call_at(deadline + 0.001, passed.set_result, None)
        await passed
        answer.set_result(None)
        with pytest.raises(DeadlinePassed):
            await late
        assert await first == appended("a")
        assert store.batches.empty()


async def test_sessions_of_different_shards_do_not_wait_for_each_other() -> None:
    store = ScriptedStore()
    async with batcher_over(store, BatchLimits(shards=2)) as batcher:
        first = asyncio.create_task(batcher.write(command("a", "s0")))
        _, stuck = await store.next()
        others: list[asyncio.Task[Outcome]] = []
        while store.batches.empty():
            others.append(asyncio.create_task(batcher.write(command("x", f"s{len(others)}"))))
            await turns()
        names, answer = await store.next()
        assert names == ["x"]
        answer.set_result(None)
        assert await others[-1] == appended("x")
        stuck.set_result(None)
        await first
        while not all(other.done() for other in others):
            _, answer = await store.next()
            answer.set_result(None)
            await turns()


async def test_close_flushes_what_is_queued_and_refuses_what_comes() -> None:
    store = ScriptedStore()
    batcher = batcher_over(store)
    calls = [asyncio.create_task(batcher.write(command("a")))]
    _, answer = await store.next()
    calls.append(asyncio.create_task(batcher.write(command("b"))))
    await turns()
    closing = asyncio.create_task(batcher.close())
    await turns()
    with pytest.raises(Draining):
        await batcher.write(command("c"))
    answer.set_result(None)
    names, answer = await store.next()
    assert names == ["b"]
    assert not closing.done()
    answer.set_result(None)
    await closing
    assert await asyncio.gather(*calls) == [appended("a"), appended("b")]
    await batcher.close()


async def test_close_is_bounded() -> None:
    store = ScriptedStore()
    batcher = batcher_over(store)
    sent = asyncio.create_task(batcher.write(command("sent")))
    await store.next()
    queued = asyncio.create_task(batcher.write(command("queued")))
    await turns()
    await batcher.close(timeout=0.001)
    with pytest.raises(StoreUnavailable):
        await sent
    with pytest.raises(Draining):
        await queued
    assert store.cancelled == 1
    assert {task for task in asyncio.all_tasks() if task.get_name().startswith("batcher-")} == set()


async def test_closing_an_idle_batcher_ends_its_tasks() -> None:
    store = ScriptedStore()
    batcher = batcher_over(store)
    call = asyncio.create_task(batcher.write(command("a")))
    _, answer = await store.next()
    answer.set_result(None)
    await call
    await turns()
    await batcher.close()
    assert {task for task in asyncio.all_tasks() if task.get_name().startswith("batcher-")} == set()


def test_busy_process_waits_for_more_commands_when_many_have_come() -> None:
    batching: Batching[int] = Batching(BatchLimits(queue_commands=99, batch_commands=64), Random(0))
    pauses = []
    for number in range(64):
        pauses.append(batching.linger(0, 1.0))
        batching.submit(command(f"r{number}"), number)
    assert pauses[:8] == [0.0] * 8, "a few callers would wait for each other"
    assert all(0 < pause <= batching.limits.linger_most for pause in pauses[8:])
    assert pauses[8:] == sorted(pauses[8:])
    assert batching.linger(0, 1.0) == 0.0, "no more fit into the batch"
    batching.next_batch(0, 0.0)
    batching.unknown(0, 0.0)
    batching.submit(command("more"), 64)
    assert batching.linger(0, 1.0) == 0.0, "it is sent again as it was"


def test_process_that_is_not_busy_sends_its_batch_without_delay() -> None:
    batching: Batching[int] = Batching(BatchLimits(), Random(0))
    for number in range(32):
        batching.submit(command(f"r{number}"), number)
    assert batching.linger(0, BUSY - 0.01) == 0.0
    assert batching.linger(0, BUSY) > 0.0
    batching.close()
    assert batching.linger(0, 1.0) == 0.0


async def test_batch_without_an_answer_is_seen_by_health_and_metrics() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        assert (batcher.stalled(), batcher.state().under_way) == (0.0, 0)
        calls = [asyncio.create_task(batcher.write(command(name))) for name in "ab"]
        _, answer = await store.next()
        assert batcher.state().under_way == 2
        await asyncio.sleep(0.01)
        before = batcher.stalled()
        assert before > 0
        answer.set_exception(StoreUnavailable())
        _, answer = await store.next()
        assert batcher.stalled() > before, "another try is no answer"
        answer.set_result(None)
        await asyncio.gather(*calls)
        assert (batcher.stalled(), batcher.state().under_way) == (0.0, 0)


async def test_batch_that_is_too_much_is_halved_and_its_last_command_refused() -> None:
    store = ScriptedStore()
    async with batcher_over(store) as batcher:
        calls = [asyncio.create_task(batcher.write(command(name))) for name in "ab"]
        _, answer = await store.next()
        answer.set_exception(StoreUnavailable(True))
        names, answer = await store.next()
        assert names == ["a"]
        answer.set_exception(StoreUnavailable(True))
        names, answer = await store.next()
        assert names == ["b"]
        answer.set_result(None)
        refused, taken = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(refused, StoreUnavailable)
        assert taken == appended("b")


async def test_writes_do_not_wait_for_a_store_that_has_been_away_for_longer_than_an_outage() -> None:
    store = ScriptedStore()
    limits = BatchLimits(shards=1, outage=0.0, backoff_first=0.001, backoff_most=0.001)
    async with batcher_over(store, limits) as batcher:
        first = asyncio.create_task(batcher.write(command("a")))
        _, answer = await store.next()
        queued = asyncio.create_task(batcher.write(command("b")))
        await turns()
        answer.set_exception(StoreUnavailable())
        for call in (first, queued):
            with pytest.raises(StoreUnavailable):
                await call
        probe = asyncio.create_task(batcher.write(command("c")))
        names, answer = await store.next()
        assert names == ["c"], "one finds out whether it is back"
        with pytest.raises(StoreUnavailable):
            await batcher.write(command("d"))
        answer.set_result(None)
        await probe
        last = asyncio.create_task(batcher.write(command("e")))
        _, answer = await store.next()
        answer.set_result(None)
        await last


async def test_halving_ends_in_time_when_each_half_takes_as_long_as_the_whole() -> None:
    """As where each waits for a lock of another program."""
    limits = BatchLimits(batch_commands=64, halving=3.0)
    batching: Batching[str] = Batching(limits, Random(1))
    for number in range(64):
        batching.submit(command(f"r{number}"), f"r{number}")
    now, sent = 0.0, 0
    answers: list[tuple[Ticket[str], object]] = []
    while batching.next_batch(0, now)[0]:
        sent += 1
        now += 2.0
        answers += batching.failed(0, StoreUnavailable(divisible=True), now)
    assert sent == 2
    assert sorted(ticket.waiter for ticket, _ in answers) == sorted(f"r{number}" for number in range(64))
    # The next batch is halved again: what held up the one before may be gone.
    batching.submit(command("a"), "a")
    batching.submit(command("b"), "b")
    batching.next_batch(0, now)
    assert not batching.failed(0, StoreUnavailable(divisible=True), now + 2.0)
