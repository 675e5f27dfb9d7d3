"""The HTTP interface for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.support.web import Web, opened_web


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with opened_web() as web:
        yield web
