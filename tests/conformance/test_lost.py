"""find_lost: it reports a delivered event as lost if and only if the log no longer has it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest

from sessiond_server.domain.log import FeedEntry, FeedPlace
from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.anchors import created_us
from sessiond_server.store.contract import Store
from tests.support.caller import Caller, accepted
from tests.support.feeds import START, complete
from tests.support.store_backend import Backend, Open

Witness = tuple[FeedPlace, str]
KEPT = timedelta(days=30)


def anchors(entries: Sequence[FeedEntry]) -> list[Witness]:
    return [(item.place, item.entry.event_id) for item in entries]


def altered(anchor: Witness, session_id: str | None = None, event_id: str | None = None) -> Witness:
    place, original = anchor
    moved = FeedPlace(place.commit_xid, session_id or place.session_id, place.seq)
    return moved, event_id or original


async def test_no_position_is_lost_while_the_log_is_whole(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("a"), caller.append("a", "x", "y"), caller.create("b"))
    all_of_them = anchors(await complete(store))
    assert len(all_of_them) == 4
    assert await store.find_lost("tenant", all_of_them) is None
    assert await store.find_lost("tenant", []) is None


async def test_position_in_a_deleted_session_is_not_lost(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("a"), caller.append("a"), caller.create("b"))
    before = anchors(await complete(store))
    await accepted(store, caller.delete("a"))
    after = anchors(await complete(store))
    assert await store.find_lost("tenant", [*before, *after]) is None


async def test_position_is_lost_when_another_event_has_its_seq(store: Store, caller: Caller) -> None:
    """The log continued differently, so a seq was used again."""
    await accepted(store, caller.create("a"), caller.append("a", "x", "y", "z"))
    one, two, three, four = anchors(await complete(store))
    for lost in (one, two, three, four):
        other = altered(lost, event_id=three[1] if lost != three else four[1])
        assert await store.find_lost("tenant", [one, other, two]) == lost[0]


async def test_position_beyond_the_end_of_the_log_is_lost(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("a"), caller.append("a", "x"), caller.create("b"), caller.append("b"))
    await accepted(store, caller.append("b", "y"))
    entries = anchors(await complete(store))
    beyond = altered(entries[-1], session_id="a")
    assert beyond[0].seq == 3
    assert await store.find_lost("tenant", [*entries, beyond]) == beyond[0]


async def test_position_in_an_absent_session_is_lost(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("a"), caller.create("b"))
    entries = anchors(await complete(store))
    gone = altered(entries[1], session_id="c")
    assert await store.find_lost("tenant", [*entries, gone]) == gone[0]
    assert await store.find_lost("other", entries) == entries[0][0]


async def test_first_lost_position_is_reported(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("a"), caller.create("b"))
    a, b = anchors(await complete(store))
    lost = [altered(a, session_id=name) for name in "cd"]
    assert await store.find_lost("tenant", [a, *lost, b]) == lost[0][0]
    assert await store.find_lost("tenant", [a, *lost[::-1], b]) == lost[1][0]


async def test_position_is_lost_when_a_deletion_took_its_seq(store: Store, caller: Caller) -> None:
    """The event was lost, and the session deleted instead: the tombstone is not above it, or names another one."""
    await accepted(store, caller.create("a"), caller.append("a", "x"))
    created, appended = anchors(await complete(store))
    await accepted(store, caller.delete("a"))
    (final,) = anchors(await complete(store))
    assert await store.find_lost("tenant", [altered(final, event_id=created[1])]) == final[0]
    assert await store.find_lost("tenant", [altered(appended, event_id=created[1])]) == appended[0]
    beyond = (FeedPlace(9, "a", 4), appended[1])
    assert await store.find_lost("tenant", [beyond]) == beyond[0]
    assert await store.find_lost("tenant", [created, appended, final]) is None


@dataclass
class Kept:
    """A store whose clock can be moved by more than tombstones are kept, and what its feed has delivered."""

    backend: Backend
    delivered: list[Witness]


@pytest.fixture
async def kept(open_backend: Open, caller: Caller) -> Kept:
    """Its clock begins at the present, that of the event ids."""
    backend = await open_backend(tombstone_retention=KEPT)
    (now,) = [(await backend.store.log_heads([])).now_us]
    await accepted(backend.store, caller.create("gone"), caller.append("gone"), caller.create("here"))
    delivered = anchors(await complete(backend.store))
    await backend.advance((created_us(delivered[-1][1]) - now) / 1_000_000)
    return Kept(backend, delivered)


async def test_while_tombstones_are_kept_an_absent_session_is_lost(kept: Kept) -> None:
    absent = altered(kept.delivered[1], session_id="absent")
    store = kept.backend.store
    assert await store.find_lost("tenant", [absent]) == absent[0]
    await kept.backend.advance(KEPT.total_seconds() - 3600)
    assert await store.find_lost("tenant", [absent]) == absent[0]
    await kept.backend.advance(2 * 3600)
    assert await store.find_lost("tenant", [absent]) is None


async def test_a_purged_session_is_not_lost(kept: Kept, caller: Caller) -> None:
    store = kept.backend.store
    await accepted(store, caller.delete("gone"))
    await kept.backend.advance(KEPT.total_seconds() + 3600)
    await store.purge(10)
    assert [head is None for head in (await store.log_heads([("tenant", "gone")])).heads] == [True]
    assert await store.find_lost("tenant", kept.delivered) is None


async def test_a_session_that_has_taken_a_purged_ones_id(kept: Kept, caller: Caller) -> None:
    """Its log holds other events, and may be shorter."""
    store = kept.backend.store
    await accepted(store, caller.delete("gone"))
    await kept.backend.advance(KEPT.total_seconds() + 3600)
    await store.purge(10)
    # Event ids tell their age by the wall clock, to the millisecond; retentions last longer.
    newest = max(created_us(event_id) for _, event_id in kept.delivered)
    while time.time_ns() // 1_000 < newest + 1_000:
        pass
    await accepted(store, caller.create("gone"))
    assert await store.find_lost("tenant", kept.delivered) is None
    await accepted(store, caller.append("gone"), caller.append("gone"), caller.delete("gone"))
    assert await store.find_lost("tenant", kept.delivered) is None


async def test_position_lost_in_a_living_session_stays_lost(kept: Kept) -> None:
    """Its first event is older than the lost one: it was not deleted in between."""
    store, (created, *_, last) = kept.backend.store, kept.delivered
    beyond = (FeedPlace(last[0].commit_xid, created[0].session_id, 9), last[1])
    await kept.backend.advance(KEPT.total_seconds() + 3600)
    assert await store.find_lost("tenant", [beyond]) == beyond[0]


_TABLES = ("session_heads", "sessions", "events", "requests")


async def test_positions_are_lost_in_a_database_that_went_back(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """As a failover to a standby that lagged leaves it, and as it is when others have gone on writing."""
    await accepted(postgres, caller.create("a"), caller.create("b"))
    for table in _TABLES:
        await database.execute(f"create table then_{table} as table {table}")
    await accepted(postgres, caller.append("a", "x", "y"), caller.append("b"), caller.create("c"))
    delivered = anchors(await complete(postgres))
    assert [(place.session_id, place.seq) for place, _ in delivered[2:]] == [("a", 2), ("a", 3), ("b", 2), ("c", 1)]
    for table in _TABLES:
        await database.execute(f"delete from {table}; insert into {table} table then_{table}")

    async def find() -> list[FeedPlace | None]:
        return [await postgres.find_lost("tenant", [anchor]) for anchor in delivered]

    lost = [None, None, *(place for place, _ in delivered[2:])]
    assert await find() == lost
    assert await postgres.find_lost("tenant", delivered) == delivered[2][0]
    await accepted(postgres, caller.append("a", "other"), caller.append("b", "other"), caller.create("c"))
    assert await find() == lost
    await accepted(postgres, caller.append("a", "another"), caller.delete("b"))
    assert await find() == lost


async def test_a_standby_gives_no_answers(
    monkeypatch: pytest.MonkeyPatch, postgres: PostgresStore, caller: Caller
) -> None:
    """It may lag. tests/faults asks a real one."""
    await accepted(postgres, caller.create("s"))
    fetch = Transactions.fetch

    async def from_a_standby(self: Transactions, statement: str, *parameters: object) -> Sequence[asyncpg.Record]:
        return await fetch(self, statement.replace("pg_is_in_recovery()", "true"), *parameters)

    monkeypatch.setattr(Transactions, "fetch", from_a_standby)
    for read in (
        postgres.log_heads([("tenant", "s")]),
        postgres.log_heads([]),
        postgres.read_log(("tenant", "s"), after_seq=0, limit=1),
        postgres.read_log(("tenant", "none"), after_seq=0, limit=1),
        postgres.read_feed("tenant", after=START, limit=1),
        postgres.read_feed("nobody", after=START, limit=1),
        postgres.feed_end("tenant"),
        postgres.feed_end("nobody"),
        postgres.find_lost("tenant", [(FeedPlace(1, "s", 1), "00000000-0000-7000-8000-000000000000")]),
        postgres.find_lost("tenant", []),
    ):
        with pytest.raises(StoreUnavailable):
            await read
