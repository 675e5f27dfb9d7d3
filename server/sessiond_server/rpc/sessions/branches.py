"""Checks of the requests that fork sessions and take them back: one function per RPC. See checks.py."""

from collections.abc import Callable

from sessiond.v1.session_service_pb2 import (
    ForkSessionRequest,
    ListForksRequest,
    RewindSessionRequest,
    RewindState,
    UpdateSessionRequest,
)
from sessiond_server.domain import commands, ids, text, validation
from sessiond_server.domain.forks.rows import ForkPlace
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import fields
from sessiond_server.rpc.sessions import updates
from sessiond_server.rpc.sessions.checks import SESSIONS_PAGE


def fork_session(
    request: ForkSessionRequest, scope: commands.Scope, new_id: Callable[[], str] = ids.uuid7
) -> tuple[str, commands.ForkSession]:
    """(id of the fork, the action). Ids are made, and bound to users, as in create_session."""
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    if request.HasField("seq") and not 1 <= request.seq <= validation.MOST_INTEGER:
        found.add("seq", f"must be 1 to {validation.MOST_INTEGER}")
    if request.HasField("message_id"):
        found.add("message_id", text.identifier(request.message_id))
    fork_id = request.fork_session_id
    if fork_id:
        found.add("fork_session_id", text.identifier(fork_id))
        own = ids.own_prefix(scope.user_id) if scope.user_id else ""
        if not fork_id.startswith(own):
            found.add("fork_session_id", f"must begin with {own} as the key is bound to a user")
    update = None
    if request.HasField("session") or request.update_mask.paths:
        changes = UpdateSessionRequest(update_mask=request.update_mask)
        if request.HasField("session"):
            changes.session.CopyFrom(request.session)
        update = updates.check(found, "", changes, full=True)
    found.check()
    if not fork_id:
        made = request.request_id
        fork_id = ids.derived(scope.tenant_id, scope.user_id, made) if made else new_id()
    place = ForkPlace(request.seq, request.message_id)
    return fork_id, commands.ForkSession(request.session_id, place, request.expected_version, update)


def rewind_session(request: RewindSessionRequest) -> commands.RewindSession:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    fields.fence(found, request)
    place = request.WhichOneof("to")
    if place is None:
        found.add("seq", "must be set, or else message_id or before_message_id")
    elif place == "seq":
        if not 1 <= request.seq <= validation.MOST_INTEGER:
            found.add("seq", f"must be 1 to {validation.MOST_INTEGER}")
    else:
        found.add(place, text.identifier(getattr(request, place)))
    validation.enum(found, "state", request.state, RewindState.DESCRIPTOR)
    found.check()
    before = place == "before_message_id"
    message_id = request.before_message_id if before else request.message_id
    keeps = request.state == RewindState.REWIND_STATE_KEEP
    return commands.RewindSession(ForkPlace(request.seq, message_id, before), not keeps)


def list_forks(request: ListForksRequest) -> int:
    """The page size."""
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    limit = fields.page_size(found, request.page_size, SESSIONS_PAGE)
    found.check()
    return limit
