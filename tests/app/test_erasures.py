"""An erasure that a server begins and is killed over, with the server as a process."""

import asyncio
import json
import signal

import pytest

from sessiond.v1.erasure_pb2 import ErasureState
from sessiond_server import erasing
from sessiond_server.domain.commands import Scope
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted
from tests.support.serve_process import command
from tests.support.transactions import connected
from tests.support.wire import DirectWriter

TENANT = Scope("tenant")
SESSIONS = erasing.SESSIONS + 5


@pytest.mark.long
async def test_erasure_goes_on_after_a_server_was_killed_over_it(postgres_dsn: str, redis_url: str) -> None:
    caller = Caller()
    async with PostgresStore(postgres_dsn) as store, connected(postgres_dsn) as database:
        await accepted(store, *(caller.create(f"s{number}", user_id="ann") for number in range(SESSIONS)))
        await store.erasures.begin_erasure(TENANT, "ann", "")
        killed = await asyncio.to_thread(
            command,
            *("serve", "--listen", "127.0.0.1:0", "--sweep-interval", "50ms"),
            DATABASE_URL=postgres_dsn,
            SESSIOND_REDIS_URL=redis_url,
            SESSIOND_FAILPOINTS="erasing=exit:1",
        )
        assert killed.returncode == -signal.SIGKILL
        left = "select count(*) from sessions where user_id = 'ann'"
        assert await database.fetchval(left) == SESSIONS - erasing.SESSIONS
        assert await store.erasures.claim_erasure(60) is None
        await database.execute("update erasures set lease_expire_time = now()")
        assert await erasing.erase_one(store.erasures, DirectWriter(store))
        ended = await store.erasures.get_erasure(TENANT, "ann")
        assert (ended.state, await database.fetchval(left)) == (ErasureState.ERASURE_STATE_DONE, 0)
        assert ended.session_count == json.loads(ended.report.json)["removed"]["sessions"] == SESSIONS
        assert await database.fetchval("select count(*) from erasure_sessions") == 0
