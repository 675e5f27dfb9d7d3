"""A server for each test, or for all of a module."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.wire import Wire, serving


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with serving() as wire:
        yield wire


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def common_wire() -> AsyncIterator[Wire]:
    """A server that the tests of a module share, on the module's loop: for those that leave it as it was.

    Starting one takes longer than most of them.
    """
    async with serving() as wire:
        yield wire
