"""Logs one record per call, or per failed call. Records never have contents or keys."""

import asyncio
import logging
from time import perf_counter
from typing import Any, Final

from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.status import TABLE

log = logging.getLogger("sessiond.access")

FAILURES_A_SECOND: Final = 50.0
FAILURES_AT_ONCE: Final = 500.0
"""Most records of failed calls: FAILURES_AT_ONCE, then FAILURES_A_SECOND. Further ones are counted, not logged."""
LEFT_OUT_EVERY: Final = 10.0
"""Seconds between two records that give this count."""


class AccessLog:
    """Records at INFO, with the fields as attributes of the record: method, code, reason, duration_ms, peer, tenant,
    key, request_id, request_bytes, response_bytes."""

    def __init__(self, *, successes: bool) -> None:
        """`successes` False: only failed calls are logged. A record costs about a tenth of a small call."""
        self._successes = successes
        self._credit = FAILURES_AT_ONCE
        self._counted_at = 0.0
        self._left_out = 0
        self._told_at = -LEFT_OUT_EVERY

    def around(self, method: Method, proceed: Handler) -> Handler:
        successes = self._successes

        async def recorded(request: Any, call: Call) -> bytes | None:
            if not log.isEnabledFor(logging.INFO):
                return await proceed(request, call)
            began = perf_counter()
            cancelled = False
            try:
                response = await proceed(request, call)
                if response is not None:
                    call.response_bytes = len(response)
                return response
            except asyncio.CancelledError:
                cancelled = True
                raise
            finally:
                failed = cancelled or call.error is not None
                if (successes and not failed) or (failed and self._may_record()):
                    _record(call, perf_counter() - began, cancelled)

        return recorded

    def _may_record(self) -> bool:
        """Whether one more failure may be logged now: callers that fail on purpose must not fill the disk."""
        now = perf_counter()
        self._credit = min(FAILURES_AT_ONCE, self._credit + (now - self._counted_at) * FAILURES_A_SECOND)
        self._counted_at = now
        if self._credit < 1:
            self._left_out += 1
            return False
        self._credit -= 1
        if self._left_out and now - self._told_at >= LEFT_OUT_EVERY:
            self._told_at = now
            log.warning("%d failed calls were not logged, because there were too many", self._left_out)
            self._left_out = 0
        return True


def outcome(call: Call, cancelled: bool) -> tuple[str, str]:
    """(gRPC code, reason) of a call that has ended; the reason is "" unless the answer was one of our errors."""
    if cancelled:
        # The transport cancels a call when its caller cancels it, and when its deadline passes.
        return "DEADLINE_EXCEEDED" if call.context.time_remaining() == 0 else "CANCELLED", ""
    if call.error is not None:
        row = TABLE[type(call.error)]
        return row.code.name, row.name
    return "OK", ""


def _record(call: Call, seconds: float, cancelled: bool) -> None:
    code, reason = outcome(call, cancelled)
    milliseconds = round(seconds * 1000, 3)
    log.info(
        "%s %s %s ms",
        call.method.path,
        f"{code} {reason}" if reason else code,
        milliseconds,
        extra={
            "method": call.method.path,
            "code": code,
            "reason": reason,
            "duration_ms": milliseconds,
            "peer": call.peer(),
            "tenant": call.principal.tenant_id,
            "key": call.principal.name,
            "request_id": call.id,
            "request_bytes": call.request_bytes,
            "response_bytes": call.response_bytes,
        },
    )
