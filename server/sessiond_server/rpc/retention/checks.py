"""Checks of the requests of RetentionService: one function per RPC. See rpc/sessions/checks.py."""

import json
from typing import Final

from sessiond.v1.erasure_pb2 import ErasureReport
from sessiond.v1.retention_service_pb2 import (
    GetRetentionPolicyRequest,
    LiftHoldRequest,
    ListHoldsRequest,
    PlaceHoldRequest,
    SetRetentionPolicyRequest,
    VerifyErasureReportRequest,
)
from sessiond_server.domain import text
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.holds import LONGEST_REASON
from sessiond_server.domain.sessions import validation as session_validation
from sessiond_server.domain.times import microseconds
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import fields

LONGEST_REPORT: Final = 8192
"""Longest JSON of a report, in bytes; with a user's id of 255 bytes one has a tenth of it."""
PAGE_BOUNDS: Final = (100, 1000)
"""(default, most) holds of a page."""


def place_hold(request: PlaceHoldRequest) -> None:
    found = FieldViolations()
    if bool(request.session_id) == bool(request.user_id):
        found.add("session_id", "exactly one of session_id and user_id is required")
    found.add("session_id", text.optional_identifier(request.session_id))
    found.add("user_id", text.optional_identifier(request.user_id))
    found.add("reason", text.line(request.reason, 1, LONGEST_REASON))
    fields.request_id(found, request)
    found.check()


def lift_hold(request: LiftHoldRequest) -> None:
    found = FieldViolations()
    found.add("hold_id", text.identifier(request.hold_id))
    found.add("reason", text.line(request.reason, 0, LONGEST_REASON))
    found.check()


def list_holds(request: ListHoldsRequest) -> int:
    """The size of the page."""
    found = FieldViolations()
    if request.session_id and request.user_id:
        found.add("user_id", "must be empty where session_id is not")
    found.add("session_id", text.optional_identifier(request.session_id))
    found.add("user_id", text.optional_identifier(request.user_id))
    limit = fields.page_size(found, request.page_size, PAGE_BOUNDS)
    found.check()
    return limit


def set_retention_policy(request: SetRetentionPolicyRequest) -> int | None:
    """For how many microseconds ended sessions are kept; 0: for good; None: as the server's setting says."""
    found = FieldViolations()
    given, kept_us = request.policy, None
    if not request.HasField("policy"):
        found.add("policy", "is required")
    elif given.HasField("ended_retention"):
        if given.ended_retention.seconds or given.ended_retention.nanos:
            session_validation.life_time(found, "policy.ended_retention", given.ended_retention)
        kept_us = microseconds(given.ended_retention)
    found.check()
    return kept_us


def get_retention_policy(request: GetRetentionPolicyRequest) -> None:
    """It has no fields."""


def verify_erasure_report(request: VerifyErasureReportRequest) -> None:
    found = FieldViolations()
    if not request.report.json:
        found.add("report.json", "is required")
    elif len(request.report.json.encode()) > LONGEST_REPORT:
        found.add("report.json", f"must be at most {LONGEST_REPORT} bytes")
    found.check()


def names(report: ErasureReport, scope: Scope) -> bool:
    """Whether a genuine report is of what the caller may see: tenants of one database share a key."""
    fields_of = json.loads(report.json)
    return bool(fields_of["tenant_id"] == scope.tenant_id and scope.user_id in ("", fields_of["user_id"]))
