"""Checks of the requests of erasures (see checks.py), and the signature of their reports."""

import hmac
from typing import Final

from sessiond.v1.erasure_pb2 import Erasure, ErasureReport
from sessiond.v1.session_service_pb2 import EraseUserRequest, GetErasureRequest, ListErasuresRequest
from sessiond_server.domain import text
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import fields

PAGE_BOUNDS: Final = (100, 1000)
"""(default, most) erasures of a page."""
_PURPOSE: Final = b"sessiond erasure report\0"


def erase_user(request: EraseUserRequest, scope: Scope) -> str:
    """The user to erase."""
    found = FieldViolations()
    fields.request_id(found, request)
    user_id = _user(found, request.user_id, scope)
    found.check()
    return user_id


def get_erasure(request: GetErasureRequest, scope: Scope) -> str:
    """The user whose erasure is asked for."""
    found = FieldViolations()
    user_id = _user(found, request.user_id, scope)
    found.check()
    return user_id


def list_erasures(request: ListErasuresRequest) -> int:
    """The size of the page."""
    found = FieldViolations()
    limit = fields.page_size(found, request.page_size, PAGE_BOUNDS)
    found.check()
    return limit


def signature(report: ErasureReport, key: bytes) -> bytes:
    """The signature of a report with the tenant's secret key."""
    return hmac.digest(key, _PURPOSE + report.json.encode(), "sha256")


def signed(erasure: Erasure, key: bytes) -> bytes:
    """The answer with an erasure, whose report is signed."""
    if erasure.HasField("report"):
        erasure.report.signature = signature(erasure.report, key)
    return erasure.SerializeToString()


def _user(found: FieldViolations, given: str, scope: Scope) -> str:
    """The checked user: by default the one that the key is bound to, which then is the only one that it may name."""
    user_id = given or scope.user_id
    found.add("user_id", text.identifier(user_id))
    if scope.user_id not in ("", user_id):
        found.add("user_id", "must be the user that the key is bound to")
    return user_id
