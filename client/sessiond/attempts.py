"""When a call through a pipe is attempted again: by the rules that grpc has for plain calls."""

import random
from collections.abc import Iterator

import grpc.aio

from sessiond.channel import RETRIED
from sessiond.options import Retry

PUSHBACK_KEY = "grpc-retry-pushback-ms"
_JITTER = 0.2


class Throttle:
    """The tokens of `Retry`, for the calls of one client through pipes."""

    def __init__(self, retry: Retry) -> None:
        self._most = float(retry.tokens)
        self._ratio = retry.token_ratio
        self._tokens = self._most

    def succeeded(self) -> None:
        """A call was answered with a response."""
        self._tokens = min(self._most, self._tokens + self._ratio)

    def failed(self) -> bool:
        """An attempt failed in a way that is retried. Returns whether enough tokens are left for another one."""
        self._tokens = max(0.0, self._tokens - 1)
        return self._tokens > self._most / 2


class Attempts:
    """The attempts of one call."""

    def __init__(self, retry: Retry, throttle: Throttle) -> None:
        self._retry = retry
        self._throttle = throttle
        self._backoffs = _backoffs(retry)
        self.failed = 0
        """How many attempts have failed."""

    def pause(self, error: grpc.aio.AioRpcError) -> float | None:
        """Counts a failed attempt, and returns the seconds until the next one; None: there is none."""
        if self._retry.max_attempts == 1 or error.code().name not in RETRIED:
            return None
        enough = self._throttle.failed()
        self.failed += 1
        if not enough or self.failed >= self._retry.max_attempts:
            return None
        asked = _pushback(error)
        if asked is None:
            return next(self._backoffs)
        self._backoffs = _backoffs(self._retry)
        return asked if asked >= 0 else None


def _backoffs(retry: Retry) -> Iterator[float]:
    backoff = retry.initial_backoff
    while True:
        # No secret depends on it.
        yield min(backoff, retry.max_backoff) * random.uniform(1 - _JITTER, 1 + _JITTER)
        backoff = min(backoff * retry.multiplier, retry.max_backoff)


def _pushback(error: grpc.aio.AioRpcError) -> float | None:
    """The seconds that the server asks for; below 0: it wants no retry; None: it does not say."""
    for key, value in error.trailing_metadata() or ():
        if key == PUSHBACK_KEY:
            text = value if isinstance(value, str) else ""
            return int(text) / 1000 if text.isascii() and text.isdigit() and len(text) < 10 else -1.0
    return None
