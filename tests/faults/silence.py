"""Silence: links that lose everything without a reset, processes that stand still, rows and tables that others lock,
commits that hang. What each is, how it is done, and how long writers felt it."""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.faults.site import PROXIED, REPLICAS, Site

LINKS = ("postgres", "redis", "storage", "client")
WAYS = ("both", "onward", "back")

SILENCES: Sequence[tuple[str, str]] = (
    ("hush both", "postgres"),
    ("lock", "row"),
    ("stop", "replica"),
    ("hole both", "storage"),
    ("hush back", "client"),
    ("stop", "backend"),
    ("hole both", "postgres"),
    ("lock", "table"),
    ("hang", "commits"),
    ("hole onward", "redis"),
    ("hush onward", "postgres"),
    ("crawl", "postgres"),
    ("hole back", "client"),
    ("hush both", "storage"),
    ("stop", "replica"),
    ("hush back", "postgres"),
    ("hole both", "redis"),
    ("hole onward", "postgres"),
    ("hush onward", "storage"),
    ("hole both", "client"),
)
"""(how, what), by turns. `hush`: the present connections lose what they carry, in this direction, and new ones work;
`hole`: new ones too; `crawl`: a byte a second; `stop`: SIGSTOP; `lock`: by a foreign transaction; `hang`: commits wait
for a synchronous standby that is silent, as they would for a disk."""

SHORTEST, LONGEST = 5.0, 120.0
TABLES = ("events", "session_heads", "requests", "sessions")
MODES = ("exclusive", "access exclusive")
"""Of locks on tables: the second keeps readers out, too."""
PROMISED = 15.0
"""Seconds that the service may take to go on after silence."""


def lasting(chance: random.Random, longest: float) -> float:
    """Seconds: mostly a few, now and then nearly `longest`."""
    seconds: float = SHORTEST * (longest / SHORTEST) ** (chance.random() ** 3)
    return seconds


@dataclass(frozen=True, slots=True)
class Span:
    """When something was so that no service could have gone on with it."""

    began: float
    ended: float
    session_id: str | None = None
    """The session that it is about; None: all."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A write that took its time: tried from `began` on, acknowledged at `ended`."""

    session_id: str
    began: float
    ended: float


def longest_outage(waits: Iterable[Wait], spans: Sequence[Span]) -> float:
    """Seconds that a writer waited at most, without the time in which it could not but wait."""
    return max((_felt(wait, spans) for wait in waits), default=0.0)


def _felt(wait: Wait, spans: Sequence[Span]) -> float:
    felt, at = 0.0, wait.began
    for span in sorted(spans, key=lambda span: span.began):
        if span.session_id in (None, wait.session_id) and span.ended > at and span.began < wait.ended:
            felt = max(felt, span.began - at)
            at = span.ended
    return max(felt, wait.ended - at)


def possible(at: float, spans: Sequence[tuple[float, float]]) -> float:
    """When what began then could be over: behind those of the spans (began, ended), in order, that it met."""
    for began, ended in spans:
        if began < at + PROMISED and ended > at:
            at = ended
    return at


class Silences:
    """Does them to a site, and notes when writers could not but wait."""

    def __init__(self, site: Site, sessions: Sequence[str], chance: random.Random, clock: Callable[[], float]) -> None:
        self.spans: list[Span] = []
        self._site = site
        self._sessions = sessions
        self._chance = chance
        self._clock = clock

    async def suffer(self, how: str, target: str, seconds: float) -> None:
        """Returns when it is over."""
        if how == "lock":
            await self._lock(target, seconds)
        elif how == "hang":
            with self._span():
                await self._site.pair.hang(seconds)
        elif how == "stop":
            await (self._stop_replica(seconds) if target == "replica" else self._stop_backend(seconds))
        else:
            way, _, direction = how.partition(" ")
            await self._site.silence(target, way, direction, seconds)

    async def _lock(self, what: str, seconds: float) -> None:
        session_id = self._chance.choice(self._sessions) if what == "row" else None
        async with self._site.pair.primary.connected() as connection, connection.transaction():
            await connection.execute("set local application_name = 'a foreign job'")
            if session_id is not None:
                await connection.fetch("select from session_heads where session_id = $1 for update", session_id)
            else:
                table, mode = self._chance.choice(TABLES), self._chance.choice(MODES)
                await connection.execute(f"lock table {table} in {mode} mode")
            with self._span(session_id):
                await asyncio.sleep(seconds)

    async def _stop_replica(self, seconds: float) -> None:
        await self._site.pause(self._chance.choice([one for one in range(REPLICAS) if one != PROXIED]), seconds)

    async def _stop_backend(self, seconds: float) -> None:
        """No other transaction can take its locks meanwhile."""
        async with self._site.pair.primary.connected() as connection:
            rows = await connection.fetch("select pid from pg_stat_activity where application_name = 'sessiond'")
        pid = self._chance.choice([row["pid"] for row in rows])
        try:
            with self._span():
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def _span(self, session_id: str | None = None) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            self.spans.append(Span(began, self._clock(), session_id))
