"""Counters of runs: durations within the stated error, whatever they are, in a small encoding."""

import math

from hypothesis import given
from hypothesis import strategies as st

from sessiond.v1.run_pb2 import RunStatus
from sessiond_server.domain.runs.counters import RELATIVE_ERROR, RunCounters

COMPLETED, FAILED, CANCELLED = (
    RunStatus.RUN_STATUS_COMPLETED,
    RunStatus.RUN_STATUS_FAILED,
    RunStatus.RUN_STATUS_CANCELLED,
)
TEN_YEARS = 10 * 366 * 86_400 * 1_000_000


@given(st.lists(st.integers(0, TEN_YEARS), min_size=1, max_size=50), st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_a_quantile_is_near_the_duration_of_its_rank(durations: list[int], share: float) -> None:
    counters = RunCounters()
    for duration in durations:
        counters.add(COMPLETED, duration)
    exact = sorted(durations)[math.ceil(share * len(durations)) - 1]
    found = counters.quantile_us(share)
    assert found is not None
    # Half a microsecond for the rounding; what took less than one counts as one.
    assert abs(found - exact) <= RELATIVE_ERROR * exact + (0.5 if exact else 1)
    assert counters.total_us == sum(durations)


@given(st.lists(st.tuples(st.sampled_from([COMPLETED, FAILED, CANCELLED]), st.none() | st.integers(0, TEN_YEARS))))
def test_encoded_counters_round_trip(ended: list[tuple[RunStatus.ValueType, int | None]]) -> None:
    counters = RunCounters()
    for status, duration in ended:
        counters.add(status, duration)
    assert RunCounters.decoded(counters.encoded()) == counters
    assert counters.completed + counters.failed + counters.cancelled == len(ended)


def test_cancelled_runs_do_not_change_the_success_rate() -> None:
    counters = RunCounters()
    assert (counters.success_rate, counters.quantile_us(0.95)) == (0.0, None)
    for status in (COMPLETED, COMPLETED, COMPLETED, FAILED, CANCELLED):
        counters.add(status, None)
    assert (counters.success_rate, counters.timed) == (0.75, 0)


def test_the_encoding_stays_small() -> None:
    counters = RunCounters()
    for exponent in range(2000):
        counters.add(COMPLETED, round(1.02**exponent) % TEN_YEARS)
    assert len(counters.encoded()) < 2048


def test_empty_bytes_decode_to_empty_counters() -> None:
    assert RunCounters.decoded(b"") == RunCounters()
