"""A tenant moves to another database while the service runs: nothing is lost, doubled or left behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import sessiond
from sessiond.v1.event_pb2 import EventType
from sessiond_server.app.summary import Service
from sessiond_server.domain.commands import Scope
from sessiond_server.postgres.moving import conditions, mover, record, switching, undoing
from sessiond_server.postgres.moving.record import MoveRefused, Step
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted
from tests.support.databases import Databases
from tests.support.effort import left_to_long
from tests.support.serve_process import command
from tests.support.several_databases import Dsns, group, serving, variables, write_keys
from tests.support.tenant_moves import left_over, move, moving, rows
from tests.support.transactions import connected
from tests.support.waiting import until

TENANTS = {"acme": "main", "globex": "eu", "initech": "us"}
"""Tenant -> its home."""


@pytest.fixture
def dsns(databases: Databases) -> Iterator[Dsns]:
    made = {each: databases.create_migrated() for each in ("main", "eu", "us")}
    group(made, TENANTS)
    yield made
    for dsn in made.values():
        databases.drop(dsn)


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    return write_keys(tmp_path, *TENANTS)


def _client(service: Service, key: str, database: str | None = None) -> sessiond.Client:
    return sessiond.Client(str(service.listening), api_key=key, database=database, timeout=60.0)


async def undo(dsns: Dsns, tenant: str, source: str, target: str) -> None:
    notes, old, new = ((each, dsns[each]) for each in ("main", source, target))
    async with mover.locked(notes, tenant) as default:
        await undoing.clear(default, old, new, await undoing.reopen(default, old, tenant), lambda _: None)


async def indexed(dsn: str) -> int:
    """How many messages are in the index of searches, of all tenants."""
    async with connected(dsn) as connection:
        count: int = await connection.fetchval("select count(*) from search_entries")
        return count


def settled(counts: dict[str, int]) -> dict[str, int]:
    """Without what is counted of the feed in the background; tests/app/test_moved_contents.py has it."""
    return {table: count for table, count in counts.items() if not table.startswith("usage_")}


async def fill(client: sessiond.Client) -> dict[str, Any]:
    """Some of everything; what is kept of it."""
    await client.create_session(session_id="s", user_id="u", state={"a": 1}, active=True)
    first = await client.append_messages("s", [sessiond.user("one")], request_id="retried")
    await client.upload("s", b"bytes" * 5000, attachment_id="file")
    await client.create_session(session_id="gone")
    await client.delete_session("gone")
    return {"first": first}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("main", "eu"),
        pytest.param("eu", "us", marks=pytest.mark.long),
        pytest.param("us", "main", marks=pytest.mark.long),
    ],
)
async def test_everything_of_a_tenant_moves(
    dsns: Dsns, keys: dict[str, str], tmp_path: Path, redis_url: str, source: str, target: str
) -> None:
    tenant = {home: tenant for tenant, home in TENANTS.items()}[source]
    async with (
        serving(dsns, tmp_path, SESSIOND_REDIS_URL=redis_url) as service,
        _client(service, keys[tenant]) as client,
    ):
        kept = await fill(client)
        before = await rows(dsns[source], tenant)
        feed = client.watch_events(from_beginning=True)
        async with feed:
            seen = [(event.session_id, event.seq) for event in [await anext(aiter(feed)) for _ in range(3)]]
            said = await move(dsns, tenant, source, target)
            assert said[-1].startswith("removed "), said
            assert await rows(dsns[source], tenant) == {}
            # The index does not move: it goes with the old rows, and is built from the log in the new home.
            found = await client.search_messages("one", wait_for=("s", 2)).page()
            assert [hit.seq for hit in found.hits] == [2]
            assert await indexed(dsns[source]) == 0
            assert await indexed(dsns[target]) == 1
            assert settled(await rows(dsns[target], tenant)) == settled(before)
            again = await client.append_messages("s", [sessiond.user("one")], request_id="retried")
            assert again == kept["first"]
            await client.append_messages("s", [sessiond.user("two")])
            assert await client.download("s", "file").read() == b"bytes" * 5000
            while seen[-1] != ("s", (await client.get_session("s")).version):
                event = await anext(aiter(feed))
                seen.append((event.session_id, event.seq))
        async with client.watch_events(from_beginning=True) as whole:
            assert seen == [(event.session_id, event.seq) for event in [await anext(aiter(whole)) for _ in seen]]
        assert await left_over(dsns) == []


class Writer:
    """Appends to a session without a pause, each message with its own request id until it is acknowledged."""

    def __init__(self, client: sessiond.Client) -> None:
        self._client = client
        self._acked: list[str] = []
        self._stopping = False

    async def run(self) -> None:
        number = 0
        while not self._stopping:
            text = f"{number}"
            while True:
                try:
                    await self._client.append_messages("s", [sessiond.user(text)], request_id=f"request-{text}")
                    break
                except sessiond.StoreUnavailable:
                    await asyncio.sleep(0.02)
            self._acked.append(text)
            number += 1
            await asyncio.sleep(0.01)

    async def stop(self, running: "asyncio.Task[None]") -> list[str]:
        self._stopping = True
        await running
        return self._acked


@asynccontextmanager
async def written(client: sessiond.Client) -> AsyncIterator[Callable[[], int]]:
    """Messages are appended while the context is open. Afterwards each is stored once, and a feed had each once."""
    await client.create_session(session_id="s", active=True)
    writer, seen = Writer(client), list[str]()
    running = asyncio.create_task(writer.run())

    async def watch() -> None:
        async with client.watch_events(from_beginning=True) as feed:
            async for event in feed:
                if event.type == EventType.EVENT_TYPE_MESSAGE_APPENDED:
                    seen.append(event.message.parts[0].text)

    watching = asyncio.create_task(watch())
    try:
        yield lambda: len(seen)
        acked = await writer.stop(running)
        stored = [each.parts[0].text async for each in client.list_messages("s")]
        assert stored == acked
        await until(lambda: len(seen) >= len(acked) or watching.done())
        assert seen == acked
    finally:
        for task in (running, watching):
            task.cancel()
        await asyncio.gather(running, watching, return_exceptions=True)


async def _undone(dsns: Dsns, tenant: str, until_step: Step) -> None:
    """Begins a move, and undoes it at that step."""
    async with moving(dsns, tenant, "eu", "us") as (made, _):
        await made.begin()
        steps = {Step.COPYING: made._copy, Step.CLOSING: made._close}
        async with connected(dsns["main"]) as notes:
            while (found := await record.read(notes, tenant)) and found.step is not until_step:
                await steps[found.step](found)
        if until_step is Step.SWITCHING:
            async with connected(dsns["eu"]) as source:
                await switching.leave_source(source, tenant, "us")
    await undo(dsns, tenant, "eu", "us")


@pytest.mark.parametrize("step", [Step.COPYING, *left_to_long(Step.CLOSING, Step.SWITCHING)])
async def test_a_move_that_is_undone_leaves_everything_as_it_was(
    dsns: Dsns, keys: dict[str, str], tmp_path: Path, step: Step
) -> None:
    async with serving(dsns, tmp_path) as service, _client(service, keys["globex"]) as client:
        async with written(client) as seen:
            await until(lambda: seen() > 5)
            await _undone(dsns, "globex", step)
            before = seen()
            await until(lambda: seen() > before + 5)
        assert await rows(dsns["us"], "globex") == {}
        assert await left_over(dsns) == []
        with pytest.raises(MoveRefused, match="no move"):
            await undo(dsns, "globex", "eu", "us")


async def test_undoing_a_copy_leaves_no_slot_though_the_target_cannot_reach_the_source(dsns: Dsns) -> None:
    async with PostgresStore(dsns["eu"]) as store:
        await accepted(store, Caller(Scope("globex")).create("s"))
    async with connected(dsns["us"]) as target, moving(dsns, "globex", "eu", "us") as (made, _):
        # The copy of this table fails and is tried again after five seconds; its slot stays meanwhile.
        await target.execute("alter table session_heads add constraint refuse check (false) not valid")
        await made.begin()
        copy = asyncio.create_task(made.go_on())
        async with connected(dsns["eu"]) as source:
            await until(partial(_waits_to_copy_again, source))
        copy.cancel()
        await asyncio.gather(copy, return_exceptions=True)
        name = await target.fetchval("select subname from pg_subscription where subname like 'sessiond_move_%'")
        await target.execute(f"alter subscription {name} connection 'host=127.0.0.1 port=1 dbname=none'")
    await undo(dsns, "globex", "eu", "us")
    assert await left_over(dsns) == []


async def _waits_to_copy_again(source: asyncpg.Connection) -> bool:
    """Whether a slot of one table is there, which no copy uses, and no other."""
    slots = await source.fetch(
        "select active from pg_replication_slots where database = current_database() and slot_name like 'pg_%_sync_%'"
    )
    return [row[0] for row in slots] == [False]


PLACES = [
    "move_copying", "move_shut", "move_subscribed", "move_closing", "move_switching", "move_fenced", "move_opening",
    "move_opened", "move_removing", "move_removed",
]  # fmt: skip


@pytest.mark.long
async def test_a_mover_that_is_killed_at_each_step_is_followed_by_one_that_goes_on(
    dsns: Dsns, keys: dict[str, str], tmp_path: Path
) -> None:
    arguments = ("databases", "move", "globex", "--to", "us")
    async with serving(dsns, tmp_path) as service, _client(service, keys["globex"]) as client:
        async with written(client):
            for place in PLACES:
                killed = await asyncio.to_thread(
                    command, *arguments, **variables(dsns), SESSIOND_FAILPOINTS=f"{place}=exit:1"
                )
                assert killed.returncode == -9, (place, killed)
                listed = await asyncio.to_thread(command, "databases", "list", **variables(dsns))
                assert "globex moves from eu to us: " in listed.stdout, listed
            done = await asyncio.to_thread(command, *arguments, **variables(dsns))
            assert done.returncode == 0, done
            assert done.stdout.endswith("globex has moved from eu to us\n")
        assert await rows(dsns["eu"], "globex") == {}
        assert await left_over(dsns) == []


async def test_moves_that_cannot_be_are_refused(dsns: Dsns, monkeypatch: pytest.MonkeyPatch) -> None:
    async with moving(dsns, "globex", "eu", "us") as (made, _):
        with pytest.raises(MoveRefused, match="another process"):
            async with moving(dsns, "globex", "eu", "us"):
                pass
        with pytest.raises(MoveRefused, match="no move"):
            await made.go_on()
        for setting, value, why in (
            ("current_setting('wal_level')", "'replica'", "wal_level of the server of eu is replica: set it to logic"),
            ("current_setting('server_version_num')::integer", "140009", "the server of eu is PostgreSQL 14"),
            ("current_schema()::text", "'other'", "the tables of eu are in the schema other"),
        ):
            with monkeypatch.context() as patched:
                assert setting in conditions._SOURCE
                patched.setattr(conditions, "_SOURCE", conditions._SOURCE.replace(setting, value))
                with pytest.raises(MoveRefused, match=why):
                    await made.begin()
    async with PostgresStore(dsns["us"]) as store:
        await accepted(store, Caller(Scope("globex")).create("by-name"))
        async with moving(dsns, "globex", "eu", "us") as (made, _):
            await made.begin()
            with pytest.raises(MoveRefused, match="holds data"):
                await made.go_on()
        await accepted(store, Caller(Scope("globex")).create("another"))
    assert await left_over(dsns) == []


async def test_a_tenant_that_has_just_moved_stays_for_two_minutes(dsns: Dsns) -> None:
    async with connected(dsns["main"]) as notes:
        await record.begin(notes, "globex", "us", "eu")
        await notes.execute("update tenant_moves set step = 'done'")
        async with moving(dsns, "globex", "eu", "us") as (made, _):
            with pytest.raises(MoveRefused, match="wait"):
                await made.begin()
            await notes.execute("update tenant_moves set step_time = now() - interval '121 s'")
            await made.begin()
    await undo(dsns, "globex", "eu", "us")
    assert await left_over(dsns) == []
