"""A server for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.rpc.wire import Wire, serving


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with serving() as wire:
        yield wire
