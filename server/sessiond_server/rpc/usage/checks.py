"""Checks of the requests of UsageService. See rpc/sessions/checks.py."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from sessiond.v1.usage_service_pb2 import GetUsageRequest, UsageDimension
from sessiond_server.domain import text
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import fields
from sessiond_server.store.usage import UsageQuery

USAGE_PAGE: Final = (100, 1000)
DAYS: Final = 3660
DEFAULT_DAYS: Final = 30
_DAY_RULE: Final = "must be a day such as 2026-11-30"
_DIMENSIONS: Final = {
    UsageDimension.USAGE_DIMENSION_USER: "user_id",
    UsageDimension.USAGE_DIMENSION_DAY: "day",
    UsageDimension.USAGE_DIMENSION_AGENT: "agent_id",
    UsageDimension.USAGE_DIMENSION_MODEL: "model",
}


@dataclass(frozen=True, slots=True)
class UsageAsked:
    query: UsageQuery
    limit: int
    """Page size: 1 to 1 000."""


def get_usage(request: GetUsageRequest, scope: Scope, today: date | None = None) -> UsageAsked:
    """`today`: in UTC."""
    found = FieldViolations()
    last_day = _day(found, "last_day", request.last_day, today or datetime.now(UTC).date())
    # The first days of the calendar have fewer days before them.
    earliest = date.min + timedelta(days=DEFAULT_DAYS - 1)
    default = max(last_day, earliest) - timedelta(days=DEFAULT_DAYS - 1)
    first_day = _day(found, "first_day", request.first_day, default)
    if not 0 <= (last_day - first_day).days <= DAYS:
        found.add("first_day", f"must be at most {DAYS} days before last_day, and not after it")
    user_id = _of(found, request, "user_id")
    agent_id = _of(found, request, "agent_id")
    if scope.user_id and user_id not in (None, scope.user_id):
        found.add("user_id", "must be the user that the key is bound to")
    model = request.model if request.HasField("model") else None
    if model:
        found.add("model", text.line(model, 0, 255))
    if len(set(request.group_by)) < len(request.group_by):
        found.add("group_by", "must have each dimension at most once")
    elif any(dimension not in _DIMENSIONS for dimension in request.group_by):
        found.add("group_by", "must be known dimensions")
    limit = fields.page_size(found, request.page_size, USAGE_PAGE)
    found.check()
    by = frozenset(_DIMENSIONS[dimension] for dimension in request.group_by)
    return UsageAsked(UsageQuery(first_day, last_day, scope.user_id or user_id, agent_id, model, by), limit)


def _day(found: FieldViolations, name: str, value: str, default: date) -> date:
    if not value:
        return default
    try:
        day = date.fromisoformat(value)
    except ValueError:
        day = None
    if day is None or day.isoformat() != value:  # 20261130 and 2026-W49-1 are ISO 8601 too
        found.add(name, _DAY_RULE)
        return default
    return day


def _of(found: FieldViolations, request: GetUsageRequest, name: str) -> str | None:
    if not request.HasField(name):  # type: ignore[arg-type]
        return None
    value: str = getattr(request, name)
    found.add(name, text.optional_identifier(value))
    return value
