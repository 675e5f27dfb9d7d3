"""Finds transactions that may have committed after others with higher ids.

An asynchronous failover loses the last commits in commit order, but a feed is ordered by transaction id. The last
commit before a cursor belongs to one of the transactions with the highest ids, or to one that ran for long. Among the
latter, the one that committed last is one of those that reads saw running most recently.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from sessiond_server.domain.log import XIDS, FeedEntry, FeedPlace

LATE_COMMITS: Final = 4
"""Most transactions that a cursor names besides its anchors."""

_TRANSACTIONS_KEPT: Final = 32_768


class RunningTransactions:
    """The transactions that reads have seen running, each with the number of the last such read.

    Covers the whole database server, so all feeds share one instance. Bounded: keeps the most recent ones. A reused
    transaction id may make a transaction look as if it had been seen.
    """

    __slots__ = ("_last", "_reads")

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        """Transaction -> number of the read, ascending except for reads that finished late."""
        self._reads = 0

    def begin_read(self) -> int:
        """Returns the number of a read that begins now."""
        self._reads += 1
        return self._reads

    def note_running(self, number: int, running: Iterable[int]) -> None:
        """Notes that the read of that number has seen these transactions running."""
        last = self._last
        for writer in running:
            if number > last.get(writer, 0):
                last.pop(writer, None)
                last[writer] = number
        while len(last) > _TRANSACTIONS_KEPT:
            del last[next(iter(last))]

    def last_seen(self, writer: int) -> int:
        """Number of the last read that has seen the transaction running; 0: none."""
        return self._last.get(writer, 0)


def late_commits_after(
    before: Sequence[tuple[FeedPlace, str]], entries: Sequence[FeedEntry], transactions: RunningTransactions
) -> tuple[tuple[FeedPlace, str], ...]:
    """The late_commits of a cursor that had `before` and has moved past the entries: the transactions seen running most
    recently. Of those seen by the same read it keeps the lowest ids, since the anchors are those with the highest."""
    found: dict[int, tuple[int, FeedPlace, str]] = {}
    for place, event_id in before:
        # The place gives the writer, except for events whose commit_xid was raised; these then rank as older.
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
