"""Fills a database with sessions, faster than a service would: batches straight into the store.

python -m benchmarks.seeding DSN COUNT
"""

import asyncio
import sys

from benchmarks.site import new_session
from sessiond.v1.session_service_pb2 import CreateSessionRequest
from sessiond_server.auth import LOCAL_PRINCIPAL
from sessiond_server.domain.commands import Command, Scope
from sessiond_server.errors import SessiondError
from sessiond_server.postgres.schema.migrate import migrate
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.rpc.sessions import checks as requests

_BATCH = 500


async def seed(dsn: str, count: int) -> None:
    """Creates `count` sessions of the tenant that loopback gets. Raises what refuses one."""
    scope = Scope(LOCAL_PRINCIPAL.tenant_id)
    await migrate(dsn)
    async with PostgresStore(dsn) as store:
        for start in range(0, count, _BATCH):
            results = (await store.apply([_create(scope, n) for n in range(start, min(count, start + _BATCH))])).results
            for result in results:
                if isinstance(result, SessiondError):
                    raise result


def _create(scope: Scope, number: int) -> Command:
    request = CreateSessionRequest(session=new_session(f"seeded-{number}", number), request_id=f"seed-{number}")
    action = requests.create_session(request, scope)
    return Command(
        scope, action.session.session_id, action, LOCAL_PRINCIPAL.name, request.request_id, number.to_bytes(16)
    )


if __name__ == "__main__":
    asyncio.run(seed(sys.argv[1], int(sys.argv[2])))
