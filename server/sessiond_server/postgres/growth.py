"""Asks the database, at intervals, how its tables grow and whether vacuum keeps up with them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from sessiond_server.postgres.question import Question
from sessiond_server.postgres.schema.tables import TABLES
from sessiond_server.postgres.statements import WATCH
from sessiond_server.store.condition import Growth, Table

_log = logging.getLogger("sessiond.postgres")

GROWTH: Final = WATCH["growth"].text

PAUSE: Final = 60.0
"""Seconds between two queries."""

MANY_ROWS: Final = 100_000
"""Fewer dead rows than this harm nobody."""
LARGE: Final = 1 << 30
"""Bytes. Indexes below this size are worth no warning."""
DEAD_SHARE: Final = 0.5
"""Vacuum is due at a fifth of a table at the latest. Of one in which half the rows are dead it has been kept away."""
INDEX_TIMES: Final = 4.0
"""How many times as large as their table its indexes are at most while they are sound; those of `requests` and
`message_marks` are 1 to 2 times as large."""
AGE_TIMES: Final = 1.5
"""How many times autovacuum_freeze_max_age the oldest transaction id may be; a large table takes vacuum a while."""
REMEDY_OF_AGE: Final = "end old transactions, drop unused replication slots, and run vacuum (freeze)"


class GrowthWatch:
    """Looks through `fetch` at the tables; `found` is what it last saw."""

    def __init__(self, fetch: Callable[..., Awaitable[Sequence[Any]]]) -> None:
        self.found: Growth | None = None
        """None: the database does not answer, or refuses to."""
        self._question = Question(
            lambda statement: fetch(statement, TABLES), _log, "how the tables of the database grow", GROWTH
        )

    async def run(self) -> None:
        """Calls `look` every PAUSE seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PAUSE)

    async def look(self) -> None:
        """Updates `found` from the database. Never raises."""
        answers = await self._question.ask()
        self.found = None if answers is None or not answers[0] else growth(answers[0])


def growth(rows: Sequence[Any]) -> Growth:
    """From the rows of GROWTH, of which there is at least one."""
    return Growth(
        tables=[
            Table(
                name=row["name"],
                bytes=row["table_bytes"],
                index_bytes=row["index_bytes"],
                rows=row["live_rows"],
                dead_rows=row["dead_rows"],
                vacuum_seconds=row["vacuum_seconds"],
            )
            for row in rows
        ],
        transaction_age=rows[0]["transaction_age"],
        freeze_age=rows[0]["freeze_age"],
    )


def warnings(found: Growth) -> Iterator[tuple[str, str]]:
    """What an operator should look at: (what is wrong, what to do)."""
    for table in found.tables:
        dead = table.dead_rows / max(1, table.rows + table.dead_rows)
        if table.dead_rows >= MANY_ROWS and dead >= DEAD_SHARE:
            last = "never" if table.vacuum_seconds is None else f"{_ago(table.vacuum_seconds)} ago"
            yield (
                f"{dead:.0%} of the rows of {table.name} are dead ({table.dead_rows:,}), last vacuumed {last}",
                f"end transactions that are old, drop slots that are not read, then: vacuum (verbose) {table.name}",
            )
        if table.index_bytes >= LARGE and table.index_bytes >= INDEX_TIMES * table.bytes:
            times = table.index_bytes / max(1, table.bytes)
            yield (
                f"the indexes of {table.name} are {times:.0f} times as large as the table ({_size(table.index_bytes)})",
                f"reindex table concurrently {table.name}",
            )
    if found.transaction_age > AGE_TIMES * found.freeze_age:
        yield (
            f"the oldest transaction id is {found.transaction_age:,} old; autovacuum freezes at {found.freeze_age:,}",
            REMEDY_OF_AGE,
        )


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _size(amount: float) -> str:
    return f"{amount / (1 << 30):.1f} GiB"
