"""Data folders of the bundled servers."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond_server.embedded import EmbeddedServers
from sessiond_server.embedded.folder import DataFolder
from tests.support.serve_process import data_folder


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder that no server has been started on yet."""
    with data_folder() as path:
        yield path


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Path]:
    """The files of a cluster after its first start."""

    async def start_and_stop(data: Path) -> None:
        async with EmbeddedServers(data, durable=False, cache=False):
            pass

    with data_folder() as path:
        # With a factory: else what asyncio takes for the current loop would change.
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(start_and_stop(path))
        yield path / "postgres"


@pytest.fixture
def used_data(_cluster: Path) -> Iterator[Path]:
    """A folder as a server that was stopped leaves it. A copy takes 0.2 s of CPU, a first start 1.3 s."""
    with data_folder() as path:
        folder = DataFolder(path)
        subprocess.run(["cp", "-a", _cluster, folder.postgres], check=True)
        yield path
