"""Measures coroutines of a library in this process, many at once. For peers that are libraries, not services.

Runs in a peer's own environment: imports nothing but the standard library.
"""

import asyncio
import json
import resource
import time
from collections.abc import Awaitable, Callable


async def measure(operation: str, call: Callable[[int], Awaitable[object]], callers: int, seconds: float) -> None:
    """Calls `call(caller)` from `callers` tasks; prints one JSON object, after a second of warming up.

    CPU is that of this process, in microseconds per call.
    """
    began = time.monotonic() + 1.0
    times: list[float] = []

    async def caller(number: int) -> None:
        while (start := time.monotonic()) < began + seconds:
            await call(number)
            if start >= began:
                times.append(time.monotonic() - start)

    tasks = [asyncio.create_task(caller(number)) for number in range(callers)]
    await asyncio.sleep(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.gather(*tasks)
    after = resource.getrusage(resource.RUSAGE_SELF)
    elapsed = time.monotonic() - began
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    times.sort()
    found = {
        "operation": operation,
        "calls_per_s": len(times) / elapsed,
        "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[len(times) * 99 // 100] * 1000,
        "cpu_us": cpu / len(times) * 1e6,
    }
    print(json.dumps(found), flush=True)  # noqa: T201 - for the benchmark that started it
