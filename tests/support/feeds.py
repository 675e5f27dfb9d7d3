"""A tenant's feed, read as its subscribers read it."""

from collections.abc import Sequence

from sessiond.v1.event_pb2 import Event
from sessiond_server.domain.log import FeedEntry, FeedPlace, LogEntry
from sessiond_server.store.contract import Store
from tests.support.waiting import until


def same(entry: LogEntry) -> Event:
    """The entry's event; fails unless the entry describes it."""
    event = Event.FromString(entry.data)
    assert (entry.seq, entry.event_id, entry.previous_event_id, entry.type) == (
        event.seq,
        event.event_id,
        event.previous_event_id,
        event.type,
    )
    assert event.event_id
    return event


START = FeedPlace(0, "", 0)


async def feed(store: Store, after: FeedPlace = START, *, tenant: str = "tenant", limit: int = 1000) -> list[FeedEntry]:
    """What may be delivered behind the place; fails unless every page is in order, describes its events, and is full or
    the last."""
    entries: list[FeedEntry] = []
    while True:
        page = await store.read_feed(tenant, after=after, limit=limit)
        for item in page.entries:
            event = same(item.entry)
            assert after < item.place
            assert (item.place.session_id, item.place.seq) == (event.session_id, event.seq)
            after = item.place
        entries += page.entries
        if page.complete:
            return entries
        assert page.entries


async def complete(store: Store, after: FeedPlace = START, *, tenant: str = "tenant") -> list[FeedEntry]:
    """As `feed`, once nothing is held back any more: other tests' transactions on the same server may do so."""

    async def settled() -> bool:
        return not (await store.read_feed(tenant, after=after, limit=1)).pending

    await until(settled)
    return await feed(store, after, tenant=tenant)


def names(entries: Sequence[FeedEntry]) -> list[str]:
    return [f"{item.place.session_id}{item.place.seq}" for item in entries]
