"""Composes the SQL of session lists and counts from the fragments of list.sql that the filter needs.

Values are always parameters, never part of the text. So there are few texts, and each is prepared once per connection.
"""

import json
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToJson
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain.commands import Scope
from sessiond_server.encryption.columns import metadata_tokens
from sessiond_server.encryption.envelope import DataKey
from sessiond_server.postgres.statements import LIST, numbered
from sessiond_server.store.session_reads import PAGE_BYTES

_FRAGMENT = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Order:
    place: str
    """Expression by which the list is ordered; the first part of a page key."""
    id: str
    """Tenant column of the same table as `place`, so that one index serves both."""
    descending: bool
    period: str = ""
    """Column of the heads that follows from `place`, and by which the list is ordered before it. It has an index."""


_CREATED_LAST_FIRST = Order("s.create_time", "s.session_id", descending=True)

ORDERS: Mapping[int, Order] = {
    SessionOrder.SESSION_ORDER_UNSPECIFIED: _CREATED_LAST_FIRST,
    SessionOrder.SESSION_ORDER_CREATE_TIME_DESC: _CREATED_LAST_FIRST,
    SessionOrder.SESSION_ORDER_CREATE_TIME_ASC: Order("s.create_time", "s.session_id", descending=False),
    SessionOrder.SESSION_ORDER_UPDATE_TIME_DESC: Order(
        "h.update_time", "h.session_id", descending=True, period="h.update_period"
    ),
    SessionOrder.SESSION_ORDER_UPDATE_TIME_ASC: Order(
        "h.update_time", "h.session_id", descending=False, period="h.update_period"
    ),
    SessionOrder.SESSION_ORDER_NAME_ASC: Order("s.name", "s.session_id", descending=False),
    SessionOrder.SESSION_ORDER_NAME_DESC: Order("s.name", "s.session_id", descending=True),
}

_OF_HEADS = {"tenant_id", "update_time_from", "update_time_until", "after_ascending", "after_descending"}
"""Conditions for which the heads suffice."""


@dataclass(frozen=True, slots=True)
class Query:
    text: str
    parameters: tuple[Any, ...]


def page(
    scope: Scope,
    where: SessionFilter,
    order_by: SessionOrder.ValueType,
    *,
    after: tuple[int | str, str] | None,
    limit: int,
    content: bool,
    tokens: DataKey | None = None,
) -> Query:
    """A query for rows of session_id, place, version, core, chain, found; see Store.list_sessions.

    `found` exceeds `limit` if there are more sessions. Without `content` there may be one row more than `limit`.
    `tokens`: see `conditions`.
    """
    order = ORDERS[order_by]
    named, values = conditions(scope, where, tokens)
    values |= {"limit": limit, "page_bytes": PAGE_BYTES}
    if after is not None:
        named.append("after_descending" if order.descending else "after_ascending")
        values |= {"after_place": after[0], "after_id": after[1]}
    template = LIST["page_of_sessions" if content else "page_of_cores"].text
    return _composed(template, named, values, order)


def count(scope: Scope, where: SessionFilter, tokens: DataKey | None = None) -> Query:
    """A query for one row with the number of sessions. `tokens`: see `conditions`."""
    named, values = conditions(scope, where, tokens)
    return _composed(LIST["count"].text, named, values, _CREATED_LAST_FIRST)


def conditions(scope: Scope, where: SessionFilter, tokens: DataKey | None = None) -> tuple[list[str], dict[str, Any]]:
    """Names of the fragments that the filter needs, and the values of their parameters.

    Each field of the filter that is set needs the fragment of the same name, whose parameter also has that name.
    `tokens`: the key of the tokens by which metadata is found where it is encrypted.
    """
    values: dict[str, Any] = {"tenant_id": scope.tenant_id}
    if scope.user_id:
        values["owner"] = scope.user_id
    values |= {field.name: _parameter(field.name, value) for field, value in where.ListFields()}
    if tokens is not None and "metadata" in values:
        values["metadata"] = metadata_tokens(tokens, values["metadata"])
    return list(values), values


def _parameter(name: str, value: Any) -> Any:
    """The value of a field in the form that asyncpg takes; names are case-folded."""
    if name == "name_contains":
        return value.casefold()
    if isinstance(value, Timestamp):
        return microseconds_up(value)
    if isinstance(value, Struct):
        return MessageToJson(value, indent=None, ensure_ascii=False)
    if isinstance(value, MutableMapping):
        return json.dumps(dict(value), ensure_ascii=False)
    return value if isinstance(value, int | str) else list(value)


def microseconds_up(value: Timestamp) -> int:
    """The time in microseconds, rounded up. Stored times are whole microseconds, so for them `>=` and `<` give the same
    result as with `value`."""
    return value.seconds * 1_000_000 + -(-value.nanos // 1000)


def source(named: Iterable[str], *, heads: bool = False) -> str:
    """The tables that these conditions read. `heads`: the table of heads too."""
    heads = heads or any("update_time" in name for name in named)
    return LIST["source_sessions_and_heads" if heads else "source_sessions"].text


def _composed(template: str, named: list[str], values: Mapping[str, Any], order: Order) -> Query:
    if order.period and not set(named) - _OF_HEADS:
        # A page may have to sort all sessions of a period: without the rows of `sessions`, which cost most of it.
        tables = LIST["source_heads"].text
        named = ["tenant_id_of_heads" if name == "tenant_id" else name for name in named]
    else:
        tables = source(named, heads=bool(order.period))
    keys, after = [order.place, order.id], ":after_place, :after_id"
    if order.period:
        keys, after = [order.period, *keys], f"update_period(:after_place), {after}"
    direction = "desc" if order.descending else "asc"
    fragments = {
        "source": tables,
        "conditions": "\n    and ".join(LIST[name].text for name in named),
        "place": order.place,
        "id": order.id,
        "keys": ", ".join(keys),
        "after": after,
        "order": ", ".join(f"{key} {direction}" for key in keys),
        "direction": direction,
    }
    text = template
    while _FRAGMENT.search(text):
        text = _FRAGMENT.sub(lambda found: fragments[found[1]], text)
    text, names = numbered(text)
    return Query(text, tuple(values[name] for name in names))
