"""Watchers of a simulation, who write down what they get and compare it with what the database was."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.event_service_pb2 import Delta
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import fold
from sessiond_server.domain.log import FeedPlace, LogEntry
from sessiond_server.errors import PositionCompacted, PositionLost, SessionNotFound, StoreUnavailable
from sessiond_server.events.contract import Batch, CaughtUp, Cursor, FeedBatch, FeedCursor, ReceivedDeltas

if TYPE_CHECKING:
    from tests.support.hub_simulation import Replica, Schedule

DELETED = EventType.EVENT_TYPE_SESSION_DELETED
REDACTED = (EventType.EVENT_TYPE_MESSAGE_REDACTED, EventType.EVENT_TYPE_MESSAGES_DELETED)
C = TypeVar("C")


class Watch(ABC, Generic[C]):
    """One subscriber: it leaves, comes back to any replica, and resumes at its position."""

    def __init__(self, schedule: "Schedule") -> None:
        self.schedule = schedule
        self.verdict = schedule.verdict
        self.chance = schedule.chance
        self.cursor: C | None = None
        """The position that a client would have stored: behind what was handed out last."""
        self.slow = self.chance.random.choice([0.0, 0.1, 1.0])
        self._proved = asyncio.Event()
        """A bookmark has come for what is the end."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            replica = self.chance.random.choice(self.schedule.replicas)
            try:
                await self.watch(replica)
            except StoreUnavailable:
                self.verdict.seen["unavailable"] += 1
                await asyncio.sleep(0.5)
            except PositionLost as error:
                self.verdict.seen["position_lost"] += 1
                self.lose(error)
                self.cursor = None
            except TimeoutError:
                self.verdict.seen["resumed"] += 1

    @property
    def over(self) -> bool:
        """Nothing can follow any more."""
        return False

    @abstractmethod
    async def watch(self, replica: "Replica") -> None:
        """Goes on from the cursor, until it leaves or the stream ends."""

    @abstractmethod
    def lose(self, error: PositionLost) -> None:
        """Judges whether the position really is lost."""

    @abstractmethod
    def at_end(self) -> bool:
        """Whether the watcher has everything."""

    @abstractmethod
    def judge(self) -> None:
        """Once everything has settled."""

    async def settled(self) -> None:
        """Returns when the watcher has everything and a bookmark has said so since the call."""
        self._proved.clear()
        while not (self.at_end() and (self.over or self._proved.is_set())):  # noqa: ASYNC110 - of virtual seconds
            await asyncio.sleep(0.25)

    async def consume(self, replica: "Replica", stream: Any) -> None:
        """Takes what comes, at times slowly, at times cancelled while it waits; raises TimeoutError to leave."""
        random = self.chance.random
        while True:
            if self.chance.happens(0.03):
                raise TimeoutError
            try:
                async with asyncio.timeout(random.uniform(0, 0.2) if self.chance.happens(0.1) else None):
                    item = await stream.next()
            except TimeoutError:
                self.verdict.seen["cancelled"] += 1
                if self.chance.happens(0.3):
                    raise
                continue
            self.take(replica, stream, item)
            self.cursor = stream.cursor
            if self.over:
                return
            if self.slow and self.chance.happens(0.5):
                await asyncio.sleep(random.uniform(0, 2 * self.slow))

    @abstractmethod
    def take(self, replica: "Replica", stream: Any, item: Any) -> None:
        """Judges one item of the stream and keeps what it tells."""

    def judge_data(self, replica: "Replica", entries: Sequence[LogEntry]) -> None:
        """Returns whether the bytes equal those of the database, and are not older than a redaction that the replica
        has announced."""
        database = self.schedule.database
        for entry in entries:
            if entry.data not in database.data.get(entry.event_id, ()):
                self.verdict.find("bytes", entry)
            by = database.redacted.get(entry.event_id)
            if by in replica.redactions and entry.data != database.current[entry.event_id]:
                self.verdict.find("redacted", entry)
        replica.redactions.update(entry.event_id for entry in entries if entry.type in REDACTED)


class SessionWatch(Watch[Cursor]):
    def __init__(self, schedule: "Schedule", session_id: str) -> None:
        super().__init__(schedule)
        self.key = ("acme", session_id)
        self.wants_deltas = self.chance.random.random() < 0.5
        self.session = Session()
        """As folded from what came."""
        self.events: list[str] = []
        """Ids, since the last snapshot."""
        self.messages: set[str] = set()
        self.deleted = False
        self.gone = False
        self.stream: Any = None
        """The stream that is open."""
        self._began_us = 0
        """When the watch that goes on was asked for."""

    @property
    def over(self) -> bool:
        return self.deleted or self.gone

    async def watch(self, replica: "Replica") -> None:
        if self.over:
            # The id may be taken again; who watched the session before then watches the next one from its snapshot.
            await asyncio.sleep(0.5)
            if self.schedule.database.session(self.key) is None:
                return
            self.verdict.seen["watched_again"] += 1
            self.begin_anew()
        self._began_us = self.schedule.database.clock()
        try:
            async with replica.hub.watch_session(
                self.schedule_scope(), self.key[1], self.cursor, content=True, deltas=self.wants_deltas
            ) as (stream, snapshot):
                self.stream = stream
                if snapshot is not None:
                    self.session = Session.FromString(snapshot.core + snapshot.content)
                    self.events = [self.session.last_event_id]
                    self.cursor = stream.cursor
                    if stream.cursor != Cursor(self.session.version, self.session.last_event_id):
                        self.verdict.find("snapshot", stream.cursor)
                elif stream.cursor != self.cursor:
                    self.verdict.find("resumed", (stream.cursor, self.cursor))
                try:
                    await self.consume(replica, stream)
                finally:
                    self.stream = None
        except SessionNotFound:
            if self.cursor is not None and not self.schedule.database.was_gone(self.key, self._began_us):
                self.verdict.find("not_found", self.cursor)
            self.gone = True
        except PositionCompacted:
            self.verdict.seen["compacted"] += 1
            if self.cursor is None or self.cursor.seq > self.schedule.database.highest_base(self.key):
                self.verdict.find("compacted", self.cursor)
            self.begin_anew()

    def begin_anew(self) -> None:
        """Forgets the session that was watched before."""
        self.cursor, self.session, self.events = None, Session(), []
        self.messages.clear()
        self.deleted = self.gone = False
        self._proved.clear()

    def schedule_scope(self) -> Any:
        from tests.support.hub_simulation import SCOPE

        return SCOPE

    def take(self, replica: "Replica", stream: Any, item: Batch | CaughtUp | ReceivedDeltas) -> None:
        database, before = self.schedule.database, self.cursor
        assert before is not None
        if isinstance(item, ReceivedDeltas):
            self.verdict.seen["delta"] += 1
            ids = {Delta.FromString(piece).message_id for piece in item.data}
            if not self.wants_deltas or ids & self.messages:
                self.verdict.find("delta", ids & self.messages)
            return
        if isinstance(item, CaughtUp):
            self.verdict.seen["bookmark"] += 1
            if stream.cursor != before:
                self.verdict.find("bookmark", "moves")
            if database.end_at(self.key, item.read_time_us) != (before.seq, before.event_id):
                self.verdict.find("bookmark", (before, database.end_at(self.key, item.read_time_us)))
            if database.end_at(self.key, 10**18) == (before.seq, before.event_id):
                self._proved.set()
            return
        self.verdict.seen["events"] += len(item.entries)
        self.judge_data(replica, item.entries)
        seq, event_id = before.seq, before.event_id
        for entry in item.entries:
            final = entry.type == DELETED
            if self.deleted or seq < self.session.base_version:
                self.verdict.find("mistaken", (before, entry.seq))
            if not final and (entry.seq != seq + 1 or entry.previous_event_id != event_id):
                self.verdict.find("chain", (before, entry.seq))
            seq, event_id = entry.seq, entry.event_id
            self.events.append(event_id)
            event = Event.FromString(entry.data)
            if final:
                self.deleted = True
                continue
            if event.HasField("message"):
                self.messages.add(event.message.message_id)
            try:
                self.session = fold.fold(self.session, event)
            except ValueError as error:
                self.verdict.find("fold", error)
        if stream.cursor != Cursor(seq, event_id) or item.head_seq < seq:
            self.verdict.find("cursor", (stream.cursor, seq, item.head_seq))

    def lose(self, error: PositionLost) -> None:
        if self.cursor is None or self.cursor.event_id in self.schedule.database.history.events:
            self.verdict.find("falsely_lost", (self.cursor, str(error)))
        self.messages.clear()

    def at_end(self) -> bool:
        if self.over:
            return self.schedule.database.session(self.key) is None
        end = self.schedule.database.end_at(self.key, 10**18)
        return self.cursor is not None and end == (self.cursor.seq, self.cursor.event_id)

    def judge(self) -> None:
        history = self.schedule.database.history
        if not self.at_end():
            self.verdict.find("missed", (self.cursor, self.schedule.database.end_at(self.key, 10**18)))
            return
        if self.gone:
            return
        if not self.deleted and not self._proved.is_set():
            self.verdict.find("not_bookmarked", self.cursor)
        truth = [event.event_id for event in history.events.values() if event.key == self.key]
        mine = self.events
        if self.deleted:
            if self.schedule.database.resets:
                # The deletion may have been lost, after it had ended the stream; and what it removed cannot be proved.
                return
            mine, truth = mine[:-1], truth[:-1]
        start = truth.index(mine[0]) if mine and mine[0] in truth else len(truth)
        if mine != (truth[start : start + len(mine)] if self.deleted else truth[start:]):
            self.verdict.find("diverged", (mine, truth))
        if not self.deleted and self.session != self.schedule.database.session(self.key):
            self.verdict.find("fold", (self.session, self.schedule.database.session(self.key)))


class FeedWatch(Watch[FeedCursor]):
    def __init__(self, schedule: "Schedule") -> None:
        super().__init__(schedule)
        self.from_beginning = self.chance.random.random() < 0.5
        self.events: list[str] = []
        """Ids, since the watcher began anew."""
        self.start = FeedPlace(0, "", 0)

    async def watch(self, replica: "Replica") -> None:
        from tests.support.hub_simulation import SCOPE

        async with replica.hub.watch_feed(SCOPE, self.cursor, from_beginning=self.from_beginning) as stream:
            if self.cursor is None:
                self.cursor, self.start, self.events = stream.cursor, stream.cursor.place, []
            await self.consume(replica, stream)

    def take(self, replica: "Replica", stream: Any, item: FeedBatch | CaughtUp) -> None:
        database, before = self.schedule.database, self.cursor
        assert before is not None
        if isinstance(item, CaughtUp):
            self.verdict.seen["feed_bookmark"] += 1
            for event in database.history.events.values():
                if event.place > before.place and event.time_us <= item.read_time_us:
                    if database.resets and database.resets[-1] > item.read_time_us:
                        continue
                    if database._row(event) is not None:
                        self.verdict.find("feed_bookmark", (event, before.place))
            if self.at_end():
                self._proved.set()
            return
        self.verdict.seen["feed_events"] += len(item.entries)
        self.judge_data(replica, [entry.entry for entry in item.entries])
        place = before.place
        for entry in item.entries:
            if entry.place <= place:
                self.verdict.find("feed_order", (place, entry.place))
            place = entry.place
            self.events.append(entry.entry.event_id)
        anchors = stream.cursor.anchors
        if stream.cursor.place != place or len(anchors) > 8 or len(stream.cursor.late_commits) > 4:
            self.verdict.find("feed_cursor", stream.cursor)
        if not anchors or anchors[-1] != (place, item.entries[-1].entry.event_id):
            self.verdict.find("feed_witnesses", stream.cursor)

    def lose(self, error: PositionLost) -> None:
        history = self.schedule.database.history
        if self.cursor is None or all(event_id in history.events for _, event_id in self.cursor.named):
            self.verdict.find("falsely_lost", (self.cursor, str(error)))

    def at_end(self) -> bool:
        return self.cursor is not None and not self._missed() and not self._lost()

    def _missed(self) -> list[str]:
        assert self.cursor is not None
        database, mine = self.schedule.database, set(self.events)
        if not mine <= set(database.history.events):
            # Its places are of another history: `_lost` judges.
            return []
        return [
            event.event_id
            for event in database.history.events.values()
            if event.place > self.start and event.event_id not in mine and database._row(event) is not None
        ]

    def _lost(self) -> set[str]:
        """Ids of what was delivered and then lost, without a word.

        Not those of sessions that went on without these events and were deleted then: nothing is left to tell by.
        """
        history, database = self.schedule.database.history, self.schedule.database
        lost = {event_id for event_id in self.events if event_id not in history.events}
        return {event_id for event_id in lost if not database.is_removed(event_id)}

    def judge(self) -> None:
        if self.cursor is None or self._missed():
            self.verdict.find("feed_missed", self.cursor and self._missed())
        elif not self._proved.is_set():
            self.verdict.find("feed_not_bookmarked", self.cursor)
        if len(set(self.events)) != len(self.events):
            self.verdict.find("feed_doubled", self.events)
        if self._lost():
            self.verdict.find("feed_diverged", self._lost())
