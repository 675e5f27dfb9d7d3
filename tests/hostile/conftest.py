"""A server in a process of its own, with two tenants, whose memory can be measured."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.hostile_target import Target, serving_two_tenants


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    async with serving_two_tenants(tmp_path, "--watch-write-timeout", "500ms") as target:
        yield target


@pytest.fixture
async def patient_target(tmp_path: Path) -> AsyncIterator[Target]:
    """Waits long for clients to read."""
    async with serving_two_tenants(tmp_path, "--watch-write-timeout", "2m") as target:
        yield target
