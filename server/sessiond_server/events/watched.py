"""A watched session and the streams that watch it."""

from typing import TYPE_CHECKING, NamedTuple

from sessiond_server.domain.rows import Key
from sessiond_server.errors import SessionNotFound
from sessiond_server.events.channel import START, Channel, Where
from sessiond_server.events.contract import Batch, CaughtUp, Cursor, ReceivedDeltas
from sessiond_server.events.deltas import DeltaLane
from sessiond_server.events.limits import HubLimits
from sessiond_server.events.streams import Stream, Waiting

if TYPE_CHECKING:
    from sessiond_server.events.sessions import Sessions


class TransactionStart(NamedTuple):
    """The hub's state when a transaction began. It shows whether a channel may take the transaction's events."""

    incarnation: str
    """Incarnation of the database that the last poll had seen."""
    channels: int
    """Number of channels that had been made until then."""


class WatchedSession(Channel):
    """A channel with its streams."""

    __slots__ = ("lane", "number", "reading_tip", "streams", "waiting")

    def __init__(self, key: Key, limits: HubLimits, start: TransactionStart) -> None:
        super().__init__(key, limits, start.incarnation)
        self.number = start.channels
        self.streams: dict[SessionWatcher, None] = {}
        """In order of arrival."""
        self.waiting = Waiting()
        self.reading_tip = False
        """Whether a read after the tip is in flight."""
        self.lane: DeltaLane | None = None
        """The session's deltas; None while no stream has requested any."""


class LogRead:
    """The result of a read of a session's log after one cursor."""

    __slots__ = ("end", "redactions", "run", "user_id")

    def __init__(self, run: Batch | None, end: Cursor, user_id: str, redactions: int) -> None:
        self.run = run
        self.end = end
        self.user_id = user_id
        self.redactions = redactions
        """The channel's `redaction_count` when the read was checked."""


class SessionWatcher(Stream):
    """See contract.SessionStream. Made by Sessions.open."""

    __slots__ = ("_bookmarked", "_sessions", "channel", "cursor", "deltas_taken", "head_seq", "late", "user_id")

    def __init__(self, sessions: "Sessions", channel: WatchedSession, user_id: str, now: float, silence: float) -> None:
        super().__init__(now, silence)
        self.cursor = START
        self.head_seq = 0
        self._sessions = sessions
        self.channel = channel
        self.user_id = user_id
        self._bookmarked = 0
        self.deltas_taken = -1
        """Position in the DeltaLane; -1: the stream has not requested deltas."""
        self.late: ReceivedDeltas | None = None
        """The drafts that were open when the stream began, until it has taken them."""

    async def next(self) -> Batch | CaughtUp | ReceivedDeltas:
        """As contract.SessionStream.next. Raises SessionNotFound behind the final event of a deleted session; Draining
        when the hub has closed.

        Await it directly in one task: what a cancelled wrapper around it has received and not handed on is lost.
        """
        sessions = self._sessions
        while True:
            if self._failure is not None:
                raise self._failure()
            channel = self.channel
            found = channel.after(self.cursor)
            if found is Where.ELSEWHERE:
                page = await sessions.page(self)
                if page is None or page.redactions != self.channel.redaction_count:
                    continue
                if page.run is not None:
                    return self._advance(page.run, page.end)
            elif found is Where.TIP:
                if channel.final is not None:
                    raise SessionNotFound(channel.key[1])
                now = sessions.clock()
                if (passed := self._deltas()) is not None:
                    self._due = now + self._silence
                    return passed
                if now >= self._due and (read_us := self._proof()) is not None:
                    self._due = now + self._silence
                    return CaughtUp(read_us)
                sessions.schedule_read(channel, caller_waits=True)
                await self.wait(channel.waiting)
            else:
                return self._advance(*found)

    def _advance(self, batch: Batch, end: Cursor) -> Batch:
        sessions = self._sessions
        self.cursor = end
        self.head_seq = batch.head_seq
        self._due = sessions.clock() + self._silence
        return batch

    def _deltas(self) -> ReceivedDeltas | None:
        lane = self.channel.lane
        if self.deltas_taken < 0 or lane is None:
            return None
        if (late := self.late) is not None:
            self.late = None
            # The messages of some may have come since the stream began.
            if data := self._sessions.drafts.still_open(self.channel.key, late.data):
                return ReceivedDeltas(data)
        passed = lane.after(self.deltas_taken)
        self.deltas_taken = lane.count
        return passed

    def _proof(self) -> int | None:
        """Time at which a read proved that no event follows the cursor; None if there is no proof since the last
        bookmark."""
        proof = self.channel.proof
        if proof is None or proof[0] != self.cursor or proof[1] <= self._bookmarked:
            return None
        self._bookmarked = proof[1]
        self.head_seq = self.cursor.seq
        return proof[1]
