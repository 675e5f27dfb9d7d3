"""Named places between a decision and its delivery where tests make the server die, wait or leave out a step.

    SESSIOND_FAILPOINTS="after_commit=exit:0.01,before_deliver=sleep:0.2:0.5,before_hint=drop:0.3"

Each place has one action: `exit:PROBABILITY` kills the process as SIGKILL does, `sleep:SECONDS[:PROBABILITY]` waits,
`drop[:PROBABILITY]` leaves out the step that follows; probabilities are 1 unless given. Off, which is always but in
tests of the service itself, a place costs one look at `armed`. Call sites are single conditions:

    if failpoints.armed and await failpoints.reach("before_read"): ...     # True: leave the step out
    if failpoints.armed and failpoints.hit("before_hint"): ...             # where nothing may await; sleeping blocks
"""

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from random import Random
from typing import Final

DROPPABLE: Final = frozenset({"before_announce", "before_cache", "before_hint"})
"""Where leaving the step out is a fault that the service must bear: what follows is only ever a help."""

PLACES: Final = frozenset({"before_commit", "after_commit", "before_read", "before_deliver"}) | DROPPABLE
"""
before_commit    everything is written, the commit is not sent yet
after_commit     the commit is acknowledged to us, and nobody else knows
before_announce  the hub of this process does not know yet
before_cache     the cache does not know yet
before_hint      the other replicas do not know yet
before_read      the hub is about to read what has been committed
before_deliver   a frame is about to be written to a watcher
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a place."""

    action: str
    probability: float = 1.0
    seconds: float = 0.0
    """To sleep."""


armed: dict[str, Fault] = {}
"""By place. Empty unless `arm` was called. The process's: a fault of a process is nobody's in particular."""

_random = Random()


def parse(text: str) -> dict[str, Fault]:
    """What SESSIOND_FAILPOINTS says. Raises ValueError with the rule."""
    faults = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        place, _, words = item.partition("=")
        if place not in PLACES:
            raise ValueError(f"must name places of {', '.join(sorted(PLACES))}")
        faults[place] = _fault(place, words.split(":"))
    return faults


def arm(text: str, random: Random | None = None) -> None:
    """From now on the process suffers what `text` says; "": nothing. Raises ValueError."""
    global _random
    faults = parse(text)
    _random = random or Random()
    armed.clear()
    armed.update(faults)


async def reach(place: str) -> bool:
    """Suffers what is armed at the place. True: the step that follows is to be left out."""
    fault = _due(place)
    if fault is not None and fault.action == "sleep":
        await asyncio.sleep(fault.seconds)
    return fault is not None and fault.action == "drop"


def hit(place: str) -> bool:
    """As `reach`, where nothing may await: a sleep holds up the whole process."""
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
