"""Short campaigns; `make faults` runs long ones."""

import tempfile
from pathlib import Path

import pytest

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
from tests.faults.event_stream import Scale
from tests.faults.schedule import Mix
from tests.support import node
from tests.support.attacks import NAMES
from tests.support.effort import left_to_long

SMALL = Scale(sessions=6, quiet=1, hot_watchers=4, watchers=12, workers=16, pause=(0.1, 0.5))


@pytest.mark.parametrize("faults", [1, *left_to_long(3)])
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    postgres_dsn: str, tmp_path: Path, faults: int
) -> None:
    log = tmp_path / "server.log"
    report = await server_kills.campaign(postgres_dsn, log, faults=faults, seed=7, rate=300, progress=lambda text: None)
    assert report.sound, report.line()


@pytest.mark.long
async def test_nothing_acknowledged_through_pipes_is_lost_when_the_server_is_killed(
    postgres_dsn: str, tmp_path: Path
) -> None:
    report = await server_kills.campaign(
        postgres_dsn, tmp_path / "server.log", faults=2, seed=8, rate=300, progress=lambda text: None, pipe="on"
    )
    assert report.sound, report.line()


@pytest.mark.long
async def test_nothing_acknowledged_is_lost_when_workers_are_killed(postgres_dsn: str, tmp_path: Path) -> None:
    report = await server_kills.campaign(
        postgres_dsn, tmp_path / "server.log", faults=3, seed=9, rate=200, progress=lambda text: None, workers=2
    )
    assert report.sound, report.line()


@pytest.mark.long
async def test_nothing_forgotten_is_anywhere_when_servers_are_killed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sessiond-faults-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # the account that root starts Postgres as must be able to enter
        data = Path(folder, "data")
        report = await forget_faults.campaign(
            data, tmp_path / "server.log", faults=3, seed=5, progress=lambda text: None
        )
    assert report.sound, report.line()


@pytest.mark.long
@pytest.mark.parametrize("local", [False, True], ids=["postgres", "local folder"])
async def test_uploads_are_whole_or_not_there_when_the_server_is_killed(
    postgres_dsn: str, tmp_path: Path, local: bool
) -> None:
    report = await upload_kills.campaign(
        postgres_dsn, tmp_path / "server.log", faults=3, seed=7, progress=lambda text: None, writers=6,
        folder=tmp_path / "blobs" if local else None,
    )  # fmt: skip
    assert report.sound, report.line()


@pytest.mark.long
async def test_nothing_acknowledged_is_lost_when_postgres_is_stopped_at_once(tmp_path: Path) -> None:
    # Not below pytest's private folder, which the account that root starts Postgres as could not enter.
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        report = await postgres_stops.campaign(
            Path(folder, "data"), tmp_path / "server.log", faults=1, seed=7, rate=300, progress=lambda text: None
        )
    assert report.sound, report.line()


@pytest.mark.long
async def test_runs_and_tool_calls_are_led_to_their_end_when_replicas_are_killed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        report = await work_faults.campaign(
            Path(folder, "data"), tmp_path / "server.log", faults=1, seed=7, progress=lambda text: None, sessions=4,
            postgres=False,
        )  # fmt: skip
    assert report.sound, "\n".join([*report.complaints, report.line()])


@pytest.mark.long
async def test_branches_are_whole_and_forget_when_replicas_and_postgres_are_killed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        report = await branch_faults.campaign(
            Path(folder, "data"), tmp_path / "server.log", faults=3, seed=7, progress=lambda text: None, writers=4
        )
    assert report.sound, "\n".join([*report.complaints[:20], report.line()])


@pytest.mark.long
async def test_redis_hurt_in_every_way_leaves_nothing_stale(postgres_dsn: str, tmp_path: Path) -> None:
    report = await redis_faults.campaign(
        postgres_dsn, tmp_path / "server.log", faults=4, seed=5, rate=100, progress=lambda text: None,
        settle=3.0, freeze=0.5, calm=0.3, timed=False,
    )  # fmt: skip
    assert report.sound, report.line()


@pytest.mark.long
async def test_every_event_reaches_every_subscriber_once_whatever_is_hurt(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        mix = Mix(kills=2, redis=1, restarts=1, failovers=2, failpoints=1)
        judgement = await event_stream.campaign(
            Path(folder), tmp_path / "server.log", mix=mix, seed=3, rate=100, progress=lambda text: None, scale=SMALL
        )
    assert judgement.sound, "\n".join([*judgement.details(), judgement.line()])
    # Both failovers were what they were meant to be.
    assert judgement.forfeited > 0
    assert judgement.told > 0


@pytest.mark.long
async def test_writes_through_pipes_are_done_once_when_replicas_are_killed_and_drained(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        judgement = await event_stream.campaign(
            Path(folder), tmp_path / "server.log", mix=Mix(kills=2, drains=1), seed=3, rate=100,
            progress=lambda text: None, scale=SMALL, pipe="on",
        )  # fmt: skip
    assert judgement.sound, "\n".join([*judgement.details(), judgement.line()])


@pytest.mark.long
async def test_every_subscriber_is_told_what_a_restore_lost_and_gets_the_rest(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        judgement = await event_stream.campaign(
            Path(folder), tmp_path / "server.log", mix=Mix(restores=2), seed=3, rate=100, progress=lambda text: None,
            scale=SMALL,
        )  # fmt: skip
    assert judgement.sound, "\n".join([*judgement.details(), judgement.line()])
    # Both restores lacked something that subscribers had.
    assert judgement.forfeited > 0
    assert judgement.told > 0


@pytest.mark.long
async def test_good_calls_go_on_beside_hostile_clients(postgres_dsn: str, tmp_path: Path) -> None:
    report = await hostile_callers.campaign(
        postgres_dsn, tmp_path / "server.log", faults=len(NAMES), seed=7, rate=100, progress=lambda text: None
    )
    assert report.sound, (report.line(), report.complaints)


@pytest.mark.long
async def test_tenants_move_under_load_and_kills(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        log = tmp_path / "server.log"
        report = await tenant_moves.campaign(
            Path(folder), log, faults=3, seed=7, rate=60, progress=lambda text: None, timed=False
        )
    assert report.sound, (report.line(), report.unforeseen[:5])
    assert report.moves == 3


@pytest.mark.long
@pytest.mark.skipif(bool(node.missing()), reason=node.missing())
async def test_front_ends_show_everything_once_when_connections_are_cut_and_servers_killed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        report = await door_cuts.campaign(
            Path(folder, "data"), tmp_path / "server.log", faults=4, seed=7, progress=lambda text: None, sessions=4
        )
    assert report.sound, "\n".join([*report.details(), report.line()])
