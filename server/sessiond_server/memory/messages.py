"""The memory store's reads of messages and summaries."""

from collections.abc import Sequence
from typing import NamedTuple

from sessiond_server.domain.messages.selection import Selection
from sessiond_server.domain.rewinds.ranges import NOTHING, Ranges, seen
from sessiond_server.errors import MessageNotFound
from sessiond_server.memory.pages import fitting, fitting_by
from sessiond_server.memory.session import MemorySession
from sessiond_server.store.session_reads import LOOKED_AT, MessagesPage, SummariesPage, selected


class Bounds(NamedTuple):
    """Which messages to read, in which order; see SessionReads.list_messages."""

    after_seq: int
    before_seq: int
    descending: bool
    rewound: Ranges | None
    include_rewound: bool


def message(log: MemorySession, session_id: str, message_id: str) -> tuple[int, bytes]:
    if (seq := log.seq_of_message.get(message_id)) is None:
        raise MessageNotFound(session_id, message_id)
    return log.head.version, log.message(seq)


def page(log: MemorySession, bounds: Bounds, limit: int) -> MessagesPage:
    within = _within(log, bounds)
    seqs = within[:limit]
    bodies = fitting(_body(log, seq, bounds) for seq in seqs)
    if not bodies:
        return MessagesPage(log.head.version, [], 0, 0, more=False)
    count = len(bodies)
    return MessagesPage(log.head.version, bodies, seqs[0], seqs[count - 1], more=count < len(within))


def found(log: MemorySession, where: Selection, bounds: Bounds, limit: int) -> MessagesPage:
    within = _within(log, bounds)
    bodies = ((seq, _body(log, seq, bounds)) for seq in within[:LOOKED_AT])
    looked_at = fitting_by(lambda one: len(one[1]), bodies)
    return selected(log.head.version, looked_at, where, limit, more=len(looked_at) < len(within))


def summaries(log: MemorySession, before_seq: int, limit: int, rewound: Ranges | None) -> SummariesPage:
    visible = seen(log.summary_seqs, log.rewound if rewound is None else rewound)
    seqs = [seq for seq in reversed(visible) if not before_seq or seq < before_seq]
    bodies = fitting(log.events[seq].body for seq in seqs[:limit])
    more = len(bodies) < len(seqs)
    return SummariesPage(log.head.version, bodies, seqs[len(bodies) - 1] if more else 0)


def _within(log: MemorySession, bounds: Bounds) -> Sequence[int]:
    rewound = NOTHING if bounds.include_rewound else bounds.rewound
    return log.message_seqs_between(bounds.after_seq, bounds.before_seq, rewound, descending=bounds.descending)


def _body(log: MemorySession, seq: int, bounds: Bounds) -> bytes:
    return log.message(seq) if bounds.include_rewound else log.events[seq].body
