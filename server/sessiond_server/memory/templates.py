"""The memory store's templates; see store/templates.py."""

from collections.abc import Callable

from sessiond.v1.template_service_pb2 import Template
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.templates import rules
from sessiond_server.domain.templates.rules import TemplateRequest, TemplateRow
from sessiond_server.memory.pages import fitting
from sessiond_server.store.templates import TemplatesPage


class MemoryTemplates:
    """Implements `store.templates.TemplateStore`. As in MemoryStore, nothing awaits between reading and writing."""

    def __init__(self, clock: Callable[[], int], tombstone_retention_us: int) -> None:
        self._clock = clock
        self._tombstone_retention_us = tombstone_retention_us
        self._rows: dict[tuple[str, str], TemplateRow] = {}
        """By tenant and template."""

    async def get_template(self, scope: Scope, template_id: str) -> bytes | None:
        row = self._rows.get((scope.tenant_id, template_id))
        return row.body if row is not None and row.delete_time_us is None else None

    async def list_templates(self, scope: Scope, *, after: str, limit: int) -> TemplatesPage:
        found = [each for each in self._live(scope.tenant_id) if each > after]
        bodies = fitting(self._rows[scope.tenant_id, each].body for each in found[:limit])
        return TemplatesPage(bodies, found[len(bodies) - 1] if len(bodies) < len(found) else "")

    async def put_template(
        self, scope: Scope, given: Template, expected: int | None, request: TemplateRequest
    ) -> bytes:
        key = (scope.tenant_id, given.template_id)
        count = len(self._live(scope.tenant_id))
        row = self._rows[key] = rules.put(self._rows.get(key), count, given, expected, request, self._clock())
        return row.body

    async def delete_template(self, scope: Scope, template_id: str, expected: int, request: TemplateRequest) -> int:
        key = (scope.tenant_id, template_id)
        row = self._rows[key] = rules.delete(self._rows.get(key), template_id, expected, request, self._clock())
        return row.version

    async def purge_templates(self, limit: int) -> int:
        oldest = self._clock() - self._tombstone_retention_us
        ends = {key: row.delete_time_us for key, row in self._rows.items()}
        gone = [key for key, end in ends.items() if end is not None and end < oldest]
        for key in gone[:limit]:
            del self._rows[key]
        return len(gone[:limit])

    def _live(self, tenant_id: str) -> list[str]:
        """Ids of the tenant's templates, ascending."""
        return sorted(
            template_id
            for (tenant, template_id), row in self._rows.items()
            if tenant == tenant_id and row.delete_time_us is None
        )
