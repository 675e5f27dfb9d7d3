"""Each safeguard of the hub taken away, one at a time: the schedules of test_simulation.py find out, and say what is
wrong."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sessiond_server.domain.log import LogEntry
from sessiond_server.domain.rows import Key
from sessiond_server.errors import PositionLost
from sessiond_server.events import channel, feed, feeds, sessions
from sessiond_server.events.channel import Channel
from sessiond_server.events.contract import Cursor, FeedCursor
from sessiond_server.events.deltas import DeltaLane
from sessiond_server.events.feed import Feed
from sessiond_server.events.feeds import Feeds, FeedWatcher
from sessiond_server.events.hub import EventHub
from sessiond_server.events.late_commits import RunningTransactions
from sessiond_server.events.sessions import Sessions
from sessiond_server.events.watched import SessionWatcher
from sessiond_server.store.log_reads import LogHead, LogPage
from tests.support import virtual_time
from tests.support.effort import quick_and_long
from tests.support.hub_simulation import Schedule, Verdict

Mutation = Callable[[pytest.MonkeyPatch], None]
SEEDS = 600
"""Schedules until which a mutant must be found."""


def no_head_poll(patch: pytest.MonkeyPatch) -> None:
    """Hints are relied on."""

    async def blind(self: EventHub) -> None:
        self._answered = self._clock()

    patch.setattr(EventHub, "_poll_once", blind)


def hint_delivered_as_data(patch: pytest.MonkeyPatch) -> None:
    """What a hint says of the log is believed without reading it: that it ends where the channel is."""

    def on_hint(self: Sessions, key: Key, seq: int) -> None:
        original(self, key, seq)
        watched = self.channels.get(key)
        if watched is not None and watched.tip is not None and seq <= watched.tip.seq:
            watched.proof = (watched.tip, self._store._database.clock())  # type: ignore[attr-defined]

    original = Sessions.on_hint
    patch.setattr(Sessions, "on_hint", on_hint)


def bookmark_from_a_timer(patch: pytest.MonkeyPatch) -> None:
    """A stream that was idle for long enough gets a bookmark without a read."""

    def timed(self: SessionWatcher) -> int:
        time_us: int = self._sessions._store._database.clock()  # type: ignore[attr-defined]
        return time_us

    patch.setattr(SessionWatcher, "_proof", timed)


def position_without_event_id(patch: pytest.MonkeyPatch) -> None:
    """A seq is taken for a place in a history."""

    def check(key: Key, cursor: Cursor, page: LogPage) -> None:
        if page.head.version < cursor.seq:
            raise PositionLost(key[1], cursor.seq)

    def after(self: Channel, cursor: Cursor) -> Any:
        if self.tip is not None and cursor.seq == self.tip.seq:
            cursor = self.tip
        return original(self, cursor)

    original = Channel.after
    patch.setattr(sessions, "check", check)
    patch.setattr(Channel, "after", after)
    patch.setattr(Channel, "_holds", lambda self, cursor: cursor.seq >= self.floor.seq)


def cursor_advanced_before_the_write(patch: pytest.MonkeyPatch) -> None:
    """The cursor moves when a batch is found, not when it is handed out: who is cancelled in between has lost it."""

    async def found_first(self: SessionWatcher) -> Any:
        item = await original(self)
        await asyncio.sleep(0.02)
        return item

    original = SessionWatcher.next
    patch.setattr(SessionWatcher, "next", found_first)


def incarnation_ignored(patch: pytest.MonkeyPatch) -> None:
    """That the database has restarted, or is another one, is no reason to look where the tip is."""

    def note_head(self: Channel, tip: Cursor, head: LogHead | None, incarnation: str, time_us: int) -> None:
        original(self, tip, head, self.incarnation, time_us)

    original = Channel.note_head
    patch.setattr(Channel, "note_head", note_head)


def ring_kept_after_a_redaction(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "_drop_through", lambda self, first_seq, last_seq: None)


def late_pages_of_redacted_events_believed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "may_show_redacted", lambda self, since, page: False)


def deletions_of_messages_unnoticed(patch: pytest.MonkeyPatch) -> None:
    """A read that has the event of a deletion leaves the deleted messages in the rings."""

    def redactions_only(entry: LogEntry) -> tuple[int, int] | None:
        return original(entry) if entry.type == channel.REDACTED else None

    original = channel.rewritten_by
    patch.setattr(channel, "rewritten_by", redactions_only)
    patch.setattr(feeds, "rewritten_by", redactions_only)


def feed_ring_kept_after_a_redaction(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Feed, "redact", lambda self, session_id, first_seq, last_seq: None)


def feed_without_witnesses(patch: pytest.MonkeyPatch) -> None:
    """A place is taken for a place in a history."""

    def unanchored(cursor: FeedCursor, entries: Sequence[Any], transactions: RunningTransactions) -> FeedCursor:
        return replace(original(cursor, entries, transactions), anchors=(), late_commits=())

    original = feed.advanced
    patch.setattr("sessiond_server.events.feeds.advanced", unanchored)
    patch.setattr(feed, "advanced", unanchored)


def feed_streams_trust_the_tip(patch: pytest.MonkeyPatch) -> None:
    """Once the feed's own tip is proved, every stream's cursor is taken for proved too."""

    async def prove(self: Feeds, stream: FeedWatcher) -> None:
        stream.proved_at = (stream.feed, stream.feed.proofs)
        self._begun(stream)

    patch.setattr(Feeds, "prove", prove)


def held_back_events_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A feed in which events are held back is taken for read to its end."""
    original = Feeds._read

    async def read(self: Feeds, *args: Any) -> Any:
        page = await original(self, *args)
        return page and replace(page, pending=False)

    patch.setattr(Feeds, "_read", read)


def late_deltas_shown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeltaLane, "supersede", lambda self, entry: None)


def rings_without_bounds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "_drop", lambda self, count: None)


CALM: Sequence[str] = ()
FAILOVERS: Sequence[str] = ("standby", "failover")

MUTANTS: list[tuple[Mutation, Sequence[str], set[str]]] = [
    (no_head_poll, CALM, {"missed"}),
    (hint_delivered_as_data, CALM, {"bookmark"}),
    (bookmark_from_a_timer, CALM, {"bookmark"}),
    (position_without_event_id, FAILOVERS, {"chain", "diverged"}),
    (cursor_advanced_before_the_write, CALM, {"chain"}),
    (incarnation_ignored, FAILOVERS, {"bookmark", "missed"}),
    (ring_kept_after_a_redaction, CALM, {"redacted"}),
    (late_pages_of_redacted_events_believed, CALM, {"redacted"}),
    (feed_ring_kept_after_a_redaction, CALM, {"redacted"}),
    (deletions_of_messages_unnoticed, CALM, {"redacted"}),
    (feed_without_witnesses, FAILOVERS, {"feed_diverged", "feed_missed"}),
    (feed_streams_trust_the_tip, FAILOVERS, {"feed_diverged", "feed_missed"}),
    (held_back_events_forgotten, CALM, {"feed_bookmark"}),
    (late_deltas_shown, CALM, {"delta"}),
    (rings_without_bounds, CALM, {"memory"}),
]
QUICK = (no_head_poll, incarnation_ignored, ring_kept_after_a_redaction, late_deltas_shown)
"""Those of `make test`: one of each kind of finding."""


@pytest.mark.parametrize(("mutate", "faults", "findings"), quick_and_long(MUTANTS, QUICK))
def test_a_missing_safeguard_is_found(
    mutate: Mutation, faults: Sequence[str], findings: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    found = Verdict()
    for seed in range(SEEDS):
        found.add(virtual_time.run(Schedule(seed, faults=faults).run()))
        if findings & set(found.wrong):
            return
    pytest.fail(f"{SEEDS} schedules found {found}")
