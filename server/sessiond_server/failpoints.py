"""Fault injection: named places between a decision and its delivery where tests kill, delay or skip.

    SESSIOND_FAILPOINTS="after_commit=exit:0.01,before_deliver=sleep:0.2:0.5,before_hint=drop:0.3"

Each place has one action: `exit:PROBABILITY` kills the process as SIGKILL does, `sleep:SECONDS[:PROBABILITY]` waits,
`drop[:PROBABILITY]` skips the following step; the default probability is 1. Unless armed, which happens only in tests
of the service itself, a place costs one check of `armed`. Call sites are single conditions:

    if failpoints.armed and await failpoints.reach("before_read"): ...     # True: skip the step
    if failpoints.armed and failpoints.hit("before_hint"): ...             # in synchronous code; sleeping blocks
"""

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from random import Random
from typing import Final

DROPPABLE: Final = frozenset({"before_announce", "before_cache", "before_hint"})
"""Places where the service must tolerate that the following step is skipped: the step only speeds things up."""

MOVES: Final = frozenset({
    "move_copying", "move_shut", "move_subscribed", "move_closing", "move_switching", "move_fenced", "move_opening",
    "move_opened", "move_removing", "move_removed", "move_aborting",
})  # fmt: skip
"""Places in the process that moves a tenant to another database. Those named as a step: it is recorded, and has not
begun."""

INDEXING: Final = frozenset({"indexed"})
"""Places in the process that keeps the index of searches."""

ERASING: Final = frozenset({"erasing", "retiring"})
"""Places in the process that carries out an erasure, or removes what a tenant keeps no longer."""

PLACES: Final = frozenset({"before_commit", "after_commit", "before_read", "before_deliver"}) | DROPPABLE
"""
before_commit    everything is written, the commit is not sent yet
after_commit     the commit is acknowledged to us, and nothing has been announced yet
before_announce  the hub of this process does not know yet
before_cache     the cache does not know yet
before_hint      the other replicas do not know yet
before_read      the hub is about to read what has been committed
before_deliver   a frame is about to be written to a watcher
indexed          a part of a feed is in the index, the commit is not sent yet
erasing          sessions of an erasure are deleted, and not counted yet
retiring         an ended session is about to be removed
move_shut        the new home refuses writes of the tenant, and nothing is replicated
move_subscribed  the replication has begun
move_fenced      the old home refuses writes, and the new one does not take them yet
move_opened      the new home takes writes, and the map does not say so yet
move_removed     some of the old rows are removed
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault to inject at a place."""

    action: str
    probability: float = 1.0
    seconds: float = 0.0
    """Duration of a sleep."""


armed: dict[str, Fault] = {}
"""Place -> fault. Empty unless `arm` was called. Module state, because a fault concerns the whole process."""

_random = Random()


def parse(text: str) -> dict[str, Fault]:
    """Parses SESSIOND_FAILPOINTS. Raises ValueError with the rule."""
    faults = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        place, _, words = item.partition("=")
        if place not in PLACES | MOVES | INDEXING | ERASING:
            raise ValueError(f"must name places of {', '.join(sorted(PLACES | MOVES | INDEXING | ERASING))}")
        faults[place] = _fault(place, words.split(":"))
    return faults


def arm(text: str, random: Random | None = None) -> None:
    """Injects the faults that `text` describes from now on; "": none. Raises ValueError."""
    global _random
    faults = parse(text)
    _random = random or Random()
    armed.clear()
    armed.update(faults)


async def reach(place: str) -> bool:
    """Injects the fault that is armed at the place. True: the caller must skip the following step."""
    fault = _due(place)
    if fault is not None and fault.action == "sleep":
        await asyncio.sleep(fault.seconds)
    return fault is not None and fault.action == "drop"


def hit(place: str) -> bool:
    """As `reach`, for synchronous code: a sleep blocks the whole process."""
    fault = _due(place)
    if fault is not None and fault.action == "sleep":
        time.sleep(fault.seconds)
    return fault is not None and fault.action == "drop"


def _due(place: str) -> Fault | None:
    fault = armed.get(place)
    if fault is None or _random.random() >= fault.probability:
        return None
    if fault.action == "exit":
        os.kill(os.getpid(), signal.SIGKILL)
    return fault


def _fault(place: str, words: list[str]) -> Fault:
    action, numbers = words[0], [float(word) for word in words[1:]]
    if action == "exit" and len(numbers) == 1:
        fault = Fault(action, numbers[0])
    elif action == "sleep" and 1 <= len(numbers) <= 2:
        fault = Fault(action, numbers[1] if numbers[1:] else 1.0, numbers[0])
    elif action == "drop" and len(numbers) <= 1 and place in DROPPABLE:
        fault = Fault(action, *numbers)
    else:
        raise ValueError(
            "must be PLACE=exit:PROBABILITY, PLACE=sleep:SECONDS[:PROBABILITY] or, "
            f"for {', '.join(sorted(DROPPABLE))}, PLACE=drop[:PROBABILITY]"
        )
    if not (0 < fault.probability <= 1 and 0 <= fault.seconds <= 60):
        raise ValueError("probabilities must be above 0 and at most 1, seconds from 0 to 60")
    return fault
