"""Checks of the requests of TemplateService. See rpc/sessions/checks.py."""

from typing import Final

from sessiond.v1.template_service_pb2 import (
    DeleteTemplateRequest,
    GetTemplateRequest,
    ListTemplatesRequest,
    PutTemplateRequest,
)
from sessiond_server.domain import text
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.templates import defaults
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.errors import TemplateReadOnly
from sessiond_server.rpc import fields

TEMPLATES_PAGE: Final = (20, 100)


def get_template(request: GetTemplateRequest) -> None:
    found = FieldViolations()
    found.add("template_id", text.identifier(request.template_id))
    found.check()


def put_template(request: PutTemplateRequest, scope: Scope) -> int | None:
    """The expected version; None: any, or none. Raises TemplateReadOnly."""
    found = FieldViolations()
    fields.request_id(found, request)
    defaults.template(found, "template", request.template)
    fields.not_negative(found, "expected_version", request.expected_version)
    found.check()
    _writable(scope)
    return request.expected_version if request.HasField("expected_version") else None


def list_templates(request: ListTemplatesRequest) -> int:
    """The page size: 1 to 100."""
    found = FieldViolations()
    limit = fields.page_size(found, request.page_size, TEMPLATES_PAGE)
    found.check()
    return limit


def delete_template(request: DeleteTemplateRequest, scope: Scope) -> None:
    """Raises TemplateReadOnly."""
    found = FieldViolations()
    fields.request_id(found, request)
    found.add("template_id", text.identifier(request.template_id))
    fields.not_negative(found, "expected_version", request.expected_version)
    found.check()
    _writable(scope)


def _writable(scope: Scope) -> None:
    if scope.user_id:
        raise TemplateReadOnly
