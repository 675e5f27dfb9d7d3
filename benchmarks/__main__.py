"""`make bench`: starts everything on loopback, measures, prints a table, writes JSON and a chart into build/."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks import chart, disk, growth, peers, report, searching, transfers, watching, web, workers
from benchmarks.load import Load, Pressure, build
from benchmarks.measure import Measured, measure, measure_ceiling
from benchmarks.processes import Descendants
from benchmarks.rows import Row, rows
from benchmarks.site import Site, commit, machine, serving, today
from benchmarks.watching import Watched
from sessiond_server.embedded import EmbeddedServers
from sessiond_server.embedded.postgres import read_postmaster

ROOT = Path(__file__).parent.parent
FEW_SESSIONS = 1_000


@dataclass(frozen=True, slots=True)
class Options:
    names: Sequence[str]
    pressure: Pressure
    rounds: int
    conversations: Path
    many_sessions: int
    watchers: int
    messages: int
    peers: bool
    output: Path


def main() -> None:
    options = _options()
    load = Load(build(options.output))
    logs = options.output / "bench-logs"
    logs.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="sessiond-bench-") as scratch,
        servers(Path(scratch)) as (dsn, redis, postgres),
    ):
        measured, watched = _measure_all(options, load, logs, dsn, redis, postgres)
        moving = [name for name in options.names if name in transfers.NAMES]
        if moving:
            database = asyncio.run(_database(dsn, "files"))
            watched += transfers.measure_all(
                moving, database, logs, Path(scratch), postgres, load, options.rounds, _say
            )
        compared = None
        if options.peers:
            _say("peers")
            database = asyncio.run(_database(dsn, "peers"))
            compared = peers.compare(measured, load, options.pressure, database, options.output / "peers", logs)
    text = _write(options, measured, watched, compared)
    print(text)  # noqa: T201 - the report


def _options() -> Options:
    plain = [row.name for row in rows(ROOT / "examples/demo/conversations.jsonl")]
    compared = (
        growth.STATE,
        growth.WITH_STATE,
        growth.FIND,
        growth.POP,
        growth.FORK,
        growth.DEPTH,
        growth.AS_OF,
        disk.NAME,
    )
    names = (
        "ceiling", *plain, *growth.NAMES, *compared, *watching.NAMES, *transfers.NAMES, *web.NAMES, *searching.NAMES,
        workers.NAME,
    )  # fmt: skip
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rows", default="", help=f"comma-separated; all when empty: {', '.join(names)}")
    parser.add_argument("--duration", type=float, default=3.0, help="seconds of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each row, in alternation")
    parser.add_argument("--callers", type=int, default=64, help="calls under way at once")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--conversations", default="", help="JSON lines for chat_mix; empty: those of examples/demo/")
    parser.add_argument("--sessions", type=int, default=100_000, help="of the large database of growth_list_sessions")
    parser.add_argument(
        "--watchers",
        type=int,
        default=10_000,
        help="of idle_watcher; idle_sse and the other watch rows' at most",
    )
    parser.add_argument(
        "--messages", type=int, default=searching.MESSAGES, help="of the database of search_1m and search_bytes"
    )
    parser.add_argument("--peers", action="store_true", help="also measure what a team would otherwise use")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="folder for bench.json and bench.svg")
    given = parser.parse_args()
    chosen = [name.strip() for name in given.rows.split(",") if name.strip()] or list(names)
    if given.peers:
        chosen += peers.ROWS
    unknown = set(chosen) - set(names)
    if unknown:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    return Options(
        names=[name for name in names if name in chosen],
        pressure=Pressure(given.duration, callers=given.callers, connections=given.connections),
        rounds=given.rounds,
        conversations=Path(given.conversations) if given.conversations else ROOT / "examples/demo/conversations.jsonl",
        many_sessions=given.sessions,
        watchers=given.watchers,
        messages=given.messages,
        peers=given.peers,
        output=given.output,
    )


def _measure_all(
    options: Options, load: Load, folder: Path, dsn: str, redis: str, postgres: Descendants
) -> tuple[list[Measured], list[Watched]]:
    measured: list[Measured] = []
    watched: list[Watched] = []
    known: dict[str, Row] = {row.name: row for row in rows(options.conversations)}
    with serving(dsn, folder, postgres, redis) as site:
        if "ceiling" in options.names:
            _say("ceiling")
            scripts = known["get_session"].scripts(site)
            measured.append(measure_ceiling(scripts, site, load, options.pressure, options.rounds, folder))
        for name in options.names:
            if name in known:
                _say(name)
                row = known[name]
                with serving(dsn, folder, postgres) if row.cached else nullcontext() as uncached:
                    measured.append(measure(row, site, load, options.pressure, options.rounds, folder, uncached))
        lengths = [name for name in options.names if name in growth.NAMES and name != "growth_list_sessions"]
        if lengths:
            _say(", ".join(lengths))
            measured += growth.measure_lengths(lengths, site, load, options.pressure, options.rounds, folder)
        if growth.STATE in options.names:
            _say(growth.STATE)
            measured.append(growth.measure_states(site, load, options.pressure, options.rounds, folder))
        if growth.WITH_STATE in options.names:
            _say(growth.WITH_STATE)
            measured.append(growth.measure_with_state(site, load, options.pressure, options.rounds, folder))
        for name, compared in (
            (growth.FIND, growth.measure_finds),
            (growth.POP, growth.measure_pops),
            (growth.FORK, growth.measure_forks),
            (growth.DEPTH, growth.measure_depths),
            (growth.AS_OF, growth.measure_as_of),
        ):
            if name in options.names:
                _say(name)
                measured.append(compared(site, load, options.pressure, options.rounds, folder))
        watched += _watch_all(options, site, load)
    if "growth_list_sessions" in options.names:
        _say("growth_list_sessions")
        sites = []
        with ExitStack() as stack:
            for count in (FEW_SESSIONS, options.many_sessions):
                database = asyncio.run(_database(dsn, f"sessions_{count}"))
                subprocess.run([sys.executable, "-m", "benchmarks.seeding", database, str(count)], check=True)
                asyncio.run(_analyse(database))
                sites.append((count, stack.enter_context(serving(database, folder, postgres))))
            measured.append(growth.measure_sessions(sites, load, options.pressure, options.rounds, folder))
    if disk.NAME in options.names:
        _say(disk.NAME)
        watched.append(disk.measure(asyncio.run(_database(dsn, "bytes")), folder, postgres))
    if "idle_watcher" in options.names:
        _say("idle_watcher")
        database = asyncio.run(_database(dsn, "idle"))
        watched.append(watching.idle(database, folder, postgres, redis, load, options.watchers))
    if web.GET in options.names:
        _say(web.GET)
        database = asyncio.run(_database(dsn, "http"))
        measured.append(web.gets(database, folder, postgres, redis, load, options.pressure, options.rounds))
    if web.IDLE in options.names:
        _say(web.IDLE)
        database = asyncio.run(_database(dsn, "idle_http"))
        watched.append(web.idle(database, folder, postgres, redis, min(web.STREAMS, options.watchers)))
    if workers.NAME in options.names:
        _say(workers.NAME)
        database = asyncio.run(_database(dsn, "workers"))
        both = known["get_session"], known["append_1"]
        watched.append(workers.measure(database, folder, postgres, redis, load, options.pressure, options.rounds, both))
    searched = [name for name in options.names if name in (searching.TIMES, searching.BYTES)]
    conversations, seconds = options.conversations, options.pressure.seconds * options.rounds
    if searched:
        _say(", ".join(searched))
        database = asyncio.run(_database(dsn, "search"))
        watched += searching.times_and_bytes(
            database, folder, postgres, conversations, options.messages, seconds, searched
        )
    if searching.LAG in options.names:
        _say(searching.LAG)
        database = asyncio.run(_database(dsn, "search_lag"))
        watched.append(searching.lag(database, folder, postgres, redis, conversations, seconds))
    return measured, watched


def _watch_all(options: Options, site: Site, load: Load) -> list[Watched]:
    """The rows about watchers that need no server of their own."""
    found = []
    for name, measured, watchers in (
        ("watch_deliveries", watching.deliveries, watching.WATCHERS_OF_ONE),
        ("watch_latency_p99", watching.latency, watching.WATCHERS),
        ("watch_stalled", watching.stalled, watching.WATCHERS),
    ):
        if name in options.names:
            _say(name)
            found.append(measured(site, load, options.pressure, options.rounds, min(watchers, options.watchers)))
    return found


@contextmanager
def servers(folder: Path) -> Iterator[tuple[str, str, Descendants]]:
    """The bundled servers as `sessiond serve` runs them: DSN, Redis URL, and the processes of Postgres."""
    data = folder / "data"
    # Postgres of a bench that runs as root has an account of its own, which must be able to reach its data.
    folder.chmod(0o711)
    embedded = EmbeddedServers(data)
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(embedded.__aenter__())
        try:
            postmaster = read_postmaster(data / "postgres")
            assert postmaster is not None
            yield embedded.postgres_dsn, embedded.redis_url, Descendants(postmaster.pid)
        finally:
            loop.run_until_complete(embedded.__aexit__(None, None, None))
    finally:
        loop.close()


async def _database(server: str, name: str) -> str:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


async def _analyse(dsn: str) -> None:
    """What autovacuum would have done by the time a service is as old as its data."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


def _write(
    options: Options, measured: Sequence[Measured], watched: Sequence[Watched], compared: peers.Comparison | None
) -> str:
    options.output.mkdir(parents=True, exist_ok=True)
    where, version = machine(), commit()
    document = {
        "machine": where,
        "commit": version,
        "date": today(),
        "rounds": options.rounds,
        "seconds": options.pressure.seconds,
        "callers": options.pressure.callers,
        "connections": options.pressure.connections,
        "experiments": os.environ.get("GRPC_EXPERIMENTS", ""),
        "rows": [*map(report.record, measured), *map(report.watched_record, watched)],
    }
    if compared is not None:
        document["peers"] = compared.records()
    (options.output / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    if measured:
        (options.output / "bench.svg").write_text(chart.svg(measured, f"{where} · {version} · {today()}"))
    head = f"{where}; commit {version}; {options.rounds} rounds of {options.pressure.seconds:g} s, " + (
        f"{options.pressure.callers} callers on {options.pressure.connections} connections"
    )
    parts = [head]
    if measured:
        parts += ["", report.table(measured), "", *report.remarks(measured)]
    if watched:
        parts += ["", report.watched_table(watched), "", *report.watched_remarks(watched)]
    if compared is not None:
        parts += ["", compared.table()]
    return "\n".join(parts)


def _say(what: str) -> None:
    print(f"measuring {what} ...", file=sys.stderr, flush=True)  # noqa: T201 - progress


if __name__ == "__main__":
    main()
