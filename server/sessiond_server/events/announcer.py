"""Announces commits to subscribers: the hub of this process gets the bytes, the bus a hint for the other replicas."""

from collections.abc import Sequence
from functools import partial

from sessiond_server import failpoints
from sessiond_server.domain.rows import Writes
from sessiond_server.events.bus import Bus, Hint
from sessiond_server.events.hub import EventHub
from sessiond_server.events.watched import TransactionStart
from sessiond_server.store.announcing import Announce, Repeated


class Announcer:
    """A CommitListener (see store/announcing.py)."""

    def __init__(self, hub: EventHub, bus: Bus) -> None:
        self._hub = hub
        self._bus = bus

    def begun(self) -> Announce:
        return partial(self._announce, self._hub.transaction_start())

    async def _announce(self, start: TransactionStart, writes: Writes, repeated: Sequence[Repeated]) -> None:
        if not (failpoints.armed and await failpoints.reach("before_announce")):
            self._hub.committed(writes, start)
        if not (failpoints.armed and failpoints.hit("before_hint")):
            hints = [Hint(row.key, row.head.version) for row in writes.heads]
            self._bus.publish_hints(hints + [Hint(key, version) for key, version in repeated])
