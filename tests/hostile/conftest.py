"""A server in a process of its own, with two tenants, whose memory can be measured."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sessiond_server.auth import new_key
from tests.support.hostile_target import Target
from tests.support.serve_process import serving


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    async with serving_two_tenants(tmp_path, "--watch-write-timeout", "500ms") as target:
        yield target


@pytest.fixture
async def patient_target(tmp_path: Path) -> AsyncIterator[Target]:
    """Waits long for clients to read."""
    async with serving_two_tenants(tmp_path, "--watch-write-timeout", "2m") as target:
        yield target


@asynccontextmanager
async def serving_two_tenants(tmp_path: Path, *flags: str) -> AsyncIterator[Target]:
    keys = dict(new_key(name, name) for name in ("loud", "quiet"))
    file = tmp_path / "keys.toml"
    file.write_text("".join(keys.values()))
    loud, quiet = keys
    async with serving("--store", "memory", "--keys-file", file, *flags, "--metrics-listen", "127.0.0.1:0") as server:
        yield Target(server, loud, quiet)
