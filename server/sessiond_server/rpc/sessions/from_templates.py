"""Sessions that are created from templates. See checks.py."""

from collections.abc import Callable
from dataclasses import replace

from sessiond.v1.session_service_pb2 import CreateSessionRequest
from sessiond.v1.template_service_pb2 import Template
from sessiond_server.domain import commands, ids
from sessiond_server.domain.templates.defaults import with_defaults
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc.sessions.checks import check_new, creation, id_of


def create_from_template(
    request: CreateSessionRequest, stored: bytes | None, scope: commands.Scope, new_id: Callable[[], str] = ids.uuid7
) -> commands.CreateSession:
    """The action for a request that create_session has checked, with the defaults of the stored Template. Without one
    the action is refused, unless it is the retry of one that was carried out."""
    template = Template() if stored is None else Template.FromString(stored)
    whole = CreateSessionRequest()
    whole.CopyFrom(request)
    whole.session.CopyFrom(with_defaults(request.session, template.session, no_expiry=request.no_expiry))
    found = FieldViolations()
    check_new(found, "", whole, scope)
    found.check()
    action = creation(whole, scope, id_of(request, scope, request.request_id, new_id))
    if stored is None:
        return replace(action, missing_template=request.template_id)
    action.session.template.template_id, action.session.template.version = template.template_id, template.version
    return action
