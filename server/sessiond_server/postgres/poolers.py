"""Detects a connection pooler before Postgres that does not support prepared statements.

A pooler in transaction mode gives each transaction any free connection. Older ones (PgBouncer before 1.21, or with
max_prepared_statements 0) pass on the names of prepared statements unchanged: a statement may then be executed where it
was never prepared, or be prepared where another client has used its name. An unnamed statement is sent in two parts,
which such a pooler may separate, so it needs a transaction around it.
"""

from typing import Final

import asyncpg

_NAME: Final = "sessiond_probe"
_KNOWN: Final = "select exists (select from pg_prepared_statements where name = $1)"


async def keeps_prepared_statements(connection: asyncpg.Connection) -> bool:
    """Whether prepared statements persist on the connection, which must have no statement cache."""
    async with connection.transaction():
        if await connection.fetchval("select pg_backend_pid()") == connection.get_server_pid():
            return True  # a pooler gives each client its own number
        # A pooler that supports prepared statements renames them.
        prepared = await connection.prepare("select 1", name=_NAME)
        passed_on = await connection.fetchval(_KNOWN, _NAME)
        del prepared
        if passed_on:
            await connection.execute(f"deallocate {_NAME}")
        return not passed_on
