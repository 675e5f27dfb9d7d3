"""Checks of the requests of erasures. See checks.py."""

from sessiond.v1.session_service_pb2 import EraseUserRequest, GetErasureRequest
from sessiond_server.domain import text
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import fields


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


def _user(found: FieldViolations, given: str, scope: Scope) -> str:
    """The checked user: by default the one that the key is bound to, which then is the only one that it may name."""
    user_id = given or scope.user_id
    found.add("user_id", text.identifier(user_id))
    if scope.user_id not in ("", user_id):
        found.add("user_id", "must be the user that the key is bound to")
    return user_id
