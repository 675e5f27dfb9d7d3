"""The store behind poolers in transaction mode: one that knows prepared statements, and one that does not."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

from sessiond_server.postgres.schema.migrate import migrate
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted
from tests.support.feeds import complete, names
from tests.support.pgbouncer import transaction_pooler

PROGRAMS = [
    program for program in (shutil.which("pgbouncer"), os.environ.get("SESSIOND_TEST_PGBOUNCER")) if program is not None
]
"""PgBouncers of this machine: Debian's, and another one where the variable names its program."""


def _version(program: str) -> tuple[int, ...]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, said.split()[1].split(".")[:2]))


@pytest.mark.skipif(not PROGRAMS, reason="needs PgBouncer")
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("prepared", [0, 200])
async def test_every_statement_works_behind_a_transaction_pooler(
    postgres_dsn: str, unused_tcp_port_factory: Callable[[], int], program: str, prepared: int
) -> None:
    knows = await asyncio.to_thread(_version, program) >= (1, 21)
    more = f"max_prepared_statements = {prepared}\n" if knows else ""
    async with transaction_pooler(postgres_dsn, unused_tcp_port_factory(), program=program, more=more) as dsn:
        await migrate(dsn)
        async with PostgresStore(dsn, max_connections=8) as store, PostgresStore(dsn, max_connections=8) as other:

            async def use(number: int) -> None:
                caller, mine = Caller(), (store, other)[number % 2]
                name = f"s{number}"
                await accepted(mine, caller.create(name))
                for text in ("one", "two", "three"):
                    await accepted(mine, caller.append(name, text))
                    await mine.get_session(caller.scope, name, content=True)
                    await mine.list_messages(caller.scope, name, after_seq=0, before_seq=0, descending=True, limit=10)
                    await mine.ping()
                    await mine.log_heads([("tenant", name)])

            await asyncio.gather(*(use(number) for number in range(16)))
            assert len(names(await complete(store))) == 16 * 4
            assert store._connections.keeps_statements is (knows and prepared > 0)
