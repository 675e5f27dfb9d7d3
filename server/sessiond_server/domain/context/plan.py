"""Chooses which units of a conversation go to the model.

The newest ones that fit, from a place on where providers let a conversation begin. The place moves in steps: of all the
places in the oldest quarter of what fits, the one whose rank is highest. The rank of a place is that of the highest bit
in which its `seq` differs from that of the place before it, so ranks depend on the log alone, and high ranks are far
apart. As messages are appended, a place is given up only when it no longer fits or when one of a higher rank comes into
that quarter, so the beginning stays the same, byte for byte, for most of the turns. Where what fits takes less than
half of the budget, because a long turn is in front of it, that turn's user's message and its newest part come first; or
if a single unit is too long, all of what fits is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sessiond_server.domain.context.conversation import Unit

STEP: Final = 4
"""The place of the beginning is chosen within one STEP-th of the budget."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a context may hold, fixed parts aside."""

    tokens: int
    messages: int
    size: int
    """Bytes."""

    def less(self, unit: Unit) -> "Budget":
        return Budget(self.tokens - unit.tokens, self.messages - len(unit.messages), self.size - unit.size)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What goes to the model: perhaps the beginning of a turn whose next units do not fit, and the newest units."""

    first: Unit | None
    """The user's message that began the turn in the middle of which the others begin; None if they begin one."""
    units: Sequence[Unit]


@dataclass(frozen=True, slots=True)
class TooSmall:
    """Not even the least that a model can be given fits."""

    tokens: int = 0
    messages: int = 0
    """What is needed, fixed parts aside."""

    @classmethod
    def of(cls, *units: Unit) -> "TooSmall":
        return cls(sum(unit.tokens for unit in units), sum(len(unit.messages) for unit in units))


def choose(units: Sequence[Unit], budget: Budget, turn: Unit | None, *, complete: bool) -> Chosen | TooSmall:
    """What goes to the model of these units, which are the newest of the log, oldest first.

    `complete`: these are all that there are, from the beginning or behind the summary. `turn`: the last user unit in
    front of `units`, which a summary may cover; None if there is none. Where `needs_turn` is false it is not used. Of
    units that exceed the budget, the answer does not depend on how many more there are.
    """
    if min(budget.tokens, budget.messages, budget.size) < 0:
        return TooSmall()
    if not units:
        return Chosen(None, ())
    fits = fitting(units, budget)
    if complete and not fits:
        if units[0].begins:
            return Chosen(None, units)
        if turn is not None and not fitting(units, budget.less(turn)):
            return Chosen(turn, units)
    begins = [place for place, unit in enumerate(units) if unit.begins]
    places = [place for place in begins if place >= fits]
    if not places:
        opening = units[begins[-1]] if begins else turn
        if opening is None:
            return Chosen(None, ())  # whom a model could answer has not spoken yet
        within = units[begins[-1] + 1 :] if begins else units
        end = len(within)
        return _newest_of_turn(opening, within, end, budget) or TooSmall.of(opening, *within[-1:])
    before = [place for place in begins if place < places[0]]
    earlier = units[before[-1]] if before else turn
    if earlier is not None and _sparse(units[places[0] :], budget):
        # As after a long turn of an agent, of which the newest part is worth more than free room.
        origin = before[-1] + 1 if before else 0
        partly = _newest_of_turn(earlier, units[origin:], places[0] - origin, budget)
        return partly or Chosen(None, units[places[0] :])
    return Chosen(None, units[_step(units, places, budget, earlier) :])


def _newest_of_turn(opening: Unit, within: Sequence[Unit], end: int, budget: Budget) -> Chosen | None:
    """The user's message that began a turn, and from a place in front of `end` on what followed it; None if no such
    place fits."""
    left = budget.less(opening)
    fits = fitting(within, left)
    if fits >= end:
        return None
    fits = min(max(fits, 1), end - 1)
    return Chosen(opening, within[_step(within, range(fits, end), left, within[max(fits - 1, 0)]) :])


def _sparse(units: Sequence[Unit], budget: Budget) -> bool:
    """Whether the units take less than half of the budget."""
    return not fitting(units, Budget(budget.tokens // 2, budget.messages // 2, budget.size // 2))


def needs_turn(units: Sequence[Unit], budget: Budget, *, complete: bool) -> bool:
    """Whether `choose` needs the last user unit in front of these units: none of those that do not fit is one."""
    fits = fitting(units, budget)
    if not units or (complete and not fits and units[0].begins):
        return False
    return not any(unit.begins for unit in units[:fits])


def fitting(units: Sequence[Unit], budget: Budget) -> int:
    """The first place from which on all units fit together."""
    tokens, messages, size = budget.tokens, budget.messages, budget.size
    for place in range(len(units) - 1, -1, -1):
        unit = units[place]
        tokens, messages, size = tokens - unit.tokens, messages - len(unit.messages), size - unit.size
        if tokens < 0 or messages < 0 or size < 0:
            return place + 1
    return 0


def _step(units: Sequence[Unit], places: Sequence[int], budget: Budget, earlier: Unit | None) -> int:
    """The one of the places, ascending and all fitting, from which on the units go to the model. `earlier`: the place
    before the first of them; None if nothing is left out in front of it."""
    best = places[0]
    if earlier is None or _sparse(units[best:], budget):
        return best
    rank = _rank(earlier.seq, units[best].seq)
    left = Budget(budget.tokens // STEP, budget.messages // STEP, budget.size // STEP)
    for before, place in pairwise(places):
        for unit in units[before:place]:
            left = left.less(unit)
        if min(left.tokens, left.messages, left.size) < 0:
            break
        if (higher := _rank(units[before].seq, units[place].seq)) > rank:
            best, rank = place, higher
    return best


def _rank(before: int, seq: int) -> int:
    """Of a place whose `seq` follows that of the place before it."""
    return (before ^ seq).bit_length()
