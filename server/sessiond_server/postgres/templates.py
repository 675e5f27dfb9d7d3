"""Templates in Postgres, with the statements of templates.sql."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import asyncpg

from sessiond.v1.template_service_pb2 import Template
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.templates import rules
from sessiond_server.domain.templates.rules import TemplateRequest, TemplateRow
from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.attachments import IS_ELSEWHERE
from sessiond_server.postgres.statements import SEARCH, TEMPLATES
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.session_reads import PAGE_BYTES
from sessiond_server.store.templates import TemplatesPage

LOCK_HOMES = SEARCH["lock_homes"].text
GET_TEMPLATE = TEMPLATES["get_template"].text
LIST_TEMPLATES = TEMPLATES["list_templates"].text
LOCK_TEMPLATES = TEMPLATES["lock_templates"].text
FIND_TEMPLATE = TEMPLATES["find_template"].text
WRITE_TEMPLATE = TEMPLATES["write_template"].text
PURGE_TEMPLATES = TEMPLATES["purge_templates"].text


class PostgresTemplates:
    """Implements `store.templates.TemplateStore`. Belongs to a PostgresStore and shares its connections."""

    def __init__(self, transactions: Transactions, tombstone_retention: timedelta) -> None:
        self._transactions = transactions
        self._tombstone_retention = tombstone_retention

    async def get_template(self, scope: Scope, template_id: str) -> bytes | None:
        rows = await self._transactions.fetch(GET_TEMPLATE, scope.tenant_id, template_id)
        return rows[0]["body"] if rows else None

    async def list_templates(self, scope: Scope, *, after: str, limit: int) -> TemplatesPage:
        rows = await self._transactions.fetch(LIST_TEMPLATES, scope.tenant_id, after, limit, PAGE_BYTES)
        more = bool(rows) and rows[0]["found"] > len(rows)
        return TemplatesPage([row["body"] for row in rows], rows[-1]["template_id"] if more else "")

    async def put_template(
        self, scope: Scope, given: Template, expected: int | None, request: TemplateRequest
    ) -> bytes:
        def put(row: TemplateRow | None, count: int, now_us: int) -> TemplateRow:
            return rules.put(row, count, given, expected, request, now_us)

        row = await self._write(scope, given.template_id, put)
        return row.body

    async def delete_template(self, scope: Scope, template_id: str, expected: int, request: TemplateRequest) -> int:
        def delete(row: TemplateRow | None, count: int, now_us: int) -> TemplateRow:
            return rules.delete(row, template_id, expected, request, now_us)

        return (await self._write(scope, template_id, delete)).version

    async def purge_templates(self, limit: int) -> int:
        async def work(connection: asyncpg.Connection) -> int:
            status: str = await connection.execute(PURGE_TEMPLATES, self._tombstone_retention, limit)
            return int(status.rpartition(" ")[2])

        return await self._transactions.run(work)

    async def _write(
        self, scope: Scope, template_id: str, rule: Callable[[TemplateRow | None, int, int], TemplateRow]
    ) -> TemplateRow:
        tenant_id = scope.tenant_id

        async def work(connection: asyncpg.Connection) -> TemplateRow:
            # A tenant that moves away leaves no row behind.
            await connection.execute(LOCK_HOMES)
            if await connection.fetchval(IS_ELSEWHERE, tenant_id):
                raise StoreUnavailable(elsewhere=True)
            # Writes of one tenant's templates wait for each other, so that the number of templates is exact.
            await connection.execute(LOCK_TEMPLATES, tenant_id)
            found = await connection.fetchrow(FIND_TEMPLATE, tenant_id, template_id)
            before = _row(found)
            after = rule(before, found["count"], found["now"])
            if after is not before:
                await connection.execute(
                    WRITE_TEMPLATE,
                    tenant_id,
                    template_id,
                    after.version,
                    after.create_time_us,
                    after.delete_time_us,
                    after.body,
                    after.request.request_id,
                    after.request.fingerprint,
                )
            return after

        return await self._transactions.run(work)


def _row(found: Any) -> TemplateRow | None:
    if found["version"] is None:
        return None
    request = TemplateRequest(found["request_id"], found["fingerprint"])
    return TemplateRow(found["version"], found["create_time"], found["delete_time"], found["body"], request)
