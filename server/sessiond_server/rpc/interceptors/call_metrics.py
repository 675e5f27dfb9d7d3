"""Counts calls by method and status code, and measures their durations, as plain numbers for metrics."""

import asyncio
from bisect import bisect_left
from time import perf_counter
from typing import Any, Final

from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.interceptors.access_log import outcome
from sessiond_server.rpc.refused_calls import RefusedCalls

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
"""Upper bounds of the histogram, in seconds, inclusive. The last one is the default of the longest deadline."""


class MethodMetrics:
    """Metrics of one method. Only the loop writes them; other threads may read them, `codes` only as a copy."""

    def __init__(self, method: Method) -> None:
        self.method = method.path
        self.streaming = method.request_streaming or method.response_streaming
        self.codes: dict[str, int] = {}
        """Number of ended calls by the name of their gRPC code."""
        self.times = [0] * (len(BOUNDS) + 1)
        """Calls that took at most BOUNDS[i], and more than the bound before it; none of streams, which last as long as
        their callers wish."""
        self.seconds = 0.0
        """Total duration of the calls in `times`."""


class CallMetrics:
    """Counts every call, which takes 0.5 µs per call."""

    def __init__(self, refused: RefusedCalls) -> None:
        self._refused = refused
        self.methods: list[MethodMetrics] = []

    def around(self, method: Method, proceed: Handler) -> Handler:
        metrics = MethodMetrics(method)
        self.methods.append(metrics)
        codes, times, timed = metrics.codes, metrics.times, not metrics.streaming
        refused = self._refused

        async def counted(request: Any, call: Call) -> bytes | None:
            began = perf_counter()
            cancelled = False
            try:
                return await proceed(request, call)
            except asyncio.CancelledError:
                cancelled = True
                raise
            finally:
                code = outcome(call, cancelled)[0] if cancelled or call.error is not None else "OK"
                codes[code] = codes.get(code, 0) + 1
                if call.error is not None and call.error.refusal:
                    refused.count(call.error.refusal)
                if timed:
                    seconds = perf_counter() - began
                    times[bisect_left(BOUNDS, seconds)] += 1
                    metrics.seconds += seconds

        return counted
