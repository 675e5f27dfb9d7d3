"""Connections that open what is encrypted: every value that a statement returns, with the keys of the tenants of which
it asks, and bound to the place of which it asks.

Statements with contents take the tenants as their first parameter, and the sessions as their second. Their answers name
others by columns: `place` in the arrays of the parameters, or `session_id`. The few that do otherwise are named here. A
value of another tenant, or of another place, is never handed out.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sessiond_server.encryption.envelope import DataKey, Kind, NotAuthentic, Opened, is_sealed, sealed_by
from sessiond_server.encryption.keyring import Keyring, TenantKeys
from sessiond_server.encryption.rows import document_log
from sessiond_server.postgres.connection import PooledConnection
from sessiond_server.postgres.statements import DOCUMENTS, FORKS, HISTORY, IMPORTS, READ, WORK, WRITE

_EVENTS: Final = frozenset((Kind.EVENT_HEAD, Kind.EVENT_BODY, Kind.EVENT_CONTENT, Kind.EVENT_CORE))
_AT_SEQ: Final = frozenset(("head", "body", "content", "core"))
"""Columns that, beside a column `seq`, have what the event at that seq has, where they are of an event."""

_SHARING: Final = frozenset(
    (
        *(statement.text for statements in (FORKS, HISTORY, WORK, IMPORTS) for statement in statements.values()),
        WRITE["find_repeating"].text,
    )
)
"""Statements that read events which forks share, or which are staged. Events are bound to the session that wrote them,
so an event of these must be of the tenant, and at its seq, but may be of another session."""

_SIMPLE: Final = frozenset(
    READ[name].text
    for name in (
        "get_core", "get_session", "get_content", "get_message", "list_messages_ascending", "list_messages_descending",
        "list_summaries", "find_marked_ascending", "find_marked_descending", "find_timed_ascending",
        "find_timed_descending",
    )
)  # fmt: skip
"""Statements of one session, whose answers are checked fast."""

_SEVERAL: Final[Mapping[str, tuple[int, ...]]] = {
    WRITE["look_up"].text: (0,),
    WRITE["find_to_delete"].text: (0, 4, 10),
    DOCUMENTS["look_up_all"].text: (4, 7, 10),
}
"""Statements with several lists of sessions, and which parameters are the tenants of each."""

_DOCUMENT_LISTS: Final[Mapping[str, int]] = {
    DOCUMENTS["get_documents"].text: 2,
    DOCUMENTS["find_document_requests"].text: 1,
}
"""Statements that ask for documents by arrays, and which parameter is that of the scopes."""


class SealedConnection(PooledConnection):
    """A connection with a keyring, which opens what it reads. What it writes has been sealed before."""

    keyring: Keyring

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._usable: dict[int, DataKey] = {}
        self._opened: list[Opened] = []
        self._unknown = self._changed = False

    async def prepared(self) -> None:
        await self.set_type_codec(
            "bytea", schema="pg_catalog", encoder=_unchanged, decoder=self._decode, format="binary"
        )

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[Any]:
        tenants = _tenants(query, args)
        for again in (2, 1, 0):
            keys = [self.keyring.known(tenant_id) or await self.keyring.of(tenant_id) for tenant_id in tenants]
            self._use(keys)
            rows: list[Any] = await super().fetch(query, *args, **options)
            if self._changed:
                raise NotAuthentic("a value in the database was changed")
            if not self._unknown:
                if self._opened:
                    self._check(query, args, rows)
                return rows
            if not again:
                break
            if rows and "tenant_id" in rows[0].keys() and not tenants:  # noqa: SIM118  a record
                # A statement about all tenants names them in its answer.
                tenants = {row["tenant_id"] for row in rows}
            else:
                # Sealed by a key that was added since these were read.
                for tenant_id in tenants:
                    self.keyring.forget(tenant_id)
        raise NotAuthentic("a value in the database is sealed by no key of these tenants")

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        rows = await self.fetch(query, *args, **options)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *args: Any, column: int = 0, **options: Any) -> Any:
        rows = await self.fetch(query, *args, **options)
        return rows[0][column] if rows else None

    def _use(self, keys: Sequence[TenantKeys]) -> None:
        for each in keys:
            if each.refusal is not None:
                raise each.refusal()
        if len(keys) == 1:
            self._usable = keys[0].by_id
        else:
            self._usable = {key_id: key for each in keys for key_id, key in each.by_id.items()}
        self._opened.clear()
        self._unknown = self._changed = False

    def _decode(self, data: bytes) -> bytes:
        # An error here would leave the connection in the middle of an answer, so `fetch` raises it.
        if not is_sealed(data):
            return data
        key = self._usable.get(sealed_by(data))
        if key is None:
            self._unknown = True
            return b""
        try:
            opened = key.open(data)
        except NotAuthentic:
            self._changed = True
            return b""
        self._opened.append(opened)
        return opened[0]

    def _check(self, query: str, args: Sequence[Any], rows: Sequence[Any]) -> None:
        """Raises NotAuthentic if an opened value is not of the place where it was found."""
        plan = _plans.get(query) or _planned(query, rows[0])
        if plan.simple:
            # Values of one session, as most statements read them: no need to find the row of each.
            tenant_id, session_id = args[0], args[1]
            for _, key, _, log, _ in self._opened:
                if key.tag(session_id) != log or key.tenant_id != tenant_id:
                    raise NotAuthentic("a value in the database is not of its place")
            if not plan.at_seq:
                return
        is_at = None if plan.simple else _places(query, args, plan)
        opened = iter(self._opened)
        awaited = next(opened, None)
        for row in rows:
            for column, value in enumerate(row):
                for item in value if type(value) is list else (value,):
                    if awaited is None or item is not awaited[0]:
                        continue
                    if (is_at is not None and not is_at(row, awaited)) or (
                        column in plan.at_seq and awaited[2] in _EVENTS and awaited[4] != row["seq"]
                    ):
                        raise NotAuthentic("a value in the database is not of its place")
                    awaited = next(opened, None)
        if awaited is not None:
            raise NotAuthentic("a value in the database could not be checked")


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the values of a statement are checked. It follows from the text, but for the types of its parameters."""

    names: frozenset[str]
    """Columns of the answer."""
    at_seq: frozenset[int]
    """Places of the columns whose values must be of the event at `seq`, where they are of events."""
    simple: bool
    """Whether all values are of the session that the first two parameters name."""


_plans: dict[str, _Plan] = {}
"""By the text. As many as there are texts with answers that are encrypted: the named ones, and some lists."""
_MOST_PLANS: Final = 1024


def _planned(query: str, row: Any) -> _Plan:
    names = list(row.keys())
    at_seq = frozenset(n for n, name in enumerate(names) if name in _AT_SEQ) if "seq" in names else frozenset()
    plan = _Plan(frozenset(names), at_seq, query in _SIMPLE)
    if len(_plans) < _MOST_PLANS:
        _plans[query] = plan
    return plan


def _unchanged(data: bytes) -> bytes:
    return data


def sealed_connections(keyring: Keyring) -> type[SealedConnection]:
    """The class of connections that open with this keyring."""
    return type("SealedConnectionOfKeyring", (SealedConnection,), {"keyring": keyring})


def _tenants(query: str, args: Sequence[Any]) -> Iterable[str]:
    """The tenants of which the statement asks."""
    if not args:
        return ()
    several = _SEVERAL.get(query)
    if several is not None:
        return {tenant_id for place in several for tenant_id in args[place]}
    first = args[0]
    if type(first) is str:
        return (first,)
    if type(first) is bool:
        return (args[1],)
    if isinstance(first, list | tuple):
        return {tenant_id for tenant_id in first if type(tenant_id) is str}
    return ()


def _places(query: str, args: Sequence[Any], plan: _Plan) -> Callable[[Any, Opened], bool]:
    """Tells whether a value belongs into a row of the answer: of its tenant, and of its session or document."""
    if type(args[0]) is bool:
        tenant_id, scope, scope_id = args[1:4]
        return lambda row, opened: _is_of(opened, tenant_id, document_log(scope, scope_id, row["key"]))
    first = _DOCUMENT_LISTS.get(query)
    if first is not None:
        scopes, ids, keys = args[first : first + 3]
        before = "\x00" if first == 1 else ""  # the ids of requests

        def of_document(row: Any, opened: Opened) -> bool:
            place = row["place"] - 1
            tenant_id = args[0] if type(args[0]) is str else args[0][place]
            return _is_of(opened, tenant_id, document_log(scopes[place], ids[place], before + keys[place]))

        return of_document
    several = _SEVERAL.get(query)
    if several is not None:
        logs = {pair for place in several for pair in zip(args[place], args[place + 1], strict=True)}
        return lambda _, opened: any(_is_of(opened, *pair) for pair in logs)
    return _sessions(args, plan.names, sharing=query in _SHARING)


def _sessions(args: Sequence[Any], names: Container[str], *, sharing: bool) -> Callable[[Any, Opened], bool]:
    tenants, sessions = args[0], args[1] if len(args) > 1 else None

    def place(row: Any) -> tuple[str, str | None]:
        if type(tenants) is int:  # a statement about all tenants
            return row["tenant_id"], row["session_id"]
        if "session_id" in names:
            return tenants, row["session_id"]
        if isinstance(sessions, list | tuple):
            number = row["place"] - 1
            return tenants if type(tenants) is str else tenants[number], sessions[number]
        return tenants, sessions if type(sessions) is str else None

    def is_at(row: Any, opened: Opened) -> bool:
        if sharing and (opened[2] in _EVENTS or type(sessions) is UUID):
            return opened[1].tenant_id == (tenants if type(tenants) is str else tenants[row["place"] - 1])
        tenant_id, session_id = place(row)
        return session_id is not None and _is_of(opened, tenant_id, session_id)

    return is_at


def _is_of(opened: Opened, tenant_id: str, log: str) -> bool:
    key = opened[1]
    return key.tenant_id == tenant_id and key.tag(log) == opened[3]
