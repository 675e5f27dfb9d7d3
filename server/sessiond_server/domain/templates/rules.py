"""The rules of templates. Times are microseconds since 1970-01-01 UTC."""

from dataclasses import dataclass
from typing import Final

from sessiond.v1.template_service_pb2 import Template
from sessiond_server.domain.times import set_timestamp
from sessiond_server.errors import (
    RequestIdReused,
    TemplateLimitReached,
    TemplateNotFound,
    TemplateVersionMismatch,
)

TEMPLATES: Final = 1000
"""Most templates of a tenant."""


@dataclass(frozen=True, slots=True)
class TemplateRequest:
    """The request of a write."""

    request_id: str
    fingerprint: bytes
    """Empty where the caller sent no id: then nothing is a retry of it."""


@dataclass(frozen=True, slots=True)
class TemplateRow:
    """A template, or what is left of one that was deleted: its version, and its last request."""

    version: int
    create_time_us: int
    delete_time_us: int | None
    body: bytes
    """The serialised Template; b"" for one that was deleted."""
    request: TemplateRequest


def put(
    row: TemplateRow | None, count: int, given: Template, expected: int | None, request: TemplateRequest, now_us: int
) -> TemplateRow:
    """The row after the put; `row` itself for a retry. `count`: templates that the tenant has. Raises RequestIdReused,
    TemplateVersionMismatch, TemplateLimitReached."""
    if row is not None and _repeats(row, request):
        return row
    lives = row is not None and row.delete_time_us is None
    _check(given.template_id, row.version if row is not None and lives else 0, expected)
    if not lives and count >= TEMPLATES:
        raise TemplateLimitReached(TEMPLATES)
    version = 1 + (row.version if row is not None else 0)
    create_time_us = row.create_time_us if row is not None and lives else now_us
    made = Template(template_id=given.template_id, description=given.description, session=given.session)
    made.version = version
    set_timestamp(made.create_time, create_time_us)
    set_timestamp(made.update_time, now_us)
    # The same bytes for the same template, though its session has maps.
    return TemplateRow(version, create_time_us, None, made.SerializeToString(deterministic=True), request)


def delete(
    row: TemplateRow | None, template_id: str, expected: int, request: TemplateRequest, now_us: int
) -> TemplateRow:
    """The row after the deletion; `row` itself for a retry. Raises RequestIdReused, TemplateNotFound,
    TemplateVersionMismatch."""
    if row is not None and _repeats(row, request):
        return row
    if row is None or row.delete_time_us is not None:
        raise TemplateNotFound(template_id)
    _check(template_id, row.version, expected or None)
    return TemplateRow(row.version, row.create_time_us, now_us, b"", request)


def _repeats(row: TemplateRow, request: TemplateRequest) -> bool:
    if not request.fingerprint or row.request.request_id != request.request_id:
        return False
    if row.request.fingerprint != request.fingerprint:
        raise RequestIdReused(request.request_id)
    return True


def _check(template_id: str, version: int, expected: int | None) -> None:
    if expected not in (None, version):
        raise TemplateVersionMismatch(template_id, version, expected or 0)
