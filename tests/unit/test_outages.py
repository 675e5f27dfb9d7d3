"""How long `sessiond databases move` waits for databases that cannot be reached."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from sessiond_server.cli.move import PATIENCE, RETRY_SECONDS, Outage, persist
from sessiond_server.errors import StoreUnavailable


class Attempts:
    """Attempts that end as a script says, on a clock that it moves: (seconds, whether it connects, error)."""

    def __init__(self, *script: tuple[float, bool, Exception | None]) -> None:
        self.now = 1000.0
        self._script = list(script)

    async def attempt(self, outage: Outage) -> int:
        seconds, connects, error = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if connects:
            outage.over()
        self.now += seconds
        if error is not None:
            raise StoreUnavailable from error
        return 7

    async def pause(self, seconds: float) -> None:
        self.now += seconds

    def run(self) -> int:
        return asyncio.run(persist(self.attempt, self.clock, self.pause))

    @property
    def clock(self) -> Callable[[], float]:
        return lambda: self.now


AWAY = ConnectionRefusedError("refused")


def test_an_outage_counts_from_its_first_failure() -> None:
    copied_for_long = Attempts((10 * PATIENCE, True, AWAY), (1.0, False, AWAY), (1.0, True, None))
    assert copied_for_long.run() == 7


def test_each_outage_has_the_whole_patience() -> None:
    nearly = (PATIENCE - 10.0, False, AWAY)
    assert Attempts(nearly, nearly, (1.0, True, AWAY), nearly, (1.0, True, None)).run() == 7


def test_an_outage_that_lasts_ends_the_command() -> None:
    attempts = Attempts((5.0, False, AWAY))
    with pytest.raises(StoreUnavailable):
        attempts.run()
    assert PATIENCE < attempts.now - 1000.0 < PATIENCE + 2 * (5.0 + RETRY_SECONDS)


def test_a_lock_that_is_never_free_ends_the_command_though_each_attempt_connects() -> None:
    attempts = Attempts((63.0, True, asyncpg.LockNotAvailableError("canceling statement due to lock timeout")))
    with pytest.raises(StoreUnavailable):
        attempts.run()
    assert attempts.now - 1000.0 < PATIENCE + 3 * 63.0


def test_each_outage_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    away, back = (1.0, False, AWAY), (1.0, True, AWAY)
    assert Attempts(away, away, back, away, (1.0, True, None)).run() == 7
    assert capsys.readouterr().err == 2 * "waits for a database: refused\n"
