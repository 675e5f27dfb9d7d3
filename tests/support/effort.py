"""What `make test` leaves to `make test-long`: the larger part of random schedules, examples and campaigns."""

from collections.abc import Container, Sequence
from typing import Any

import pytest
from hypothesis import settings


def left_to_long(*values: object) -> Sequence[object]:
    """Parameters of the same test that only `make test-long` runs."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]


def quick_and_long(rows: Sequence[tuple[Any, ...]], quick: Container[object]) -> Sequence[object]:
    """Rows of parameters, each named by the function that is its first. `make test` runs the rows of `quick` only."""
    return [pytest.param(*row, id=row[0].__name__, marks=() if row[0] in quick else pytest.mark.long) for row in rows]


def batches(quick: int, total: int) -> Sequence[object]:
    """Numbers of batches of seeds, from 0: `make test` runs the first `quick`, `make test-long` the others."""
    return [*range(quick), *left_to_long(*range(quick, total))]


def examples(quick: int, thorough: int) -> int:
    """Examples of one property: `make test` tries `quick`, `make test-long` all of them. Without such a setting a
    property has as many as the profiles of tests/conftest.py say."""
    return thorough if settings.get_current_profile_name() == "thorough" else quick
