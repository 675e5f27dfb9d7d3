"""What the tests of the bus share."""

import uuid
from collections.abc import Iterator

import pytest

from tests.support.databases import Databases


@pytest.fixture(scope="session")
def bus_dsn(databases: Databases) -> Iterator[str]:
    """A database without any schema: NOTIFY needs none."""
    dsn = databases.create()
    yield dsn
    databases.drop(dsn)


@pytest.fixture
def bus_prefix() -> str:
    """Starts the names of this test's channels."""
    return f"test:{uuid.uuid4().hex}:"
