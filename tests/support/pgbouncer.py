"""A PgBouncer between a test and its database: one server connection for each transaction, then given to the next."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import asyncpg

PROGRAM = shutil.which("pgbouncer")
PATIENCE = 20.0
GIVEN = os.environ.get("SESSIOND_TEST_POOLER")
"""HOST:PORT of a running pooler of all databases of the tests' server, for stores to go through."""


def through_pooler(dsn: str) -> str:
    """The DSN for a store: of the same database behind the given pooler, if there is one."""
    return dsn if GIVEN is None else urlunsplit(urlsplit(dsn)._replace(netloc=f"x@{GIVEN}", query=""))


def _server(dsn: str) -> str:
    """The address of the DSN's server as PgBouncer's configuration has it."""
    parts = urlsplit(dsn)
    host = parts.hostname or parse_qs(parts.query)["host"][0]
    found = {
        "host": unquote(host),
        "port": str(parts.port or parse_qs(parts.query).get("port", ["5432"])[0]),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
    }
    return " ".join(f"{name}='{value}'" for name, value in found.items() if value)


def _account(dsn: str) -> list[str]:
    """It refuses to run as root. The bundled server's socket is its account's alone."""
    if os.geteuid() != 0:
        return []
    sockets = Path(parse_qs(urlsplit(dsn).query).get("host", ["/"])[0])
    return ["--user", sockets.owner() if sockets.owner() != "root" else "nobody"]


@asynccontextmanager
async def transaction_pooler(
    dsn: str, port: int, connections: int = 3, *, program: str | None = PROGRAM, more: str = ""
) -> AsyncIterator[str]:
    """The DSN of the same database behind a pooler with at most `connections` to it, up. `more`: of its settings."""
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="sessiond-pgbouncer-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        (path / "pgbouncer.ini").write_text(
            f"[databases]\n* = {_server(dsn)}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            "unix_socket_dir =\nauth_type = any\npool_mode = transaction\n"
            f"default_pool_size = {connections}\nserver_round_robin = 1\n{more}"
        )
        with (path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                program, *_account(dsn), path / "pgbouncer.ini", stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            yield await _reachable(process, urlunsplit(urlsplit(dsn)._replace(netloc=f"x@127.0.0.1:{port}", query="")))
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), PATIENCE)


async def _reachable(process: asyncio.subprocess.Process, dsn: str) -> str:
    async with asyncio.timeout(PATIENCE):
        while process.returncode is None:
            try:
                connection = await asyncpg.connect(dsn, statement_cache_size=0)
            except OSError:
                await asyncio.sleep(0.02)  # another process sets no event
                continue
            await connection.close()
            return dsn
    raise AssertionError(f"pgbouncer ended with {process.returncode}")
