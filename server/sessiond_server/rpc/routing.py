"""Picks the database that serves a call. What serves it then knows nothing of other databases."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sessiond_server.auth import ANY_DATABASE, DATABASE, is_database_id
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.errors import InvalidFields, ScopeMissing, StoreUnavailable, TokenForbids, Violation
from sessiond_server.events.bus import Bus
from sessiond_server.events.contract import Hub
from sessiond_server.exports.receiving import Imports
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.moves import WAIT, Moves
from sessiond_server.search.contract import SearchIndex
from sessiond_server.store.commits import Writer
from sessiond_server.store.documents import DocumentReads
from sessiond_server.store.erasures import ErasureStore
from sessiond_server.store.forks import ForkStore
from sessiond_server.store.history import HistoryReads
from sessiond_server.store.homes import Homes
from sessiond_server.store.log_reads import LogReads
from sessiond_server.store.retention import RetentionStore
from sessiond_server.store.session_reads import SessionQueries, SessionReads
from sessiond_server.store.templates import TemplateStore
from sessiond_server.store.usage import UsageReads
from sessiond_server.store.work import WorkStore
from sessiond_server.summaries.queue import SummaryQueue

KEY: Final = "db_id"
"""Metadata by which a caller names a database other than its tenant's home."""


@dataclass(frozen=True, slots=True)
class Reads:
    """The sources of reads, by ability."""

    sessions: SessionReads
    """May answer from a cache."""
    queries: SessionQueries
    history: HistoryReads
    logs: LogReads
    work: WorkStore
    documents: DocumentReads
    forks: ForkStore
    erasures: ErasureStore
    usage: UsageReads
    retention: RetentionStore
    templates: TemplateStore
    search: SearchIndex | None
    """None: search is switched off."""
    summaries: SummaryQueue | None
    """None: there is no summariser."""


@dataclass(frozen=True, slots=True)
class Database:
    """What serves the calls of one database."""

    id: str
    reads: Reads
    writer: Writer
    hub: Hub
    bus: Bus
    files: AttachmentAccess
    imports: Imports
    homes: Homes = field(default_factory=Homes)
    """The tenants for which the database must not be written. Of the default database: the map of all tenants."""


class Routing:
    """The database of each call: the one that its metadata names, else the home of its tenant."""

    def __init__(self, databases: Sequence[Database]) -> None:
        """`databases`: the default one first."""
        self._fences = {each.id: each.homes for each in databases}
        self._default = databases[0].id
        self._several = len(databases) > 1
        self._homes = databases[0].homes
        self._open: set[str] = set()
        self.moves = Moves(self._homes, self._fences, self._default)

    def open(self, database_id: str) -> None:
        """From now on the database serves its calls."""
        self._open.add(database_id)

    def of(self, call: Call) -> str:
        """The id of the call's database. Raises ScopeMissing, InvalidFields for a name that is wrong, and
        StoreUnavailable if the database is not open, or unknown here. A session token says where its session is; raises
        TokenForbids if the call says otherwise."""
        home = self._homes.of(call.principal.tenant_id) or self._default
        named = named_by(call)
        if (grant := call.principal.grant) is not None:
            if named not in (None, grant.database or home):
                raise TokenForbids
            named = grant.database or None
        if named is not None:
            home = self._named(call, named, home)
        if self._several or home != self._default:
            call.database = home
        if home not in self._open:
            raise StoreUnavailable
        return home

    def _named(self, call: Call, named: str | bytes, home: str) -> str:
        if not isinstance(named, str) or not is_database_id(named):
            raise InvalidFields([Violation(KEY, "must be the id of a database")])
        scope = DATABASE + named
        if scope not in call.principal.scopes and ANY_DATABASE not in call.principal.scopes:
            raise ScopeMissing(scope)
        if named not in self._fences:
            raise InvalidFields([Violation(KEY, "is not the id of a database of this server")])
        if named == self._default != home:
            # The default database refuses all writes of tenants that live elsewhere.
            raise InvalidFields([Violation(KEY, "must not name the default database: the tenant lives in another one")])
        if named != home and self._fences[named].elsewhere([call.principal.tenant_id]):
            raise InvalidFields([Violation(KEY, "must not name a database that the tenant has left, or moves to")])
        return named


def named_by(call: Call) -> str | bytes | None:
    """What the call's metadata names, checked or not; None: nothing."""
    for key, value in call.metadata:
        if key == KEY:
            return value
    return None


class Routed:
    """Has the methods of a servicer, each of which calls that of the call's database. Adds no coroutine to a call,
    unless the tenant is moving: then the call waits until it is known where the tenant lives."""

    def __init__(self, routing: Routing, servicers: Mapping[str, object]) -> None:
        """`servicers`: one for each database, by its id."""
        self._routing = routing
        self._servicers = servicers

    def __getattr__(self, name: str) -> Callable[[Any, Call], Awaitable[bytes | None]]:
        """Raises AttributeError for a method that the servicers lack."""
        methods: dict[str, Any] = {each: getattr(servicer, name) for each, servicer in self._servicers.items()}
        of, moves = self._routing.of, self._routing.moves

        def routed(request: Any, call: Call) -> Awaitable[bytes | None]:
            if moves.unsettled and call.principal.tenant_id in moves.unsettled:
                return held(request, call)
            chosen: Awaitable[bytes | None] = methods[of(call)](request, call)
            return chosen

        async def held(request: Any, call: Call) -> bytes | None:
            until = asyncio.get_running_loop().time() + WAIT
            once = call.method.request_streaming or call.method.response_streaming
            while True:
                await moves.settled(call.principal.tenant_id, until)
                try:
                    answer: bytes | None = await methods[of(call)](request, call)
                    return answer
                except StoreUnavailable as error:
                    # Nothing was written. A stream may have been read, or answered, in part.
                    if not error.elsewhere or once:
                        raise

        routed.takes_bytes = all(getattr(method, "takes_bytes", False) for method in methods.values())  # type: ignore[attr-defined]
        return routed
