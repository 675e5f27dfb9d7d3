"""Judges branches: every session against what was acknowledged and what its log folds to, and everything that is stored
against what was redacted."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from redis.asyncio import Redis

import sessiond
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.fold import fold
from sessiond_server.postgres.schema.tables import TABLES
from sessiond_server.postgres.store import PostgresStore

TENANT = "default"
SEARCHED = 20
"""Redacted markers that are searched for."""
SPREAD = 30.0
"""Seconds within which redactions have reached every branch once nothing is hurt any more."""
_MARKER = re.compile(rb"mk[0-9a-f]{16}z")
_APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED
_PLACES = 7
"""Of each log, each so many places are read as of."""

Said = tuple[int, str, str]
"""(seq, message_id, marker of the text; "" once it is redacted) of a message."""


def marked(message: Message) -> str:
    return "".join(part.text.removeprefix("says ") for part in message.parts)


@dataclass(slots=True)
class Branch:
    """What was acknowledged of one session."""

    session_id: str
    version: int
    parent: "Branch | None" = None
    shared: int = 0
    """The last seq that it shares with its parent."""
    own: list[Said] = field(default_factory=list)
    deleting: bool = False

    def note(self, first_seq: int, said: Iterable[tuple[str, str]], version: int) -> None:
        self.own += [(first_seq + number, *one) for number, one in enumerate(said)]
        self.version = max(self.version, version)

    def forked(self, session_id: str, seq: int, version: int) -> "Branch":
        return Branch(session_id, version, self, seq)

    def messages(self) -> list[Said]:
        inherited = [] if self.parent is None else [one for one in self.parent.messages() if one[0] <= self.shared]
        return inherited + self.own

    def places(self) -> list[int]:
        return [seq for seq, _, _ in self.messages()]


@dataclass(slots=True)
class Past:
    """Answers as of a place."""

    session_id: str
    seq: int
    session: Session
    version: int
    said: Sequence[Said]


@dataclass(slots=True)
class Wrong:
    lost: int = 0
    """Acknowledged messages that a session which shows them has not, or has at another place."""
    doubled: int = 0
    """Messages that a session shows twice."""
    gaps: int = 0
    """Logs with a gap, or that do not fold to their session."""
    leaked: int = 0
    """Redacted markers that are found anywhere."""
    diverged: int = 0
    """Reads as of a place, then or in the end, that are not what the log folds to; forks that show another beginning
    than their parent."""


class Judge:
    def __init__(self, client: sessiond.Client, dsn: str, redis_url: str, branches: Mapping[str, Branch]) -> None:
        self._client = client
        self._dsn = dsn
        self._redis_url = redis_url
        self._branches = branches
        self._wrong = Wrong()
        self.complaints: list[str] = []

    async def judge(self, redacted: Collection[str], touched: Collection[str], past: Sequence[Past]) -> Wrong:
        """`redacted`: markers whose redaction was acknowledged; `touched`: those whose redaction has begun."""
        await self._quiet()
        async with PostgresStore(self._dsn) as store:
            for branch in self._branches.values():
                if not branch.deleting:
                    await self._branch(
                        store, branch, touched, [one for one in past if one.session_id == branch.session_id]
                    )
        stored = await self._stored()
        kept = {one[2] for branch in self._branches.values() if not branch.deleting for one in branch.messages()}
        if not kept - set(touched) <= stored:
            self._complain("lost", "the tables have not every marker that was left: they were not looked through")
        for where, found in (("Postgres", stored), ("Redis", await self._cached())):
            for marker in found & set(redacted):
                self._complain("leaked", f"{marker} is in {where}")
        for marker in sorted(redacted)[:SEARCHED]:
            if (await self._client.search_messages(marker).page()).hits:
                self._complain("leaked", f"{marker} is found by a search")
        return self._wrong

    async def _quiet(self) -> None:
        """Waits until no redaction is under way: those that a kill cut off are finished by the sweeper."""
        until = time.monotonic() + SPREAD
        connection = await asyncpg.connect(self._dsn)
        try:
            while await connection.fetchval("select count(*) from spreads"):
                assert time.monotonic() < until, "redactions do not reach every branch"
                await asyncio.sleep(0.1)
        finally:
            await connection.close()

    async def _branch(
        self, store: PostgresStore, branch: Branch, touched: Collection[str], past: Sequence[Past]
    ) -> None:
        name = branch.session_id
        log = await _log(store, name)
        if [event.seq for event in log] != list(range(1, len(log) + 1)):
            self._complain("gaps", f"{name}: its log has a gap")
            return
        states: dict[int, tuple[Session, list[Said]]] = {}
        session, said = Session(), list[Said]()
        for event in log:
            session = fold(session, event)
            if event.type == _APPENDED:
                said = [*said, (event.seq, event.message.message_id, marked(event.message))]
            states[event.seq] = (session, said)
        if session != await self._client.get_session(name, consistency="strong", timeout=60.0):
            self._complain("gaps", f"{name}: its log does not fold to it")
        for message_id, count in Counter(one[1] for one in said).items():
            if count > 1:
                self._complain("doubled", f"{name} shows {message_id} {count} times")
        shown = {message_id: (seq, marker) for seq, message_id, marker in said}
        for seq, message_id, marker in branch.messages():
            place, text = shown.get(message_id, (0, ""))
            if place != seq:
                self._complain("lost", f"{name} has {message_id} at {place}, not at {seq}")
            elif text != marker and (text or marker not in touched):
                self._complain("diverged" if seq <= branch.shared else "lost", f"{name}: {message_id} is another text")
        for one in past:
            self._compare(one, states[one.seq], touched)
        for seq in range(1 + len(log) % _PLACES, len(log) + 1, _PLACES):
            now = await self._client.get_session(name, as_of_seq=seq, timeout=60.0)
            page = await self._client.list_messages(name, as_of_seq=seq, page_size=1000, timeout=60.0).page()
            texts = [(message.seq, message.message_id, marked(message)) for message in page.messages]
            self._compare(Past(name, seq, now, page.version, texts), states[seq], ())
            if now != states[seq][0]:
                self._complain("diverged", f"{name} as of {seq} is not what its log folds to")

    def _compare(self, past: Past, state: tuple[Session, list[Said]], touched: Collection[str]) -> None:
        """Compares with what the log folds to now: `touched` may have been redacted since."""
        session, said = state
        same = (past.session.version, past.session.message_count, past.session.last_event_id, past.version)
        if same != (past.seq, session.message_count, session.last_event_id, past.seq):
            self._complain("diverged", f"{past.session_id} as of {past.seq} was another session")
        if len(said) != len(past.said) or not all(
            one[:2] == other[:2] and (one[2] == other[2] or (not other[2] and one[2] in touched))
            for one, other in zip(past.said, said, strict=True)
        ):
            self._complain("diverged", f"{past.session_id} as of {past.seq} had other messages")

    async def _stored(self) -> set[str]:
        """The markers in all tables."""
        found: set[str] = set()
        connection = await asyncpg.connect(self._dsn)
        try:
            for table in TABLES:
                async with connection.transaction():
                    async for (row,) in connection.cursor(f"select t::text from {table} t"):
                        found |= _markers(row.encode())
                        for digits in re.findall(r"\\x([0-9a-f]+)", row):
                            found |= _markers(bytes.fromhex(digits))
        finally:
            await connection.close()
        return found

    async def _cached(self) -> set[str]:
        """The markers in Redis."""
        found: set[str] = set()
        async with Redis.from_url(self._redis_url) as redis:
            async for value in _values(redis):
                found |= _markers(value)
        return found

    def _complain(self, kind: str, text: str) -> None:
        setattr(self._wrong, kind, getattr(self._wrong, kind) + 1)
        self.complaints.append(f"{kind}: {text}")


def _markers(data: bytes) -> set[str]:
    return {found.decode() for found in _MARKER.findall(data)}


async def _values(redis: Any) -> AsyncIterator[bytes]:
    async for key in redis.scan_iter(count=1000):
        kind = (await redis.type(key)).decode()
        if kind == "string":
            yield await redis.get(key) or b""
        elif kind == "hash":
            for name, value in (await redis.hgetall(key)).items():
                yield name + value
        elif kind == "list":
            for value in await redis.lrange(key, 0, -1):
                yield value
        elif kind == "zset":
            for value in await redis.zrange(key, 0, -1):
                yield value
        else:
            raise AssertionError(f"{key!r} is a {kind}, which is not looked into")


async def _log(store: PostgresStore, session_id: str) -> list[Event]:
    events: list[Event] = []
    while page := (await store.read_log((TENANT, session_id), after_seq=len(events), limit=1000)).entries:
        events += [Event.FromString(entry.data) for entry in page]
    return events
