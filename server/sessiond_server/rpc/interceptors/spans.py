"""Makes each call a span of its caller's trace."""

import asyncio
from typing import Any, Final

from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.genai import OF_ANSWERS
from sessiond_server.rpc.interceptors.access_log import outcome
from sessiond_server.spans import CURRENT, Tracer

FAULTS: Final = frozenset(("DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN"))
"""Codes that make the span of a server an error, by OpenTelemetry's conventions for gRPC."""


class Spans:
    """The span has the attributes `rpc.*`, the id of the call, the tenant, and of runs and tool calls `gen_ai.*`."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def around(self, method: Method, proceed: Handler) -> Handler:
        serve, name = self._tracer.serve, method.path[1:]
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        of_answer = OF_ANSWERS.get(method.path)

        async def spanned(request: Any, call: Call) -> bytes | None:
            span = serve(name, call.metadata, attributes)
            # It needs no reset, because the task and its context belong to this call alone.
            CURRENT.set(span)
            cancelled, error = False, ""
            try:
                response = await proceed(request, call)
                if of_answer is not None and response is not None and span.recording:
                    span.set(of_answer(response))
                return response
            except asyncio.CancelledError:
                cancelled = True
                raise
            finally:
                if span.recording:
                    code, reason = outcome(call, cancelled)
                    error = code if code in FAULTS else ""
                    found = {"rpc.response.status_code": code, "sessiond.request_id": call.id}
                    if reason:
                        found["sessiond.reason"] = reason
                    if call.principal.tenant_id:
                        found["sessiond.tenant"] = call.principal.tenant_id
                    span.set(found)
                span.end(error)

        return spanned
