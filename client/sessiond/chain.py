"""Checks that no event is missing, that none comes twice, and that all belong to one history."""

from collections import OrderedDict
from collections.abc import Sequence

from sessiond.errors import PositionLost
from sessiond.v1.event_pb2 import Event, EventType

CREATED = EventType.EVENT_TYPE_SESSION_CREATED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED

_MOST_SESSIONS = 4096
"""Sessions of a feed whose last event is remembered, in about 1 MiB. The next event of a session that was forgotten is
accepted without a check."""


class Chain:
    """Checks one session's events as a reader receives them: each must follow the one before or, where `contiguous` is
    False, have a higher seq."""

    def __init__(self, *, contiguous: bool) -> None:
        self._contiguous = contiguous
        self._seq: int | None = None
        self._event_id = ""
        self.over = False
        """Whether the last event was the session's deletion, after which there is no other."""

    @property
    def seq(self) -> int:
        """The seq of the last event; 0 where none is known."""
        return self._seq or 0

    def begin(self, seq: int, event_id: str) -> None:
        """Sets the event that the next one must follow: a snapshot's last event, or (0, "")."""
        self._seq, self._event_id = seq, event_id

    def take(self, event: Event) -> bool:
        """Returns whether the event is new. Raises PositionLost where it does not follow the event before."""
        if self._seq is not None:
            if event.seq < self._seq:
                return False
            if event.seq == self._seq:
                if self._event_id and event.event_id != self._event_id:
                    raise _lost(event.session_id, self._seq)
                return False
            next_one = event.seq == self._seq + 1
            # Events that an early server wrote do not name the event before them.
            told = self._event_id and event.previous_event_id
            follows = next_one and (not told or event.previous_event_id == self._event_id)
            # Deleting a session removes all its events but the last, also those that this reader has not received yet.
            gap = not next_one and (event.type == DELETED or not self._contiguous)
            # The log of a session that took the id of a deleted one begins behind the deletion.
            gap = gap or (not self._seq and event.type == CREATED)
            if not (follows or gap):
                raise _lost(event.session_id, self._seq)
        self._seq, self._event_id = event.seq, event.event_id
        self.over = event.type == DELETED
        return True

    def prove(self, head_seq: int, session_id: str) -> None:
        """Raises PositionLost unless the last event received is `head_seq`, which the service says is the last."""
        if self._seq is not None and self._seq != head_seq:
            raise _lost(session_id, self._seq)


class Chains:
    """The logs of the sessions in a feed."""

    def __init__(self, *, contiguous: bool) -> None:
        self._contiguous = contiguous
        self._chains: OrderedDict[str, Chain] = OrderedDict()

    def take(self, event: Event) -> bool:
        """Checks an event against its session's chain; see Chain.take."""
        chain = self._chains.get(event.session_id)
        # Some time after a session was deleted, another session may have its id.
        if chain is None or (chain.over and event.type == CREATED):
            chain = self._chains[event.session_id] = Chain(contiguous=self._contiguous)
        self._chains.move_to_end(event.session_id)
        if len(self._chains) > _MOST_SESSIONS:
            self._chains.popitem(last=False)
        return chain.take(event)


def new_events(chain: Chain | Chains, events: Sequence[Event]) -> list[Event]:
    """Returns the events that are new. Raises PositionLost; the chain cannot be used after that."""
    return [event for event in events if chain.take(event)]


def _lost(session_id: str, seq: int) -> PositionLost:
    return PositionLost(
        "what was sent does not follow what was sent before",
        reason="POSITION_LOST",
        code="DATA_LOSS",
        metadata={"session_id": session_id, "seq": str(seq)},
    )
