"""Refusals as `application/problem+json` (RFC 9457): the errors of gRPC by their reasons, and the door's own."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from sessiond_server.errors import Violation
from sessiond_server.rpc.loopback import CallFailed

CODES: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "OUT_OF_RANGE": 410,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "CANCELLED": 503,  # grpc's core had no room for the call
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""HTTP status of a gRPC code; of all others 500."""

REASONS: Final[Mapping[str, int]] = {
    "REQUEST_TOO_LARGE": 413,
    "REQUEST_ID_REUSED": 422,
    "VERSION_MISMATCH": 412,
    "DOCUMENT_VERSION_MISMATCH": 412,
    "POSITION_LOST": 410,
    "ATTACHMENT_TOO_LARGE": 413,
    "TRANSFER_STALLED": 408,
    "TOO_MANY_TRANSFERS": 503,
    "TOO_MANY_CALLS": 503,  # the server's load, not the caller's rate
    "QUEUE_FULL": 503,
}
"""HTTP status of a reason, where it says more than its code."""

BARE: Final[Mapping[str, str]] = {
    "UNAUTHENTICATED": "UNAUTHENTICATED",
    "UNAVAILABLE": "UNAVAILABLE",
    "CANCELLED": "UNAVAILABLE",
    "RESOURCE_EXHAUSTED": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED": "UNIMPLEMENTED",
}
"""The reason, whose status is in CODES, of a gRPC code that comes without one, as those of grpc's core do. All other
codes: INTERNAL, with 500."""

RETRY_LATER: Final = 1.0
"""Seconds after which a call that found no room may come again."""


@dataclass
class Problem(Exception):
    """An answer that refuses the request."""

    status: int
    reason: str
    """A name of ErrorReason without its prefix, or one of the door's own (docs/http.md)."""
    detail: str
    fields: Sequence[Violation] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    """Seconds after which a retry may help; None: unknown."""
    headers: Sequence[tuple[str, str]] = ()

    def document(self, request_id: str) -> dict[str, Any]:
        """The JSON object that callers get."""
        found: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
            "request_id": request_id,
        }
        if self.metadata:
            found["metadata"] = dict(self.metadata)
        if self.fields:
            found["fields"] = [{"field": each.field, "description": each.description} for each in self.fields]
        if self.retry_after is not None:
            found["retry_after_ms"] = math.ceil(self.retry_after * 1000)
        return found

    def body(self, request_id: str) -> bytes:
        return json.dumps(self.document(request_id), ensure_ascii=False).encode()

    def all_headers(self) -> list[tuple[str, str]]:
        found = [("content-type", "application/problem+json"), ("cache-control", "no-store"), *self.headers]
        if self.status == HTTPStatus.UNAUTHORIZED:
            found.append(("www-authenticate", "Bearer"))
        retry_after = self.retry_after
        if retry_after is None and self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            retry_after = RETRY_LATER
        if retry_after is not None:
            found.append(("retry-after", str(math.ceil(retry_after))))
        return found


def invalid(name: str, rule: str) -> Problem:
    """A field that breaks a rule."""
    return Problem(400, "INVALID_FIELD", f"{name}: {rule}", [Violation(name, rule)])


def malformed(detail: str) -> Problem:
    return Problem(400, "MALFORMED_REQUEST", detail)


def of(failure: CallFailed) -> Problem:
    """The problem that a failed call is."""
    reason, fields, metadata, retry_after = "", [], dict[str, str](), None
    for packed in Status.FromString(failure.status).details:
        if packed.Is(ErrorInfo.DESCRIPTOR):
            packed.Unpack(info := ErrorInfo())
            reason, metadata = info.reason, dict(info.metadata)
        elif packed.Is(BadRequest.DESCRIPTOR):
            packed.Unpack(bad := BadRequest())
            fields = [Violation(each.field, each.description) for each in bad.field_violations]
        elif packed.Is(RetryInfo.DESCRIPTOR):
            packed.Unpack(retry := RetryInfo())
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
    if reason:
        status = REASONS.get(reason) or CODES.get(failure.code, 500)
        return Problem(status, reason, failure.text, fields, metadata, retry_after)
    reason = BARE.get(failure.code, "INTERNAL")
    # grpc's own texts name sockets and internals of the connection.
    return Problem(CODES.get(reason, 500), reason, "the service could not answer", fields, metadata, retry_after)
