"""Limits the rate at which unauthenticated calls are refused, so that refusals cannot take the CPU from other calls."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

log = logging.getLogger("sessiond.rpc")

RATE: Final = 50.0
"""Refusals per second, after BURST at once. This also limits how fast keys can be guessed."""
BURST: Final = 100.0
MOST_HELD: Final = 2048
"""Most calls that wait for their refusal; more are refused at once. Their requests are not read, so each holds at most
LOOKAHEAD bytes (rpc/server.py)."""
REPORT_EVERY: Final = 10.0
"""Seconds between two log records about refusals."""


class Refusals:
    """Limits the rate of refusals of calls without a valid key, or of an unknown method. Belongs to one event loop."""

    def __init__(self, *, rate: float = RATE, burst: float = BURST, most_held: int = MOST_HELD) -> None:
        self._rate = rate
        self._burst = self._credit = burst
        self._most_held = most_held
        self._counted_at = 0.0
        self._held: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._drained = False
        self.count = 0
        """Number of refusals so far."""
        self._reported = 0
        self._report_due: asyncio.TimerHandle | None = None

    async def turn(self, peer: Callable[[], str]) -> None:
        """Waits until a call may be refused; `peer` returns its caller's address. Cancelling it gives the turn up."""
        self.note(peer)
        loop = asyncio.get_running_loop()
        self._count_credit(loop.time())
        if self._drained or len(self._held) >= self._most_held:
            return
        if self._credit >= 1 and not self._held:
            self._credit -= 1
            return
        turn = loop.create_future()
        self._held.append(turn)
        self._wake(loop)
        await turn

    def note(self, peer: Callable[[], str]) -> None:
        """Counts a refusal for the log. Only for one that happens elsewhere: `turn` does it."""
        self.count += 1
        if self._report_due is None and not self._drained:
            self._report_due = asyncio.get_running_loop().call_later(REPORT_EVERY, self._report, peer())

    def drain(self) -> None:
        """Lets all waiting calls be refused at once, and delays no more."""
        self._drained = True
        if self._report_due is not None:
            self._report_due.cancel()
        while self._held:
            _let_go(self._held.popleft())

    def _count_credit(self, now: float) -> None:
        self._credit = min(self._burst, self._credit + (now - self._counted_at) * self._rate)
        self._counted_at = now

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None:
            self._timer = loop.call_later(max(0.0, 1 - self._credit) / self._rate, self._let_go_next)

    def _let_go_next(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        self._count_credit(loop.time())
        while self._held and self._credit >= 1:
            # A call whose caller has disconnected takes no credit.
            self._credit -= _let_go(self._held.popleft())
        if self._held:
            self._wake(loop)

    def _report(self, peer: str) -> None:
        self._report_due = None
        fresh, self._reported = self.count - self._reported, self.count
        log.warning("%d calls without a valid key or a known method were refused; one of them from %s", fresh, peer)


def _let_go(turn: "asyncio.Future[None]") -> bool:
    if turn.done():
        return False
    turn.set_result(None)
    return True
