"""What optimistic writes believe: the estimate of the database's time, and the heads that are kept."""

from dataclasses import dataclass

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.rows import Head, HeadRow, Key, Writes
from sessiond_server.postgres.database_clock import DRIFT, DatabaseClock
from sessiond_server.postgres.kept_heads import KeptHeads

DAY_US = 86_400_000_000


@dataclass
class Clocks:
    """The clock of this process and that of the database, both in seconds."""

    own: float = 5.0
    database: float = 1_700_000_000.0

    def passes(self, seconds: float) -> None:
        self.own += seconds
        self.database += seconds

    def ask(self, clock: DatabaseClock, there: float = 0.0005, back: float = 0.0005) -> None:
        """Asks the database for its time: the question takes `there` seconds, the answer `back`."""
        asked = self.own
        self.passes(there)
        now_us = round(self.database * 1e6)
        self.passes(back)
        clock.note(asked, now_us)

    def error(self, clock: DatabaseClock) -> float:
        """Seconds that the estimate is ahead."""
        estimate = clock.now_us()
        assert estimate is not None
        return estimate / 1e6 - self.database


class TestDatabaseClock:
    def test_nothing_is_known_before_an_answer(self) -> None:
        assert DatabaseClock().now_us() is None

    def test_estimate_is_behind_by_the_way_of_the_fastest_answer(self) -> None:
        clocks = Clocks()
        clock = DatabaseClock(lambda: clocks.own)
        clocks.ask(clock, back=0.009)
        assert -0.0091 < clocks.error(clock) < -0.0089
        clocks.ask(clock, back=0.001)
        assert -0.0011 < clocks.error(clock) <= 0
        clocks.ask(clock, back=0.5)
        assert -0.0012 < clocks.error(clock) <= 0

    def test_estimate_that_is_in_doubt_is_not_given(self) -> None:
        """Slow questions bound the time from above, slow answers from below: two may be enough, or time may pass."""
        clocks = Clocks()
        clock = DatabaseClock(lambda: clocks.own)
        clocks.ask(clock, there=0.001, back=0.3)
        assert clock.now_us() is None
        clocks.ask(clock, there=0.3, back=0.001)
        assert -0.0012 < clocks.error(clock) <= 0
        clocks.passes(600.0)
        assert clock.now_us() is None

    def test_estimate_is_never_before_a_time_that_was_given(self) -> None:
        clocks = Clocks()
        clock = DatabaseClock(lambda: clocks.own)
        for back in (0.0, 0.3, 0.1, 0.0001, 2.0, 0.0, 0.001):
            clocks.ask(clock, back=0.0)
            given = round(clocks.database * 1e6)
            clocks.passes(0.001)
            clocks.ask(clock, back=back)
            estimate = clock.now_us()
            assert estimate is not None
            assert estimate >= given

    def test_database_that_is_set_forward_or_back_is_followed(self) -> None:
        clocks = Clocks()
        clock = DatabaseClock(lambda: clocks.own)
        clocks.ask(clock)
        for step in (3600.0, -7200.0, 0.004, -0.004):
            clocks.database += step
            clocks.ask(clock)
            assert -0.002 < clocks.error(clock) <= 0, step

    def test_own_clock_that_drifts_does_not_bring_the_estimate_ahead(self) -> None:
        clocks = Clocks()
        clock = DatabaseClock(lambda: clocks.own)
        clocks.ask(clock)
        clocks.passes(40.0)
        clocks.own += 40.0 * DRIFT
        assert clocks.error(clock) <= 0.0
        clocks.ask(clock)
        assert -0.002 < clocks.error(clock) <= 0


def _key(number: int) -> Key:
    return ("tenant", f"s{number}")


def _head(version: int = 1, size: int = 0, **more: object) -> Head:
    return Head(version, "", b"x" * size, b"", 0, **more)  # type: ignore[arg-type]


class TestKeptHeads:
    def test_those_used_last_stay(self) -> None:
        kept = KeptHeads(most_heads=3)
        for number in range(3):
            kept.keep(_key(number), _head(), None)
        assert kept.get(_key(0)) is not None
        kept.keep(_key(3), _head(), None)
        assert [number for number in range(4) if kept.get(_key(number)) is not None] == [0, 2, 3]

    def test_bytes_are_bounded(self) -> None:
        kept = KeptHeads(most_bytes=10_000)
        for number in range(100):
            kept.keep(_key(number % 7), _head(size=4000), None)
            assert len(kept) <= 2
        kept.keep(_key(9), _head(size=20_000), None)
        assert len(kept) == 0
        kept.keep(_key(9), _head(size=4000), None)
        assert len(kept) == 1

    def test_deleted_session_is_not_kept(self) -> None:
        kept = KeptHeads()
        kept.keep(_key(1), _head(), None)
        kept.learn(Writes(heads=[HeadRow(_key(1), _head(2, deleted=True), False, 0, None)]))
        assert kept.get(_key(1)) is None

    def test_lease_that_moves_is_followed(self) -> None:
        kept = KeptHeads()
        core = Session(version=3)
        core.expire_time.FromMicroseconds(2 * DAY_US)
        head = Head(3, "", core.SerializeToString(), b"", 0, lease_expire_us=DAY_US)
        kept.keep(_key(1), head, DAY_US)
        for lease, check in ((DAY_US + 5, DAY_US + 5), (3 * DAY_US, 2 * DAY_US)):
            kept.learn(Writes(leases=[(_key(1), lease), (_key(2), lease)]))
            found = kept.get(_key(1))
            assert found is not None
            assert (found.head.lease_expire_us, found.check_time_us) == (lease, check)
        assert len(kept) == 1

    def test_what_is_dropped_is_gone(self) -> None:
        kept = KeptHeads()
        for number in range(3):
            kept.keep(_key(number), _head(), None)
        kept.drop([_key(1), _key(7)])
        assert [number for number in range(3) if kept.get(_key(number)) is not None] == [0, 2]
        kept.clear()
        assert len(kept) == 0
