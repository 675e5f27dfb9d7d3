"""The channel of each watched session, and which streams read it. Makes no read."""

import logging
from collections.abc import Callable, Iterator

from sessiond_server.domain.rows import Key
from sessiond_server.events.channel import START
from sessiond_server.events.limits import HubLimits
from sessiond_server.events.ring_budget import Rings
from sessiond_server.events.watched import SessionWatcher, TransactionStart, WatchedSession

_log = logging.getLogger("sessiond.events")


class OpenChannels:
    """The channels of all sessions that this process watches, one for each session."""

    def __init__(self, limits: HubLimits, rings: Rings) -> None:
        self.incarnation = ""
        """Incarnation of the database that the last poll saw. Events that were read or committed under another
        incarnation are refused; events that a channel has already are proved again."""
        self.on_redacted: Callable[[Key, int, int], None] = lambda key, first, last: None
        """Called when a read shows that events of that session between two `seq` were rewritten."""
        self._limits = limits
        self._rings = rings
        self._channels: dict[Key, WatchedSession] = {}
        self._made = 0

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[WatchedSession]:
        return iter(self._channels.values())

    def __contains__(self, key: Key) -> bool:
        return key in self._channels

    def get(self, key: Key) -> WatchedSession | None:
        return self._channels.get(key)

    def transaction_start(self) -> TransactionStart:
        """See EventHub.transaction_start."""
        return TransactionStart(self.incarnation, self._made)

    def add(self, key: Key) -> WatchedSession:
        """An empty channel of a session that has none."""
        channel = self._channels[key] = self._new(key)
        channel.on_redacted = self.on_redacted
        return channel

    def close(self, stream: SessionWatcher) -> None:
        """Takes the stream from its channel. The channel ends with its last stream, its lane with the last stream that
        takes deltas."""
        channel = stream.channel
        channel.streams.pop(stream, None)
        if not channel.streams:
            if self._channels.get(channel.key) is channel:
                del self._channels[channel.key]
            self._rings.removed(channel)
        elif stream.deltas_taken >= 0 and all(other.deltas_taken < 0 for other in channel.streams):
            channel.lane = None

    def replace(self, dead: WatchedSession) -> WatchedSession:
        """Replaces a channel whose history is lost by an empty one, at which every stream must prove its cursor."""
        _log.warning("session %r: events that were delivered are not in its log any more", dead.key[1])
        channel = self._after(dead)
        channel.streams, dead.streams = dead.streams, {}
        self._rings.removed(dead)
        for stream in channel.streams:
            stream.channel = channel
            stream.wake()
        return channel

    def succeed(self, dead: WatchedSession) -> WatchedSession:
        """The channel of a session that took the id of a deleted one. Streams of the latter keep theirs, to the end."""
        final = dead.final.seq if dead.final is not None else 0
        channel = self._after(dead)
        for stream in list(dead.streams):
            if stream.cursor == START or stream.cursor.seq > final:
                channel.streams[stream] = dead.streams.pop(stream)
                stream.channel = channel
                stream.wake()
        if not dead.streams:
            self._rings.removed(dead)
        if not channel.streams:
            del self._channels[dead.key]
        return channel

    def _after(self, dead: WatchedSession) -> WatchedSession:
        """A channel in the place of `dead`, with its lane and redactions."""
        channel = self._channels[dead.key] = self._new(dead.key)
        channel.take_over(dead)
        channel.lane = dead.lane
        return channel

    def _new(self, key: Key) -> WatchedSession:
        """An empty channel with the next number."""
        self._made += 1
        return WatchedSession(key, self._limits, self.transaction_start())
