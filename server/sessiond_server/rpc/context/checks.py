"""Checks of the requests of ContextService: one function per RPC. See rpc/sessions/checks.py."""

from typing import Final

from sessiond.v1.context_service_pb2 import (
    CreateSummaryRequest,
    GetContextRequest,
    ListSummariesRequest,
    RequestSummaryRequest,
)
from sessiond_server.domain import commands
from sessiond_server.domain.context.conversation import Shape
from sessiond_server.domain.summaries import validation as summary_validation
from sessiond_server.domain.validation import MOST_INTEGER, FieldViolations
from sessiond_server.rpc import as_of, fields
from sessiond_server.rpc.context.history import Wanted
from sessiond_server.store.session_reads import Freshness
from sessiond_server.summaries.coverage import LOOKED_AT

SUMMARIES_PAGE: Final = (20, 100)
MOST_KEPT: Final = LOOKED_AT // 2
"""Most messages that a summary can be asked to leave out: of those that are looked at, half are left to cover."""
MESSAGES: Final = 1000
"""Most messages of a context."""


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


def request_summary(request: RequestSummaryRequest) -> int | None:
    """How many messages stay out; None: not said."""
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    keep = request.keep_messages if request.HasField("keep_messages") else None
    if keep is not None and not 0 <= keep <= MOST_KEPT:
        found.add("keep_messages", f"must be 0 to {MOST_KEPT}")
    found.check()
    return keep


def list_summaries(request: ListSummariesRequest) -> int:
    """The page size: 1 to 100."""
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    limit = fields.page_size(found, request.page_size, SUMMARIES_PAGE)
    fields.not_negative(found, "min_version", request.min_version)
    fields.consistency(found, request.consistency)
    found.check()
    return limit


def get_context(request: GetContextRequest) -> tuple[Wanted, Freshness]:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    if not 0 <= request.max_tokens <= MOST_INTEGER:
        found.add("max_tokens", "must be 0 to 2^53 - 1")
    fields.not_negative(found, "max_messages", request.max_messages)
    fields.not_negative(found, "max_tool_result_tokens", request.max_tool_result_tokens)
    fields.not_negative(found, "min_version", request.min_version)
    as_of.check(found, request)
    strong = fields.consistency(found, request.consistency)
    found.check()
    shape = Shape(request.include_thinking, request.max_tool_result_tokens)
    most = min(request.max_messages or MESSAGES, MESSAGES)
    wanted = Wanted(request.max_tokens, most, not request.omit_system_prompt, shape, request.as_of_seq)
    return wanted, Freshness(request.min_version, strong)
