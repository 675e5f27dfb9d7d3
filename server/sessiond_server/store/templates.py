"""The contract for templates of sessions. Errors, times and cancelling as in contract.py. Every implementation passes
tests/conformance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond.v1.template_service_pb2 import Template
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.templates.rules import TemplateRequest


@dataclass(frozen=True, slots=True)
class TemplatesPage:
    templates: Sequence[bytes]
    """Serialised Templates, ascending by id (code points), within PAGE_BYTES, but at least one if there are any."""
    next_id: str
    """The id behind which the next page begins; empty: there is none."""


class TemplateStore(Protocol):
    """The templates of tenants. The scope's user does not matter."""

    async def get_template(self, scope: Scope, template_id: str) -> bytes | None:
        """The serialised Template, if there is one."""
        ...

    async def list_templates(self, scope: Scope, *, after: str, limit: int) -> TemplatesPage:
        """At most `limit` templates with ids > `after`."""
        ...

    async def put_template(
        self, scope: Scope, given: Template, expected: int | None, request: TemplateRequest
    ) -> bytes:
        """Creates or replaces a template, and returns it serialised; see `rules.put`, whose errors it raises."""
        ...

    async def delete_template(self, scope: Scope, template_id: str, expected: int, request: TemplateRequest) -> int:
        """Deletes a template, and returns its last version; see `rules.delete`, whose errors it raises."""
        ...

    async def purge_templates(self, limit: int) -> int:
        """Removes what is left of at most `limit` templates that were deleted longer ago than the retention of
        tombstones. Returns how many."""
        ...
