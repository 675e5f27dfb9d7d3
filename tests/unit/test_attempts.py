"""When a call through a pipe is attempted again."""

import grpc.aio
import pytest

from sessiond import Retry
from sessiond.attempts import Attempts, Throttle
from sessiond.piped_call import failure


def unavailable(pushback: str | None = None) -> grpc.aio.AioRpcError:
    trailers = grpc.aio.Metadata(*([("grpc-retry-pushback-ms", pushback)] if pushback is not None else []))
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers)


def test_backoffs_grow_up_to_their_maximum() -> None:
    retry = Retry(max_attempts=5, initial_backoff=0.1, max_backoff=0.5, multiplier=3.0)
    attempts = Attempts(retry, Throttle(retry))
    pauses = [attempts.pause(unavailable()) for _ in range(5)]
    for pause, middle in zip(pauses, (0.1, 0.3, 0.5, 0.5), strict=False):
        assert pause == pytest.approx(middle, rel=0.2)
    assert pauses[4] is None


@pytest.mark.parametrize("code", sorted(grpc.StatusCode, key=str))
def test_the_codes_of_plain_calls_are_retried(code: grpc.StatusCode) -> None:
    attempts = Attempts(Retry(), Throttle(Retry()))
    retried = attempts.pause(failure(code, "")) is not None
    assert retried == (code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED))


def test_one_attempt_takes_no_tokens() -> None:
    retry = Retry(max_attempts=1, tokens=2)
    throttle = Throttle(retry)
    for _ in range(5):
        assert Attempts(retry, throttle).pause(unavailable()) is None
    assert throttle.failed() is False
    throttle.succeeded()


@pytest.mark.parametrize(
    ("asked", "pause"), [("0", 0.0), ("1500", 1.5), ("-1", None), ("", None), ("1e3", None), ("9" * 10, None)]
)
def test_service_decides_when(asked: str, pause: float | None) -> None:
    attempts = Attempts(Retry(), Throttle(Retry()))
    assert attempts.pause(unavailable(asked)) == pause


def test_a_pause_that_the_service_asks_for_begins_the_backoffs_anew() -> None:
    retry = Retry(initial_backoff=0.1, multiplier=10)
    attempts = Attempts(retry, Throttle(retry))
    attempts.pause(unavailable())
    assert attempts.pause(unavailable("20")) == 0.02
    assert attempts.pause(unavailable()) == pytest.approx(0.1, rel=0.2)


def test_throttle_stops_retries_below_half_and_successes_give_back() -> None:
    throttle = Throttle(Retry(tokens=4, token_ratio=0.5))
    assert [throttle.failed() for _ in range(4)] == [True, False, False, False]
    for _ in range(20):
        throttle.succeeded()
    assert [throttle.failed() for _ in range(2)] == [True, False]
    for _ in range(2):
        throttle.succeeded()
    assert throttle.failed() is False
