"""Reads that many callers share: which calls share a read, and which do not."""

import asyncio
from collections.abc import Sequence

import pytest

from sessiond_server.store.cached.batched_reads import BatchedReads


class Reads:
    """A read under the test's control."""

    def __init__(self) -> None:
        self.keys: list[list[str]] = []
        """Of each flight, as they left."""
        self._gates: list[asyncio.Future[None]] = []

    async def __call__(self, keys: Sequence[str]) -> Sequence[str | Exception]:
        number = len(self.keys)
        self.keys.append(list(keys))
        self._gates.append(asyncio.get_running_loop().create_future())
        await self._gates[number]
        return [KeyError(key) if key == "missing" else f"{key}{number}" for key in keys]

    def land(self, number: int, error: Exception | None = None) -> None:
        if error is None:
            self._gates[number].set_result(None)
        else:
            self._gates[number].set_exception(error)


@pytest.fixture
def reads() -> Reads:
    return Reads()


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_requests_of_one_turn_share_one_read_and_each_key_is_read_once(reads: Reads) -> None:
    reads_in_flight: BatchedReads[str, str] = BatchedReads(reads, most_keys=10, most_reads=1)
    answers = [reads_in_flight.ask(key) for key in ("a", "b", "a", "missing")]
    await turn()
    assert reads.keys == [["a", "b", "missing"]]
    reads.land(0)
    assert await asyncio.gather(*answers[:3]) == ["a0", "b0", "a0"]
    assert isinstance(await answers[3], KeyError)


async def test_caller_does_not_join_a_read_that_has_been_issued(reads: Reads) -> None:
    """The read may be older than the caller's own write. Later callers share the next read."""
    reads_in_flight: BatchedReads[str, str] = BatchedReads(reads, most_keys=10, most_reads=1)
    first = reads_in_flight.ask("a")
    await turn()
    late = [reads_in_flight.ask("a"), reads_in_flight.ask("a"), reads_in_flight.ask("b")]
    await turn()
    assert reads.keys == [["a"]]
    reads.land(0)
    assert await first == "a0"
    await turn()
    assert reads.keys == [["a"], ["a", "b"]]
    reads.land(1)
    assert await asyncio.gather(*late) == ["a1", "a1", "b1"]


async def test_number_of_keys_and_of_reads_in_flight_is_bounded(reads: Reads) -> None:
    reads_in_flight: BatchedReads[str, str] = BatchedReads(reads, most_keys=2, most_reads=2)
    answers = [reads_in_flight.ask(key) for key in "abcdefg"]
    await turn()
    assert reads.keys == [["a", "b"], ["c", "d"]]
    reads.land(1)
    await turn()
    assert reads.keys == [["a", "b"], ["c", "d"], ["e", "f"]]
    reads.land(0)
    await turn()
    assert reads.keys[3:] == [["g"]]
    reads.land(2)
    reads.land(3)
    assert await asyncio.gather(*answers) == ["a0", "b0", "c1", "d1", "e2", "f2", "g3"]


async def test_cancelled_caller_does_not_cancel_the_others(reads: Reads) -> None:
    reads_in_flight: BatchedReads[str, str] = BatchedReads(reads, most_keys=10, most_reads=1)
    leaver, stayer = reads_in_flight.ask("a"), reads_in_flight.ask("a")
    await turn()
    leaver.cancel()
    reads.land(0)
    assert await stayer == "a0"


async def test_key_without_waiting_callers_is_not_read(reads: Reads) -> None:
    reads_in_flight: BatchedReads[str, str] = BatchedReads(reads, most_keys=10, most_reads=1)
    reads_in_flight.ask("a").cancel()
    kept = reads_in_flight.ask("b")
    await turn()
    assert reads.keys == [["b"]]
    reads.land(0)
    assert await kept == "b0"


async def test_failed_read_raises_in_its_own_callers_only(reads: Reads) -> None:
    reads_in_flight: BatchedReads[str, str] = BatchedReads(reads, most_keys=1, most_reads=2)
    broken, whole = reads_in_flight.ask("a"), reads_in_flight.ask("b")
    await turn()
    error = OSError("away")
    reads.land(0, error)
    reads.land(1)
    assert await broken is error
    assert await whole == "b1"


async def test_close_cancels_waiting_callers_and_reads_in_flight(reads: Reads) -> None:
    reads_in_flight: BatchedReads[str, str] = BatchedReads(reads, most_keys=1, most_reads=1)
    away, waiting = reads_in_flight.ask("a"), reads_in_flight.ask("b")
    await turn()
    await reads_in_flight.close()
    assert away.cancelled()
    assert waiting.cancelled()
    assert reads.keys == [["a"]]
