"""A Postgres primary and its streaming standby, both real, which restart, fail over and change roles on command."""

import asyncio
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from sessiond_server.embedded import binaries
from sessiond_server.embedded.folder import DataFolder
from sessiond_server.embedded.process import Child
from tests.support.ports import free_port
from tests.support.proxy import Proxy

ROLE = DATABASE = "sessiond"
PATIENCE = 120.0
"""Seconds until something that must happen counts as not happening."""
POLL = 0.02

Survey = Callable[[asyncpg.Connection], Awaitable[None]]


class Node:
    """One Postgres server on a port and a folder that stay the same, whatever it is at the moment."""

    def __init__(self, folder: DataFolder, programs: binaries.Binaries, name: str, settings: Mapping[str, str]) -> None:
        self.port = free_port()
        self.data = folder.path / name
        self._folder = folder
        self._programs = programs
        self._log = folder.log_file(name)
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
            "wal_keep_size": "1GB",
            "wal_receiver_status_interval": "1s",
            "wal_retrieve_retry_interval": "200ms",
            "wal_receiver_timeout": "5s",
            "wal_sender_timeout": "0",  # a primary that hangs must not tell by ending the link
            "synchronous_commit": "on",
            "timezone": "UTC",
            "log_checkpoints": "off",
            "jit": "off",
            **settings,
        }
        self._child: Child | None = None

    async def make_primary(self) -> None:
        """An empty cluster with the database."""
        builtin = ("--no-locale", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8")
        locale = builtin if int(self._programs.major) >= 17 else ("--locale", "C.UTF-8")
        await self._run(
            "initdb", "-D", self.data, "--username", ROLE, "--auth", "trust", "--encoding", "UTF8", *locale, "--no-sync"
        )
        await self.start()
        async with self.connected("postgres") as connection:
            await connection.execute(f"CREATE DATABASE {DATABASE}")

    async def make_standby(self, primary_port: int, upstream_port: int) -> None:
        """A copy of what listens on `primary_port`, that follows what listens on `upstream_port`."""
        shutil.rmtree(self.data, ignore_errors=True)
        await self._run(
            "pg_basebackup", "-D", self.data, "-h", "127.0.0.1", "-p", str(primary_port), "-U", ROLE,
            "-X", "stream", "-c", "fast", "--no-sync",
        )  # fmt: skip
        (self.data / "standby.signal").touch()
        self._folder.give(self.data / "standby.signal")
        conninfo = f"host=127.0.0.1 port={upstream_port} user={ROLE} application_name=standby connect_timeout=2"
        await self.start({"primary_conninfo": conninfo})

    async def age(self, epochs: int) -> None:
        """Raises the ids of transactions, as years of work would: to an epoch, or with 0 by 5 000. It is restarted."""
        if epochs:
            await self.stop(signal.SIGINT)
            await self._run("pg_resetwal", "-D", self.data, "--epoch", str(epochs))
            await self.start()
            return
        async with self.connected() as connection:
            await connection.execute(
                "do $$ begin for i in 1..5000 loop perform pg_current_xact_id(); commit; end loop; end $$"
            )

    def set(self, name: str, value: str) -> None:
        """From its next start on."""
        self._settings[name] = value

    async def dump(self, path: Path) -> None:
        """Writes the database into a file, with pg_dump."""
        await self._run("pg_dump", *self._address(), "--format", "custom", "--file", path, DATABASE)

    async def restore(self, path: Path) -> None:
        """Reads a dump into the database, which is empty, with pg_restore."""
        await self._run("pg_restore", *self._address(), "--exit-on-error", "--dbname", DATABASE, path)

    async def copy(self, path: Path) -> None:
        """Writes a base backup into a folder, with pg_basebackup."""
        await self._run("pg_basebackup", "-D", path, *self._address(), "-X", "fetch", "-c", "fast", "--no-sync")

    async def recover(self, copy: Path, archive: Path, point: str) -> None:
        """Starts from a base backup and the archived log, up to a restore point, and takes writes then."""
        await asyncio.to_thread(shutil.rmtree, self.data)
        await asyncio.to_thread(shutil.move, copy, self.data)
        (self.data / "recovery.signal").touch()
        self._folder.give(self.data / "recovery.signal")
        await self.start({
            "restore_command": f'cp "{archive}/%f" "%p"',
            "recovery_target_name": point,
            "recovery_target_action": "promote",
        })  # fmt: skip
        async with self.connected() as connection, asyncio.timeout(PATIENCE):
            while await connection.fetchval("SELECT pg_is_in_recovery()"):  # noqa: ASYNC110 - another process
                await asyncio.sleep(POLL)

    @property
    def dsn(self) -> str:
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{DATABASE}"

    def _address(self) -> Sequence[str]:
        return ("--host", "127.0.0.1", "--port", str(self.port), "--username", ROLE)

    async def start(self, more: Mapping[str, str] | None = None) -> None:
        """Returns when it answers."""
        settings = [word for item in {**self._settings, **(more or {})}.items() for word in ("-c", "=".join(item))]
        command: Sequence[str | Path] = [self._programs.postgres, "-D", self.data, *settings]
        self._child = Child(self._folder.account, command, self._log, signal.SIGQUIT)
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(OSError, asyncpg.PostgresError):
                    async with self.connected("postgres"):
                        return
                assert self._child.exit_code is None, self._log.read_text()[-4000:]
                await asyncio.sleep(POLL)

    async def stop(self, how: signal.Signals) -> None:
        """SIGINT: fast; SIGQUIT: immediate, as if it had crashed. Returns when it has ended."""
        if self._child is not None:
            await self._child.stop(how, PATIENCE)

    def connected(self, database: str = DATABASE) -> "_Connected":
        return _Connected(f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}")

    async def _run(self, program: str, *arguments: str | Path) -> None:
        log = self._folder.log_file(program)
        path = self._programs.postgres.with_name(program)
        child = Child(self._folder.account, [path, *arguments], log, signal.SIGKILL)
        try:
            code = await child.ended()
        finally:
            await child.stop(signal.SIGKILL, 0)
        assert code == 0, log.read_text()[-4000:]


class _Connected:
    """A connection for as long as it is needed."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def __aenter__(self) -> asyncpg.Connection:
        self._connection = await asyncpg.connect(self._dsn, timeout=10)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            await self._connection.close(timeout=5)


@dataclass(frozen=True, slots=True)
class Backup:
    """What a database can be restored from."""

    how: str
    """`dump`, or `log`: a base backup and the log behind it, up to a restore point."""
    path: Path
    """Of the dump or the base backup."""
    next_id: int
    """Lowest transaction id that the cluster had not given out when it was made."""


class PostgresPair:
    """Use as `async with PostgresPair(folder) as pair`, in the main thread. A link of its own, which can be stalled,
    carries the log from the primary to the standby; between failovers it is asynchronous."""

    def __init__(self, folder: Path, *, durable: bool = True, archived: bool = False) -> None:
        """`durable` False: a crash of the machine may destroy the data. A killed Postgres loses nothing either way.
        `archived`: the primary keeps its log, and it can be backed up and restored."""
        self._folder = DataFolder(folder)
        self._settings = {"fsync": "on" if durable else "off"}
        self._archived = archived
        self._clusters = 0
        """How many have been made: each has an archive of its own."""
        self._link = Proxy("127.0.0.1", 0)

    async def __aenter__(self) -> "PostgresPair":
        programs = binaries.find(self._folder.account, self._folder.runtime)
        # The account creates its clusters in here.
        self._folder.give(self._folder.path)
        self.primary, self.standby = (Node(self._folder, programs, name, self._settings) for name in ("a", "b"))
        self._nodes = (self.primary, self.standby)
        await self._link.__aenter__()
        try:
            await self._make_primary()
            self._link.point_to(self.primary.port)
            await self.standby.make_standby(self.primary.port, self._link.port)
            await self.streaming()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self._nodes:
            await node.stop(signal.SIGQUIT)
        await self._link.__aexit__()

    def dsn(self, ports: Sequence[int] = ()) -> str:
        """Returns a DSN that names both servers, on these ports or their own, and leads to the primary."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports or self.ports)
        return f"postgresql://{ROLE}@{hosts}/{DATABASE}?target_session_attrs=read-write"

    @property
    def ports(self) -> tuple[int, int]:
        """Of the two servers, whichever is the primary."""
        return self._nodes[0].port, self._nodes[1].port

    async def restart(self, how: signal.Signals) -> None:
        """The primary stops (SIGINT: fast, SIGQUIT: immediate) and starts again."""
        await self.primary.stop(how)
        await self.primary.start()

    async def streaming(self, *, synchronous: bool = False) -> None:
        """Returns when the standby follows the primary, and commits wait for it or do not."""
        async with self.primary.connected() as connection:
            names = "standby" if synchronous else ""
            await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
            await connection.execute("SELECT pg_reload_conf()")
            wanted = "sync" if synchronous else "async"
            state = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
            async with asyncio.timeout(PATIENCE):
                while await connection.fetchval(state) != wanted:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(POLL)

    async def fail_over(
        self, meanwhile: Callable[[], Awaitable[None]], survey: Survey | None = None, *, synchronous: bool
    ) -> None:
        """The primary dies and the standby takes over. Returns when it has; `rebuild` makes the dead one a standby.

        Synchronous: while `meanwhile` runs, no commit is acknowledged that the standby does not have. Asynchronous: it
        gets nothing while `meanwhile` runs, so what is committed then is lost. `survey` sees what has survived, before
        anything is written to it.
        """
        await self.streaming(synchronous=synchronous)
        if not synchronous:
            self._link.stall()
        await meanwhile()
        await self.primary.stop(signal.SIGQUIT)
        self._link.cut()
        async with self.standby.connected() as connection:
            await self._replayed(connection)
            if survey is not None:
                await survey(connection)
            # Commits must not wait for a standby that is not there.
            await connection.fetchval("SELECT pg_promote(true, 60)")
            await connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            await connection.execute("SELECT pg_reload_conf()")
        self._link.flow()
        self.primary, self.standby = self.standby, self.primary

    async def hang(self, seconds: float) -> None:
        """Commits wait for the standby, and it is silent for so long."""
        await self.streaming(synchronous=True)
        self._link.stall()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._link.flow()
            await self.streaming()

    async def rebuild(self) -> None:
        """Makes the server that died a standby of the one that took over."""
        self._link.point_to(self.primary.port)
        await self.standby.make_standby(self.primary.port, self._link.port)
        await self.streaming()

    async def back_up(self, how: str) -> Backup:
        """A backup of what is there; see Backup."""
        path = self._folder.path / f"backup-{how}"
        path.unlink(missing_ok=True)
        if how == "dump":
            await self.primary.dump(path)
            return Backup(how, path, await self._next_id())
        await self.primary.copy(path)
        return Backup(how, path, await self._next_id())

    async def mark(self, backup: Backup) -> None:
        """From here on nothing will be restored. Returns when what is before is in the archive."""
        if backup.how == "dump":
            return
        async with self.primary.connected() as connection:
            await connection.execute("SELECT pg_create_restore_point('marked')")
            name = await connection.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
            archived = "SELECT coalesce(max(last_archived_wal), '') >= $1 FROM pg_stat_archiver"
            async with asyncio.timeout(PATIENCE):
                while not await connection.fetchval(archived, name):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(POLL)

    async def restore(self, backup: Backup, survey: Survey) -> None:
        """Both servers are lost, and a new primary on the same port has what the backup has; `rebuild` makes a standby.
        A dump is restored into a cluster whose transaction ids are lower than in the one that it is of."""
        for node in self._nodes:
            await node.stop(signal.SIGQUIT)
        if backup.how == "dump":
            await asyncio.to_thread(shutil.rmtree, self.primary.data)
            await self._make_primary()
            await self.primary.restore(backup.path)
            assert await self._next_id() < backup.next_id
        else:
            await self.primary.recover(backup.path, self._archive, "marked")
        async with self.primary.connected() as connection:
            await survey(connection)

    async def _make_primary(self) -> None:
        self._clusters += 1
        if self._archived:
            self._archive.mkdir()
            self._folder.give(self._archive)
            for node in self._nodes:
                node.set("archive_mode", "on")
                node.set("archive_command", f'cp "%p" "{self._archive}/%f"')
        await self.primary.make_primary()

    @property
    def _archive(self) -> Path:
        return self._folder.path / f"archive-{self._clusters}"

    async def _next_id(self) -> int:
        async with self.primary.connected() as connection:
            found: int = await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
            return found

    async def _replayed(self, standby: asyncpg.Connection) -> None:
        """Returns when the standby has replayed all that it has received."""
        last, same = None, 0
        async with asyncio.timeout(PATIENCE):
            while same < 5:
                row = await standby.fetchrow(
                    "SELECT pg_last_wal_replay_lsn()::text, (SELECT count(*) FROM pg_stat_wal_receiver) AS receivers"
                )
                same = same + 1 if row["receivers"] == 0 and row[0] == last else 0
                last = row[0]
                await asyncio.sleep(POLL)
