"""What rewinds have hidden of a session: ranges of its log (docs/decisions/0055-rewinds.md)."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sessiond.v1.session_pb2 import RewoundRange, Session

Ranges = tuple[tuple[int, int], ...]
"""(first, last) of each range, both included. Ascending, with at least one place between two of them."""

NOTHING: Final[Ranges] = ()
MOST: Final = 1000
"""Most ranges of one session. Its core has them, which every event rewrites: about 10 KiB."""


def of_session(session: Session) -> Ranges:
    """What rewinds have hidden of the session."""
    if not session.rewound:
        return NOTHING
    return tuple((hidden.first_seq, hidden.last_seq) for hidden in session.rewound)


def messages(ranges: Ranges) -> Iterable[RewoundRange]:
    """The ranges as a session has them."""
    return (RewoundRange(first_seq=first, last_seq=last) for first, last in ranges)


def hides(ranges: Ranges, seq: int) -> bool:
    """Whether the place is in one of the ranges."""
    at = bisect_left(ranges, seq, key=lambda hidden: hidden[1])
    return at < len(ranges) and ranges[at][0] <= seq


def after_rewind(at_place: Ranges, place: int, seq: int) -> Ranges:
    """What is hidden after a rewind to `place` whose event is at `seq`: what was hidden at the place, and all since."""
    if at_place and at_place[-1][1] == place:
        return (*at_place[:-1], (at_place[-1][0], seq))
    return (*at_place, (place + 1, seq))


def visible(first: int, last: int, ranges: Ranges) -> Iterator[tuple[int, int]]:
    """The parts of the places from `first` through `last` that are in none of the ranges, ascending."""
    for begin, end in ranges:
        if end < first:
            continue
        if begin > last:
            break
        if first < begin:
            yield first, begin - 1
        first = end + 1
    if first <= last:
        yield first, last


def seen(seqs: Sequence[int], ranges: Ranges) -> Sequence[int]:
    """Those of the places that are in none of the ranges."""
    return [seq for seq in seqs if not hides(ranges, seq)] if ranges else seqs
