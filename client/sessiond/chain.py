"""Proof that no event is missing, none comes twice, and all are of one history."""

from collections import OrderedDict
from collections.abc import Sequence

from sessiond.errors import PositionLost
from sessiond.v1.event_pb2 import Event, EventType

CREATED = EventType.EVENT_TYPE_SESSION_CREATED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED

_MOST_SESSIONS = 4096
"""Of a feed, whose last events are remembered: about 1 MiB. Events of one that was forgotten are taken as they come."""


class Chain:
    """One session's log, as a reader gets it: event after event or, where `contiguous` is False, in ascending order."""

    def __init__(self, *, contiguous: bool) -> None:
        self._contiguous = contiguous
        self._seq: int | None = None
        self._event_id = ""
        self.over = False
        """Whether the last event was the last there can be: the session is deleted."""

    @property
    def seq(self) -> int:
        """Of the last event; 0 where none is known."""
        return self._seq or 0

    def begin(self, seq: int, event_id: str) -> None:
        """What the next event follows: a snapshot's last event, or (0, "")."""
        self._seq, self._event_id = seq, event_id

    def take(self, event: Event) -> bool:
        """Whether the event is new; False where it was there before. Raises PositionLost where it does not follow."""
        if self._seq is not None:
            if event.seq < self._seq:
                return False
            if event.seq == self._seq:
                if self._event_id and event.event_id != self._event_id:
                    raise _lost(event.session_id, self._seq)
                return False
            next_one = event.seq == self._seq + 1
            # Logs that an early server wrote do not say.
            told = self._event_id and event.previous_event_id
            follows = next_one and (not told or event.previous_event_id == self._event_id)
            # Deleting removes all events but the last, also those that this reader was still to get.
            gap = not next_one and (event.type == DELETED or not self._contiguous)
            if not (follows or gap):
                raise _lost(event.session_id, self._seq)
        self._seq, self._event_id = event.seq, event.event_id
        self.over = event.type == DELETED
        return True

    def prove(self, head_seq: int, session_id: str) -> None:
        """Raises PositionLost where the log's last event, the service says, is not the one that came last."""
        if self._seq is not None and self._seq != head_seq:
            raise _lost(session_id, self._seq)


class Chains:
    """The logs of the sessions in a feed."""

    def __init__(self, *, contiguous: bool) -> None:
        self._contiguous = contiguous
        self._chains: OrderedDict[str, Chain] = OrderedDict()

    def take(self, event: Event) -> bool:
        """As Chain.take."""
        chain = self._chains.get(event.session_id)
        # Some time after it was deleted a session's id can be taken anew, by another log.
        if chain is None or (chain.over and event.type == CREATED):
            chain = self._chains[event.session_id] = Chain(contiguous=self._contiguous)
        self._chains.move_to_end(event.session_id)
        if len(self._chains) > _MOST_SESSIONS:
            self._chains.popitem(last=False)
        return chain.take(event)


def new_events(chain: Chain | Chains, events: Sequence[Event]) -> list[Event]:
    """Those that were not there before. Raises PositionLost; the chain is then of no more use."""
    return [event for event in events if chain.take(event)]


def _lost(session_id: str, seq: int) -> PositionLost:
    return PositionLost(
        "what was sent does not follow what was sent before",
        reason="POSITION_LOST",
        code="DATA_LOSS",
        metadata={"session_id": session_id, "seq": str(seq)},
    )
