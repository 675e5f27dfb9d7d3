"""Databases that are not as they should be: `serve`, `migrate` and `check` say the same, and none says "ok"."""

import asyncio
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

import sessiond
from sessiond_server.app import database
from sessiond_server.embedded import binaries
from sessiond_server.embedded.folder import DataFolder
from sessiond_server.postgres.causes import translating
from sessiond_server.postgres.fitness import DatabaseUnfit, _check_server
from sessiond_server.postgres.schema.migrate import status
from tests.support.databases import Databases, LoopThread
from tests.support.effort import left_to_long
from tests.support.postgres_pair import Node
from tests.support.serve_process import command, serving
from tests.support.waiting import until


def with_part(dsn: str, *, user: str | None = None, database: str | None = None) -> str:
    parts = urlsplit(dsn)
    netloc = parts.netloc if user is None else f"{user}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=netloc, path=parts.path if database is None else f"/{database}"))


@pytest.fixture
def run(loop_thread: LoopThread):  # type: ignore[no-untyped-def]
    """Executes SQL on the database of a DSN."""

    def execute(dsn: str, *statements: str) -> None:
        async def work() -> None:
            connection = await asyncpg.connect(dsn)
            for statement in statements:
                await connection.execute(statement)
            await connection.close()

        loop_thread.run(work())

    return execute


ROLE = "sessiond_test_stranger"
CREATE_ROLE = f"do $$ begin create role {ROLE} login; exception when duplicate_object then null; end $$"


@pytest.fixture(params=["SQL_ASCII", *left_to_long("LATIN1")])
def encoded(request: pytest.FixtureRequest, empty_postgres_dsn: str, run) -> Iterator[str]:  # type: ignore[no-untyped-def]
    name = f"{Databases.name(empty_postgres_dsn)}_{request.param.lower()}"
    run(
        empty_postgres_dsn,
        f"create database \"{name}\" encoding '{request.param}' locale_provider libc locale 'C' template template0",
    )
    yield with_part(empty_postgres_dsn, database=name)
    run(empty_postgres_dsn, f'drop database "{name}" with (force)')


def same_sentence(sentence: str, *arguments: str, waits: bool = True) -> None:
    """Each command fails, and says it; not `waits`: at once."""
    for name in ("migrate", "check", "serve"):
        listen = () if name == "migrate" else ("--listen", "127.0.0.1:0")
        ended = command(name, *listen, *arguments)
        said = ended.stdout + ended.stderr
        assert ended.returncode != 0, said
        assert sentence in said, said
        assert "Traceback" not in said
        assert "ok      postgres" not in said
        assert "ok      schema" not in said
        assert waits or "waits for Postgres" not in said


@pytest.fixture
async def guarded() -> AsyncIterator[Node]:
    """A server that lets one role in by password only."""
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        folder = DataFolder(Path(path, "clusters"))
        folder.give(folder.path)
        node = Node(folder, binaries.find(folder.account, folder.runtime), "guarded", {"fsync": "off"})
        try:
            await node.make_primary()
            rules = node.data / "pg_hba.conf"
            rules.write_text("host all with_password all scram-sha-256\n" + rules.read_text())
            async with node.connected() as connection:
                await connection.execute("create role with_password login password 'right'")
                await connection.execute("select pg_reload_conf()")
            yield node
        finally:
            await node.stop(signal.SIGQUIT)


@pytest.mark.long
async def test_refusals_that_waiting_cannot_mend_end_every_command_at_once(guarded: Node) -> None:
    dsn = guarded.dsn
    for wrong, sentence in (
        (with_part(dsn, user="with_password:wrong"), 'password authentication failed for user "with_password"'),
        (with_part(dsn, user="nobody_like_that"), 'role "nobody_like_that" does not exist'),
        (with_part(dsn, database="nowhere"), 'database "nowhere" does not exist'),
    ):
        await asyncio.to_thread(same_sentence, sentence, "--postgres-dsn", wrong, waits=False)


async def test_database_that_is_not_there_yet_is_waited_for_by_name(
    caplog: pytest.LogCaptureFixture, unused_tcp_port: int
) -> None:
    attempts = 0

    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await status(f"postgresql://u:secret@127.0.0.1:{unused_tcp_port}/d")
        if attempts == 2:
            with translating():
                raise asyncpg.CannotConnectNowError("the database system is starting up")

    with caplog.at_level("WARNING", "sessiond.app"):
        await database._once_reachable(attempt)
    assert attempts == 3
    said = [record.getMessage() for record in caplog.records if record.name == "sessiond.app"]
    assert len(said) == 2
    assert "waits for Postgres, at most 30 s more: " in said[0]
    assert f"127.0.0.1', {unused_tcp_port}" in said[0]
    assert "the database system is starting up" in said[1]
    assert "secret" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.long
def test_wrong_encoding_is_refused(encoded: str) -> None:
    same_sentence("the database's encoding is ", "--postgres-dsn", encoded)


@pytest.mark.long
def test_tables_of_another_application_are_left_alone(empty_postgres_dsn: str, run) -> None:  # type: ignore[no-untyped-def]
    run(empty_postgres_dsn, "create table sessions (id integer)", "create table events (id integer)")
    sentence = "has tables of another application (events, sessions)"
    same_sentence(sentence, "--postgres-dsn", empty_postgres_dsn)
    run(empty_postgres_dsn, "create table schema_versions (version text)")
    same_sentence("tables of another application (schema_versions", "--postgres-dsn", empty_postgres_dsn)


@pytest.mark.long
def test_role_that_may_not_create_is_named(empty_postgres_dsn: str, run) -> None:  # type: ignore[no-untyped-def]
    run(empty_postgres_dsn, CREATE_ROLE, "revoke create on schema public from public")
    same_sentence(
        f"the role {ROLE} may not create tables in the schema public",
        "--postgres-dsn",
        with_part(empty_postgres_dsn, user=ROLE),
    )


def test_role_without_rights_on_tables_is_named(postgres_dsn: str, run) -> None:  # type: ignore[no-untyped-def]
    run(
        postgres_dsn, CREATE_ROLE,
        f"grant select, insert, update, delete on all tables in schema public to {ROLE}",
        f"revoke update on events from {ROLE}",
    )  # fmt: skip
    try:
        same_sentence(
            f"the role {ROLE} lacks rights (UPDATE on events)", "--postgres-dsn", with_part(postgres_dsn, user=ROLE)
        )
    finally:
        run(postgres_dsn, f"drop owned by {ROLE}")


@pytest.mark.long
def test_unsafe_database_is_said_and_refused_on_demand(postgres_dsn: str, run) -> None:  # type: ignore[no-untyped-def]
    run(postgres_dsn, f'alter database "{Databases.name(postgres_dsn)}" set synchronous_commit = off')
    for name in ("migrate", "check"):
        ended = command(name, "--postgres-dsn", postgres_dsn)
        said = ended.stdout + ended.stderr
        assert ended.returncode == 0 or "FAILED  listen" in said, said
        assert "the database runs with synchronous_commit off" in said
    same_sentence(
        "synchronous_commit off, which --require-durable forbids", "--postgres-dsn", postgres_dsn, "--require-durable"
    )


@pytest.mark.long
def test_schema_that_is_not_there_is_named(empty_postgres_dsn: str) -> None:
    more = "&" if "?" in empty_postgres_dsn else "?"
    same_sentence("names no schema that exists", "--postgres-dsn", f"{empty_postgres_dsn}{more}schema=nowhere")


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"version": 130022}, "the server is PostgreSQL 13; 14 or newer is needed"),
        ({"read_only": True}, "the database is read-only"),
        ({"standby": True}, "the database is a standby"),
        ({"encoding": "SQL_ASCII"}, "encoding is SQL_ASCII"),
    ],
)
def test_unfit_servers_are_refused(about: dict[str, object], sentence: str) -> None:
    fit = {"read_only": False, "version": 180000, "standby": False, "encoding": "UTF8", "schema": "public"}
    _check_server(fit)
    with pytest.raises(DatabaseUnfit, match=sentence):
        _check_server({**fit, **about})


@pytest.mark.long
async def test_database_made_read_only_refuses_every_write_and_health_says_so(postgres_dsn: str) -> None:
    name = Databases.name(postgres_dsn)
    async with (
        serving("--postgres-dsn", postgres_dsn, "--outage", "200ms") as server,
        sessiond.Client(server.target, timeout=60) as client,
    ):
        session_id = (await client.create_session(active=True)).session_id
        connection = await asyncpg.connect(postgres_dsn)
        try:
            await connection.execute(f'alter database "{name}" set default_transaction_read_only = on')
            # What is connected goes by what held when it connected.
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                f" where datname = '{name}' and pid <> pg_backend_pid()"
            )
            await until(lambda: command("healthcheck", "--listen", server.target).returncode == 1)
            with pytest.raises(sessiond.StoreUnavailable):
                await client.append_messages(session_id, [sessiond.user("x")])
            assert (await client.get_session(session_id)).version == 1
            ended = await asyncio.to_thread(command, "check", "--postgres-dsn", postgres_dsn, "--listen", "127.0.0.1:0")
            assert "FAILED  postgres" in ended.stdout
            assert "the database is read-only" in ended.stdout
        finally:
            await connection.execute("set default_transaction_read_only = off")
            await connection.execute(f'alter database "{name}" reset default_transaction_read_only')
            await connection.close()
        await until(lambda: command("healthcheck", "--listen", server.target).returncode == 0)
        await client.append_messages(session_id, [sessiond.user("y")])


async def test_pool_size_bounds_all_connections(postgres_dsn: str) -> None:
    async with (
        serving("--postgres-dsn", postgres_dsn, "--pool-size", "5", "--sweep-interval", "50ms") as server,
        sessiond.Client(server.target, timeout=60) as client,
    ):
        session_id = (await client.create_session(active=True)).session_id
        connection = await asyncpg.connect(postgres_dsn)
        most, done = 0, asyncio.Event()

        async def observe() -> None:
            nonlocal most
            while not done.is_set():
                found = await connection.fetchval(
                    "select count(*) from pg_stat_activity where datname = current_database()"
                    " and pid <> pg_backend_pid() and backend_type = 'client backend'"
                )
                most = max(most, found)
                await asyncio.sleep(0)

        observing = asyncio.create_task(observe())
        await asyncio.gather(
            *(client.append_messages(session_id, [sessiond.user("x")]) for _ in range(40)),
            *(client.get_session(session_id) for _ in range(40)),
            *(client.upload(session_id, bytes(2**20 + number), name="x") for number in range(8)),
        )
        done.set()
        await observing
        await connection.close()
        assert 2 <= most <= 5


@pytest.mark.long
def test_dead_blob_store_is_said(tmp_path: Path) -> None:
    dead = "s3://bucket?endpoint=http://127.0.0.1:1&region=x"
    ended = command(
        "check", "--store", "memory", "--listen", "127.0.0.1:0", "--blob-store", dead,
        AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y",
    )  # fmt: skip
    assert ended.returncode == 1
    assert "FAILED  blobs" in ended.stdout
    assert "the storage of attachments cannot be reached at s3://bucket" in ended.stdout
    fine = command("check", "--store", "memory", "--listen", "127.0.0.1:0", "--blob-store", f"file://{tmp_path}/blobs")
    assert "ok      blobs" in fine.stdout


@pytest.mark.long
def test_taken_port_is_said_alike() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for name in ("serve", "check"):
            ended = command(name, "--store", "memory", "--listen", address)
            said = ended.stdout + ended.stderr
            assert ended.returncode == 1
            assert f"cannot listen on {address}: it is taken, or not an address of this machine" in said
            assert "Traceback" not in said
