"""Checks of the requests of ContextService: one function per RPC. See rpc/sessions/checks.py."""

from typing import Final

from sessiond.v1.context_service_pb2 import CreateSummaryRequest, ListSummariesRequest
from sessiond_server.domain import commands
from sessiond_server.domain.summaries import validation as summary_validation
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import fields

SUMMARIES_PAGE: Final = (20, 100)


def create_summary(request: CreateSummaryRequest) -> commands.CreateSummary:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    fields.fence(found, request)
    if request.HasField("summary"):
        summary_validation.new_summary(found, "summary", request.summary)
    else:
        found.add("summary", "is required")
    found.check()
    return commands.CreateSummary(request.summary)


def list_summaries(request: ListSummariesRequest) -> int:
    """The page size: 1 to 100."""
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    limit = fields.page_size(found, request.page_size, SUMMARIES_PAGE)
    fields.not_negative(found, "min_version", request.min_version)
    fields.consistency(found, request.consistency)
    found.check()
    return limit
