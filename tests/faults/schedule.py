"""Which faults a campaign does, in which order, with which pauses: all from a seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product

from tests.faults.silence import LONGEST, SILENCES, lasting
from tests.faults.site import LINKS, REPLICAS

REDIS = ("kill", "flush", "freeze")
RESTARTS = ("fast", "immediate")
FAILOVERS = ("synchronous", "asynchronous")
RESTORES = ("dump", "log")
"""From a dump into a younger cluster; from a base backup and the log behind it, to an earlier point."""
HURTS = ("cut", "stall", "slice")
OVERLAPPING = 0.2
"""Share of the faults that last on while others begin."""
ALONE = ("restarts", "failovers", "restores")
"""Never under way while another fault begins."""
FAILPOINTS = (
    "before_commit=exit:0.02",
    "before_commit=sleep:0.3:0.05",
    "after_commit=exit:0.02",
    "after_commit=sleep:0.3:0.05",
    "before_announce=exit:0.02",
    "before_announce=drop:0.5",
    "before_announce=sleep:0.05:0.1",
    "before_cache=exit:0.02",
    "before_cache=drop:0.5",
    "before_cache=sleep:0.05:0.1",
    "before_hint=exit:0.02",
    "before_hint=drop",
    "before_hint=sleep:0.05:0.1",
    "before_read=exit:0.02",
    "before_read=sleep:0.3:0.2",
    "before_deliver=exit:0.002",
    "before_deliver=sleep:0.1:0.05",
)


@dataclass(frozen=True, slots=True)
class Mix:
    """How many of each."""

    kills: int = 0
    drains: int = 0
    redis: int = 0
    restarts: int = 0
    failovers: int = 0
    failpoints: int = 0
    proxy: int = 0
    """Of each hurt on each link: nine times as many faults."""
    silences: int = 0
    restores: int = 0

    @classmethod
    def of(cls, kind: str, n: int) -> "Mix":
        """`all`: n kills and the rest in proportion, at least one of each and both failovers; else n of the kind."""
        if kind != "all":
            return cls(**{kind: n})
        return cls(
            kills=n,
            drains=-(-n // 10),
            redis=-(-n * 3 // 10),
            restarts=-(-n // 5),
            failovers=max(2, -(-n // 10)),
            failpoints=-(-n // 5),
            proxy=-(-n // 10),
        )


KINDS = tuple(field.name for field in fields(Mix))


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    """A field of Mix."""
    how: str
    target: str
    """A replica's number, or a link."""
    seconds: float
    """How long it lasts, where it lasts."""
    pause: float
    """0 to 1: how long the pause before it is, within the campaign's bounds."""
    overlaps: bool
    """The next one does not wait for its end."""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.how, self.target)))


def schedule(mix: Mix, seed: int, longest: float = LONGEST) -> Sequence[Fault]:
    """The same for the same arguments. Failovers take turns, the synchronous one first. `longest`: seconds that a
    silence lasts at most."""
    chance = random.Random(seed)
    faults = [(kind, how, target) for kind, how, target in _faults(mix, chance)]
    chance.shuffle(faults)
    turns = iter([FAILOVERS[number % 2] for number in range(mix.failovers)])
    return [
        Fault(
            kind,
            next(turns) if kind == "failovers" else how,
            target,
            lasting(chance, longest) if kind == "silences" else _lasting(kind, how, chance),
            pause=chance.random(),
            # Postgres comes and goes one way at a time.
            overlaps=kind not in ("restarts", "failovers", "restores")
            and how != "hang"
            and chance.random() < OVERLAPPING,
        )
        for kind, how, target in faults
    ]


def _faults(mix: Mix, chance: random.Random) -> Sequence[tuple[str, str, str]]:
    def replica() -> str:
        return str(chance.randrange(REPLICAS))

    failpoints = chance.sample(FAILPOINTS, len(FAILPOINTS))
    return [
        *(("kills", "", replica()) for _ in range(mix.kills)),
        *(("drains", "", str(number % REPLICAS)) for number in range(mix.drains)),
        *(("redis", REDIS[number % len(REDIS)], "") for number in range(mix.redis)),
        *(("restarts", RESTARTS[number % len(RESTARTS)], "") for number in range(mix.restarts)),
        *(("failovers", "", "") for _ in range(mix.failovers)),
        *(("failpoints", failpoints[number % len(failpoints)], replica()) for number in range(mix.failpoints)),
        *(("proxy", how, link) for _ in range(mix.proxy) for how, link in product(HURTS, LINKS)),
        *(("restores", RESTORES[number % len(RESTORES)], "") for number in range(mix.restores)),
        *(("silences", *SILENCES[number % len(SILENCES)]) for number in range(mix.silences)),
    ]


def _lasting(kind: str, how: str, chance: random.Random) -> float:
    """Seconds."""
    bounds: Mapping[str, tuple[float, float]] = {
        "redis kill": (0.0, 2.0),
        "redis freeze": (0.5, 3.0),
        "proxy stall": (0.5, 4.0),
        "proxy slice": (1.0, 2.0),
    }
    if kind == "failpoints":
        return chance.uniform(2.0, 3.5)
    return chance.uniform(*bounds.get(f"{kind} {how}", (0.0, 0.0)))
