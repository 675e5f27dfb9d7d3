"""Short campaigns; `make faults` runs long ones."""

from pathlib import Path

from tests.faults import server_kills


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(postgres_dsn: str, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    report = await server_kills.campaign(postgres_dsn, log, faults=2, seed=7, rate=300, progress=lambda text: None)
    assert report.sound, report.line()
