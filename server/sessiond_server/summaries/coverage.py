"""What of a session a summary covers: pure rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sessiond.v1.message_pb2 import Role
from sessiond_server.domain.context.conversation import Said
from sessiond_server.summaries.queue import When

LOOKED_AT: Final = 1000
"""Most messages behind the newest summary that are looked at for one summary."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one summary may be made of."""

    keep: int
    """Newest messages that stay uncovered while the session goes on, so that a context has them word by word."""
    tokens: int
    """Most estimated tokens of its messages. The first one may exceed it."""


@dataclass(frozen=True, slots=True)
class Covered:
    """The messages to summarise: the first `count`."""

    count: int
    more: bool
    """Whether those behind them are to be summarised too, by the next summary."""


def covered(said: Sequence[Said], when: When, bounds: Bounds, *, more: bool, asked: bool, ended: bool) -> Covered:
    """What a summary is to cover of the messages behind the newest one; nothing where none is due.

    `said`: the first of these messages, by `seq`; `more`: whether there are others. `asked`: a summary is due whatever
    `when` says. `ended`: the session has ended, and is to be summarised for it: then all of it.
    """
    due = more or asked or ended or when.reached(len(said), sum(one.tokens for one in said))
    if not due or not said:
        return Covered(0, more=False)
    wanted = len(said) if ended else _cut(said, max(0, len(said) - bounds.keep))
    count = tokens = 0
    for one in said[:wanted]:
        tokens += one.tokens
        if count and tokens > bounds.tokens:
            break
        count += 1
    count = _whole(said, count)
    return Covered(count, more=count > 0 and (more or count < wanted))


def _cut(said: Sequence[Said], most: int) -> int:
    """How many to cover, at most `most`, so that what is left begins with a user's message; if there is none, where no
    result is parted from its call."""
    if most == len(said):
        return most
    for count in range(most, 0, -1):
        if said[count].message.role == Role.ROLE_USER:
            return count
    return _whole(said, most)


def _whole(said: Sequence[Said], most: int) -> int:
    """How many to cover, so that no result of a tool is parted from the call before it: at most `most`, but for a
    single call whose results alone go beyond it."""
    count = most
    while 0 < count < len(said) and said[count].message.role == Role.ROLE_TOOL:
        count -= 1
    if count or not most:
        return count
    count = most
    while count < len(said) and said[count].message.role == Role.ROLE_TOOL:
        count += 1
    return count
