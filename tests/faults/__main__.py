"""`make faults`: fault campaigns of any size, each closed by one line of figures (docs/reliability.md).

Exits with 1 unless everything that must be 0 is 0.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from sessiond.pipes import PipeUse
from sessiond_server.embedded import EmbeddedServers
from tests.faults import (
    branch_faults,
    door_cuts,
    event_stream,
    forget_faults,
    hostile_callers,
    postgres_stops,
    redis_faults,
    server_kills,
    tenant_moves,
    upload_kills,
    work_faults,
)
from tests.faults.judgement import Judgement
from tests.faults.schedule import Mix
from tests.faults.silence import LONGEST
from tests.support import node

STREAMED = {
    "all": "all",
    "kills": "kills",
    "drains": "drains",
    "redis-events": "redis",
    "restarts": "restarts",
    "failover": "failovers",
    "failpoints": "failpoints",
    "proxy": "proxy",
    "silence": "silences",
    "restore": "restores",
}
"""Kinds with three replicas and subscribers, and what Mix calls them."""
PIPED = (*STREAMED, "server")
"""Kinds that can make their calls through pipes, and have several workers."""
MIXED = tuple(field.name for field in fields(Mix))
KINDS = (
    *STREAMED,
    "branches",
    "databases",
    "door",
    "forget",
    "hostile",
    "postgres",
    "redis",
    "server",
    "uploads",
    "work",
)
_ALONE: Mapping[str, Any] = {
    "branches": branch_faults.campaign,
    "door": door_cuts.campaign,
    "forget": forget_faults.campaign,
    "work": work_faults.campaign,
}
"""Kinds with servers of their own and no rate."""


def main() -> int:
    arguments = _arguments()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(2**31)
    through = " through pipes" if arguments.pipe else ""
    through += f" workers={arguments.workers}" if arguments.workers > 1 else ""
    print(f"campaign: kind={arguments.kind} n={arguments.n} seed={seed} rate={arguments.rate:g}/s{through}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sessiond-faults-", ignore_cleanup_errors=True) as folder:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # both leave nothing behind
        Path(folder).chmod(0o711)  # the account that root starts Postgres as must be able to enter
        try:
            report = uvloop.run(_run(arguments, seed, Path(folder)))
        except KeyboardInterrupt:
            print("\ninterrupted; nothing was judged", file=sys.stderr)
            return 130
        except BaseException:
            _show_log(folder)
            raise
        if not report.sound:
            _show_log(folder)
        if isinstance(report, branch_faults.Report | work_faults.Report | hostile_callers.Report):
            print("\n".join(f"  {complaint}" for complaint in report.complaints[:50]), flush=True)
        if isinstance(report, Judgement | door_cuts.Report):
            print("\n".join(f"  {detail}" for detail in report.details()), flush=True)
    print(report.line(), flush=True)
    return 0 if report.sound else 1


def _show_log(folder: str) -> None:
    """What was wrong last, in the replicas' words."""
    log = Path(folder, "server.log")
    if log.exists():
        wrong = (" WARNING ", " ERROR ", "  File ", "Error")
        lines = [line for line in log.read_text(errors="replace").splitlines() if any(word in line for word in wrong)]
        print("\n".join(lines)[-8000:], file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument(
        "--kind", choices=KINDS, default="server",
        help="what is hurt (KIND=): `all` or one of it (kills, drains, redis-events, restarts, failover, failpoints, "
        "proxy), silence or restore, with three replicas and subscribers; server, postgres, redis: writes and reads "
        "alone; uploads: server, under uploads; work: replicas and Postgres, under runs and tool calls; hostile: "
        "clients that take what they can, beside good ones; databases: moves of tenants between three databases, with "
        "kills of all that takes part; branches: replicas and Postgres, under forks, redactions, deletions and reads "
        "as of earlier places; door: connections of front ends that read by HTTP, and one of two servers (with "
        "Node); forget: replicas and Postgres, under redactions, deletions, erasures, retention and legal holds",
    )  # fmt: skip
    parser.add_argument(
        "-n",
        type=_count,
        default=20,
        help="how many faults, 1 to 10000 (N=; default 20); `all`: kills, besides the rest",
    )
    for name in MIXED:
        parser.add_argument(f"--{name}", type=int, help="of this kind, instead of its share of `all`")
    parser.add_argument("--seed", type=int, help="repeats a schedule (SEED=; default: random)")
    parser.add_argument("--settle", type=float, default=60.0, help="redis: seconds until the cache must be right again")
    parser.add_argument(
        "--longest", type=float, default=LONGEST, help="silence: seconds that one lasts at most (5 to 120; default 120)"
    )
    parser.add_argument("--untimed", action="store_true", help="redis: slow writes do not fail it")
    parser.add_argument("--folder", action="store_true", help="uploads: into a local folder instead of Postgres")
    parser.add_argument("--pipe", action="store_true", help="all writes and reads go through pipes (not all kinds)")
    parser.add_argument("--rate", type=float, default=500.0, help="appends a second (RATE=; default 500)")
    parser.add_argument("--workers", type=int, default=1, help="processes of each server, 1 to 8 (not all kinds)")
    arguments = parser.parse_args()
    if arguments.pipe and arguments.kind not in PIPED:
        parser.error(f"--pipe: not with --kind {arguments.kind}")
    if arguments.kind == "door" and (reason := node.missing()):
        parser.error(f"--kind door {reason}")
    if arguments.workers != 1 and (arguments.kind not in PIPED or not 1 <= arguments.workers <= 8):
        parser.error(f"--workers: 1 to 8, and not with --kind {arguments.kind}")
    return arguments


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError("must be 1 to 10000")
    return value


async def _run(
    arguments: argparse.Namespace, seed: int, folder: Path
) -> (
    "branch_faults.Report | server_kills.Report | door_cuts.Report | forget_faults.Report | hostile_callers.Report | "
    "redis_faults.Report | tenant_moves.Report | upload_kills.Report | work_faults.Report | Judgement"
):
    given, log = os.environ.get("SESSIOND_POSTGRES_DSN"), folder / "server.log"
    pipe: PipeUse = "on" if arguments.pipe else "off"
    if arguments.kind in STREAMED:
        given_counts = {name: count for name in MIXED if (count := getattr(arguments, name)) is not None}
        mix = replace(Mix.of(STREAMED[arguments.kind], arguments.n), **given_counts)
        size = {name: value for name, value in _size(arguments, seed).items() if name != "faults"}
        return await event_stream.campaign(
            folder, log, mix=mix, longest=arguments.longest, pipe=pipe, workers=arguments.workers, **size
        )
    if arguments.kind == "postgres":
        return await postgres_stops.campaign(folder / "data", log, **_size(arguments, seed))
    if arguments.kind == "databases":
        return await tenant_moves.campaign(folder, log, **_size(arguments, seed))
    if arguments.kind in _ALONE:
        size = {name: value for name, value in _size(arguments, seed).items() if name != "rate"}
        alone = _ALONE[arguments.kind]
        return await alone(folder / "data", log, **size)  # type: ignore[no-any-return]
    campaign: Any = upload_kills.campaign if arguments.kind == "uploads" else server_kills.campaign
    if arguments.kind == "uploads" and arguments.folder:
        campaign = partial(campaign, folder=folder / "blobs")
    if arguments.kind == "hostile":
        campaign = hostile_callers.campaign
    if arguments.kind == "server":
        campaign = partial(campaign, pipe=pipe, workers=arguments.workers)
    if arguments.kind == "redis":
        campaign = partial(redis_faults.campaign, settle=arguments.settle, timed=not arguments.untimed)
    if given:
        return await campaign(given, log, **_size(arguments, seed))  # type: ignore[no-any-return]
    async with EmbeddedServers(folder / "data", cache=False) as servers:
        return await campaign(servers.postgres_dsn, log, **_size(arguments, seed))  # type: ignore[no-any-return]


def _size(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    return {
        "faults": arguments.n,
        "seed": seed,
        "rate": arguments.rate,
        "progress": lambda text: print(f"  {text}", flush=True),
    }


if __name__ == "__main__":
    sys.exit(main())
