"""What `make test` leaves to `make test-long`: the larger part of random schedules and campaigns."""

from collections.abc import Sequence

import pytest


def left_to_long(*values: object) -> Sequence[object]:
    """Parameters of the same test that only `make test-long` runs."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]


def batches(quick: int, total: int) -> Sequence[object]:
    """Numbers of batches of seeds, from 0: `make test` runs the first `quick`, `make test-long` the others."""
    return [*range(quick), *left_to_long(*range(quick, total))]
