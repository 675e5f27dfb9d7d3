"""What stands before Postgres: nothing, a pooler that knows prepared statements, or one that does not.

A pooler in transaction mode gives each transaction whichever connection is free. One that is older (PgBouncer before
1.21, or with max_prepared_statements 0) passes on the names of prepared statements as they are, so that a statement is
looked for where it was never prepared, or is prepared where another client has used its name. Nor may the two parts in
which a statement without a name is sent be parted: it needs a transaction around it.
"""

from typing import Final

import asyncpg

_NAME: Final = "sessiond_probe"
_KNOWN: Final = "select exists (select from pg_prepared_statements where name = $1)"


async def keeps_prepared_statements(connection: asyncpg.Connection) -> bool:
    """Whether what is prepared on the connection can be used on it later. `connection` has no cache of statements."""
    async with connection.transaction():
        if await connection.fetchval("select pg_backend_pid()") == connection.get_server_pid():
            return True  # a pooler gives each client a number of its own
        # One that knows prepared statements gives them names of its own.
        prepared = await connection.prepare("select 1", name=_NAME)
        passed_on = await connection.fetchval(_KNOWN, _NAME)
        del prepared
        if passed_on:
            await connection.execute(f"deallocate {_NAME}")
        return not passed_on
