"""The rows of search: how long a search takes, how far the index is behind, and how large it is.

Messages are made of sentences of the conversations, with rare words between them, as in long-lived chats.
"""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg

from benchmarks.processes import Descendants
from benchmarks.site import new_session, serving
from benchmarks.watching import Watched
from sessiond import Client, user
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond_server.auth import LOCAL_PRINCIPAL
from sessiond_server.domain.commands import Action, AppendMessages, Command, CreateSession, Scope
from sessiond_server.errors import SessiondError
from sessiond_server.postgres.schema.migrate import migrate
from sessiond_server.postgres.store import PostgresStore

TIMES: Final = "search_1m"
LAG: Final = "search_lag"
BYTES: Final = "search_bytes"
NAMES: Final = (TIMES, LAG, BYTES)

MESSAGES: Final = 1_000_000
OF_A_SESSION: Final = 200
MESSAGE_CHARACTERS: Final = 500
RARE_WORDS: Final = 200_000
RARE_IN_A_MESSAGE: Final = 5
SENTENCE_CHARACTERS: Final = 200
RATE: Final = 500.0
"""search_lag: messages a second."""
AT_ONCE: Final = 10
"""Messages of an append."""
SEARCHING: Final = {"SESSIOND_SEARCH": "true"}
"""Settings of the servers."""


class Texts:
    """Texts of messages, the same in each run, and the words of queries for them."""

    def __init__(self, conversations: Path) -> None:
        self._random = random.Random(1)
        self._sentences = list(_sentences(conversations))
        self._words = [word.casefold() for each in self._sentences for word in each.split() if word.isalpha()]
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        self._rare = ["".join(self._random.choices(letters, k=self._random.randint(4, 10))) for _ in range(RARE_WORDS)]

    def text(self) -> str:
        parts: list[str] = []
        while sum(map(len, parts)) < MESSAGE_CHARACTERS:
            parts.append(self._random.choice(self._sentences)[:SENTENCE_CHARACTERS])
        for _ in range(RARE_IN_A_MESSAGE):
            parts.insert(self._random.randrange(len(parts)), self._random.choice(self._rare))
        return ". ".join(parts)

    def query(self) -> str:
        """Two terms: a rare one and a common one, two common ones, or two common ones in a row."""
        common = self._random.choice(self._words), self._random.choice(self._words)
        kind = self._random.random()
        if kind < 0.3:
            return f"{self._random.choice(self._rare)} {common[0]}"
        return f'"{common[0]} {common[1]}"' if kind < 0.4 else " ".join(common)


def _sentences(conversations: Path) -> Iterator[str]:
    with conversations.open(encoding="utf-8") as lines:
        for line in lines:
            for message in json.loads(line)["messages"]:
                if isinstance(message.get("content"), str):
                    yield from (part for part in message["content"].replace("\n", ". ").split(". ") if part.strip())


def times_and_bytes(
    dsn: str, folder: Path, postgres: Descendants, conversations: Path, count: int, seconds: float, names: Sequence[str]
) -> list[Watched]:
    texts = Texts(conversations)
    filled = asyncio.run(_filled(dsn, texts, count))
    found = []
    if BYTES in names:
        found.append(
            Watched(
                BYTES,
                f"the index of {count:,} messages",
                filled["index_bytes"] / filled["text_bytes"],
                "of the bytes of messages",
                1.2,
                at_least=False,
                figures=filled,
            )
        )
    if TIMES in names:
        with serving(dsn, folder, postgres, environment=SEARCHING) as site:
            taken, hits = asyncio.run(_searched(site.port, texts, seconds))
        ordered = sorted(taken)
        found.append(
            Watched(
                TIMES,
                f"two terms in {count:,} messages",
                ordered[int(len(ordered) * 0.99)] * 1000,
                "ms at p99",
                150,
                at_least=False,
                figures={"p50_ms": statistics.median(taken) * 1000, "searches": len(taken), "hits": hits},
            )
        )
    return found


def lag(dsn: str, folder: Path, postgres: Descendants, redis: str, conversations: Path, seconds: float) -> Watched:
    """From the acknowledgement of an append until the index has it, as a caller sees it who asks every 10 ms."""
    with serving(dsn, folder, postgres, redis, SEARCHING) as site:
        ages = sorted(asyncio.run(_lags(site.port, dsn, Texts(conversations), seconds)))
    return Watched(
        LAG,
        f"{RATE:g} messages a second",
        ages[int(len(ages) * 0.99)] * 1000,
        "ms at p99 until the index has them",
        1000,
        at_least=False,
        figures={"p50_ms": statistics.median(ages) * 1000, "appends": len(ages)},
    )


async def _filled(dsn: str, texts: Texts, count: int) -> dict[str, float]:
    """Fills the database and its index; what that took, and sizes."""
    await migrate(dsn)
    scope = Scope(LOCAL_PRINCIPAL.tenant_id)

    def command(number: int, action: Action) -> Command:
        return Command(scope, f"searched-{number}", action, LOCAL_PRINCIPAL.name, str(uuid4()), b"")

    async with PostgresStore(dsn) as store:
        for number in range(-(-count // OF_A_SESSION)):
            some = min(OF_A_SESSION, count - number * OF_A_SESSION)
            roles = (Role.ROLE_USER, Role.ROLE_ASSISTANT)
            messages = [Message(role=roles[n % 2], parts=[Part(text=texts.text())]) for n in range(some)]
            create = CreateSession(new_session(f"searched-{number}", number))
            commands = [command(number, create), command(number, AppendMessages(messages))]
            for result in (await store.apply(commands)).results:
                if isinstance(result, SessiondError):
                    raise result
        began, cpu = time.perf_counter(), time.process_time()
        while behind := await store.search_upkeep.behind():
            for index in behind:
                await store.search_upkeep.advance(index.feed_id)
        took, used = time.perf_counter() - began, time.process_time() - cpu
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("vacuum analyze")
        tables = ("search_entries", "search_sessions", "search_buckets", "search_feeds")
        sizes = [await connection.fetchval("select pg_total_relation_size($1::regclass)", each) for each in tables]
        text = await connection.fetchval("select sum(octet_length(body)) from events where type = 20")
    finally:
        await connection.close()
    return {
        "index_bytes": sum(sizes),
        "text_bytes": text,
        "indexing_us": took / count * 1e6,
        "indexing_cpu_us": used / count * 1e6,
    }


async def _searched(port: int, texts: Texts, seconds: float) -> tuple[list[float], int]:
    """(seconds of each search, hits of all)."""
    taken: list[float] = []
    hits = 0
    async with Client(f"127.0.0.1:{port}", timeout=60.0) as client:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(taken) < 20:
            query, began = texts.query(), time.perf_counter()
            hits += len((await client.search_messages(query).page()).hits)
            taken.append(time.perf_counter() - began)
    return taken, hits


async def _lags(port: int, dsn: str, texts: Texts, seconds: float) -> list[float]:
    ages: list[float] = []
    seen = "select coalesce(max(version), 0) from search_sessions where session_id = $1"
    async with Client(f"127.0.0.1:{port}", timeout=60.0) as client:
        session = await client.create_session(active=True)
        connection = await asyncpg.connect(dsn)
        waiting: list[tuple[int, float]] = []
        try:
            began = time.perf_counter()
            while (at := time.perf_counter()) < began + seconds or waiting:
                due = (len(ages) + len(waiting)) * AT_ONCE / RATE
                if at - began >= due and at < began + seconds:
                    done = await client.append_messages(
                        session.session_id, [user(texts.text()) for _ in range(AT_ONCE)]
                    )
                    waiting.append((done.version, time.perf_counter()))
                version = await connection.fetchval(seen, session.session_id)
                ages += (time.perf_counter() - since for wanted, since in waiting if wanted <= version)
                waiting = [each for each in waiting if each[0] > version]
                await asyncio.sleep(0.01)
        finally:
            await connection.close()
    return ages
