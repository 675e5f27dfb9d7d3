"""Transactions that committed after others with later ids, as far as reads can tell.

What an asynchronous failover loses is the end of the order of commits; a feed has the order of ids. The last commit
before a cursor is that of a transaction among the last by id, or of one that was under way for long. Of the latter, the
one that ended last is among those that were seen under way most recently.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from sessiond_server.domain.log import XIDS, FeedEntry, FeedPlace

LATE_COMMITS: Final = 4
"""Transactions that a cursor names besides its anchors."""

_TRANSACTIONS_KEPT: Final = 32_768


class RunningTransactions:
    """Which transactions reads have seen under way, by what number of read last. Of the whole database server, so one
    for all feeds. Remembers the most recent ones; an id that is used again may give a sighting too many."""

    __slots__ = ("_last", "_reads")

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        """In ascending order, but for reads that came late."""
        self._reads = 0

    def begin_read(self) -> int:
        """The number of a read that begins now."""
        self._reads += 1
        return self._reads

    def note_running(self, number: int, running: Iterable[int]) -> None:
        """That read has seen these under way."""
        last = self._last
        for writer in running:
            if number > last.get(writer, 0):
                last.pop(writer, None)
                last[writer] = number
        while len(last) > _TRANSACTIONS_KEPT:
            del last[next(iter(last))]

    def last_seen(self, writer: int) -> int:
        """The last read that has seen it under way; 0: none."""
        return self._last.get(writer, 0)


def late_commits_after(
    before: Sequence[tuple[FeedPlace, str]], entries: Sequence[FeedEntry], transactions: RunningTransactions
) -> tuple[tuple[FeedPlace, str], ...]:
    """The late_commits of a cursor that had those of `before` and has passed the entries: those seen most recently. Of
    those seen by the same read the ones with the lowest ids, as the anchors are those with the highest."""
    found: dict[int, tuple[int, FeedPlace, str]] = {}
    for place, event_id in before:
        # The place tells the writer but for events filed higher than it, which are then taken for older than they are.
        writer = place.commit_xid % XIDS
        found[writer] = (transactions.last_seen(writer), place, event_id)
    for entry in entries:
        number = transactions.last_seen(entry.writer)
        if number:
            found[entry.writer] = (number, entry.place, entry.entry.event_id)
    ranked = sorted(found.values(), key=_recency)[-LATE_COMMITS:]
    return tuple((place, event_id) for _, place, event_id in ranked)


def _recency(late_commit: tuple[int, FeedPlace, str]) -> tuple[int, int]:
    number, place, _ = late_commit
    return number, -place.commit_xid if number else place.commit_xid
