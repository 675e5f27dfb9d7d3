"""The commands beside serve: what they print, and their exit codes."""

import asyncio
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import sessiond
from sessiond.v1.event_pb2 import Event, EventType
from sessiond_server.auth import SESSIONS_READ, digest_of, load_keys
from sessiond_server.cli import show
from sessiond_server.settings import SETTINGS, markdown
from tests.support.serve_process import command, data_folder, serving
from tests.support.transactions import connected


def test_version() -> None:
    assert command("--version").stdout == f"sessiond {version('sessiond')}\n"


def test_without_a_command_it_says_what_there_is() -> None:
    asked = command()
    assert asked.returncode == 2
    for name in ("serve", "migrate", "check", "show", "keys", "healthcheck"):
        assert name in asked.stdout


def test_settings_prints_the_readmes_table() -> None:
    assert command("settings").stdout == markdown()
    assert markdown().count("\n") == len(SETTINGS) + 2


def test_a_new_key_opens_what_it_says_and_is_printed_beside_the_file(tmp_path: Path) -> None:
    made = command("keys", "new", "--name", "ada's", "--tenant", "acme", "--user", "u-1", "--scope", SESSIONS_READ)
    assert made.returncode == 0
    key = made.stderr.split()[-1]
    assert key not in made.stdout
    file = tmp_path / "keys.toml"
    file.write_text(made.stdout + command("keys", "new", "--name", "other").stdout)
    principal = load_keys(file)[digest_of(key)]
    assert (principal.name, principal.tenant_id, principal.user_id) == ("ada's", "acme", "u-1")
    assert principal.scopes == {SESSIONS_READ}
    assert len(tomllib.loads(file.read_text())["keys"]) == 2


def test_a_key_that_no_file_may_hold_is_not_made() -> None:
    refused = command("keys", "new", "--name", "x", "--tenant", "two words")
    assert refused.returncode == 2
    assert "tenant must be" in refused.stderr
    assert refused.stdout == ""


def test_migrate_says_what_it_did(empty_postgres_dsn: str) -> None:
    first = command("migrate", SESSIOND_POSTGRES_DSN=empty_postgres_dsn)
    second = command("migrate", "--postgres-dsn", empty_postgres_dsn)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "0001_" in first.stdout
    assert second.stdout == "the schema already has this version\n"


def test_a_database_out_of_reach_is_said_in_words() -> None:
    failed = command("migrate", "--postgres-dsn", "postgresql://me:hunter2@127.0.0.1:1/x")
    assert failed.returncode == 1
    assert "the database cannot be reached" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "hunter2" not in failed.stderr


async def test_check_changes_nothing_in_the_database(postgres_dsn: str) -> None:
    """A store's connections would settle the order of feeds after a restore, which is serve's to do and to tell."""
    async with connected(postgres_dsn) as database:
        await database.execute("update feed_order set cluster = 1")
        checked = await asyncio.to_thread(
            command, "check", "--production", "--postgres-dsn", postgres_dsn, "--listen", "127.0.0.1:0"
        )
        assert "schema" in checked.stdout
        assert await database.fetchval("select cluster from feed_order") == 1


def test_check_finds_everything(empty_postgres_dsn: str, redis_url: str) -> None:
    servers = {"SESSIOND_POSTGRES_DSN": empty_postgres_dsn, "SESSIOND_REDIS_URL": redis_url}
    before = command("check", "--listen", "127.0.0.1:0", **servers)
    assert before.returncode == 0, before.stdout
    assert "will apply 0001_" in before.stdout
    command("migrate", **servers)
    after = command("check", "--listen", "127.0.0.1:0", **servers)
    assert after.returncode == 0, after.stdout
    assert "will apply" not in after.stdout
    lines = after.stdout.splitlines()
    # The tests' own server does without fsync, which is said.
    assert all(line.startswith("ok ") or line.endswith("when its machine crashes") for line in lines)
    for thing in ("access", "listen", "postgres", "schema", "redis"):
        assert f"ok      {thing} " in after.stdout


def test_check_creates_nothing() -> None:
    with data_folder() as data:
        found = command("check", "--listen", "127.0.0.1:0", "--data-dir", data)
        assert found.returncode == 0, found.stdout
        assert "to be created by serve" in found.stdout
        assert not data.exists()


@pytest.mark.parametrize(
    ("arguments", "thing"),
    [
        (("--listen", "0.0.0.0:0", "--store", "memory"), "access"),
        *(
            pytest.param(*row, marks=pytest.mark.long)
            for row in (
                (("--listen", "192.0.2.1:50051", "--store", "memory", "--allow-unauthenticated-network"), "listen"),
                (("--keys-file", "/nowhere/keys.toml", "--store", "memory"), "keys"),
                (("--tls-cert-file", "/nowhere/c", "--tls-key-file", "/nowhere/k", "--store", "memory"), "tls"),
                (("--postgres-dsn", "postgresql://me:hunter2@127.0.0.1:1/x"), "postgres"),
                (("--store", "memory", "--redis-url", "redis://:hunter2@127.0.0.1:1"), "redis"),
            )
        ),
    ],
)
def test_check_names_what_fails_and_says_what_to_do(arguments: tuple[str, ...], thing: str) -> None:
    listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
    found = command("check", *listen, *arguments)
    lines = found.stdout.splitlines()
    failed = [number for number, line in enumerate(lines) if line.startswith("FAILED")]
    assert found.returncode == 1
    assert [lines[number].split()[1] for number in failed] == [thing]
    assert lines[failed[0] + 1].startswith(" " * 18)
    assert "hunter2" not in found.stdout + found.stderr


async def test_show_prints_the_log_of_the_tenants_session(empty_postgres_dsn: str) -> None:
    async with serving(SESSIOND_POSTGRES_DSN=empty_postgres_dsn) as server:
        async with sessiond.Client(server.target) as client:
            await client.create_session(session_id="s", user_id="ada", labels={"team": "red"}, active=True)
            await client.append_messages("s", [sessiond.user("こんにちは " + "x" * 500)])
            await client.suspend_session("s")
        assert await server.stop() == 0
    short = command("show", "s", SESSIOND_POSTGRES_DSN=empty_postgres_dsn)
    full = command("show", "s", "--full", SESSIOND_POSTGRES_DSN=empty_postgres_dsn)
    foreign = command("show", "s", "--tenant", "other", SESSIOND_POSTGRES_DSN=empty_postgres_dsn)
    assert short.returncode == full.returncode == 0
    for text in ("ada", "team=red", "SUSPENDED", "SESSION_CREATED by local", "SESSION_SUSPENDED", "こんにちは"):
        assert text in short.stdout
    assert "x" * 500 not in short.stdout
    assert "(506 characters)" in short.stdout
    assert "x" * 500 in full.stdout
    assert foreign.returncode == 1
    assert foreign.stdout == "tenant other has no session s\n"


def test_show_without_data_creates_none() -> None:
    with data_folder() as data:
        asked = command("show", "s", "--data-dir", data)
        assert asked.returncode == 1
        assert asked.stdout == f"there is no data in {data} yet\n"
        assert not data.exists()


def test_contents_cannot_steer_the_terminal() -> None:
    event = Event(seq=1, type=EventType.EVENT_TYPE_MESSAGE_APPENDED, actor="local")
    event.message.parts.add(text="red \x1b[31m back \u202e and \r\nover")
    lines = list(show.event_lines(event, full=True))
    assert all(line.isprintable() for line in lines)
    assert lines[-1].strip() == "red \\x1b[31m back \\u202e and \\r\\nover"


def test_healthcheck_of_nothing_fails() -> None:
    asked = command("healthcheck", "--listen", "0.0.0.0:1", "--timeout", "1")
    assert asked.returncode == 1
    assert asked.stdout == "127.0.0.1:1: UNREACHABLE\n"
