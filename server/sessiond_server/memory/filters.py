"""What a SessionFilter selects, in Python: the memory store's counterpart of postgres/filters.py."""

import json
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.session_service_pb2 import SessionFilter
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.rows import IndexRow


def selects(scope: Scope, where: SessionFilter, row: IndexRow, update_time_us: int) -> bool:
    """Whether the session is in scope and all that the filter sets holds."""
    components = (row.agent_id, row.team_id, row.workflow_id)
    return (
        row.key[0] == scope.tenant_id
        and scope.user_id in ("", row.user_id)
        and where.type in (0, row.type)
        and (not where.component_id or where.component_id in components)
        and where.agent_id in ("", row.agent_id)
        and where.team_id in ("", row.team_id)
        and where.workflow_id in ("", row.workflow_id)
        and where.user_id in ("", row.user_id)
        and (not where.statuses or row.status in where.statuses)
        and where.name_contains.casefold() in row.name.casefold()
        and all(row.labels.get(key) == value for key, value in where.labels.items())
        and (not where.HasField("create_time_from") or _not_before(row.create_time_us, where.create_time_from))
        and (not where.HasField("create_time_until") or not _not_before(row.create_time_us, where.create_time_until))
        and (not where.HasField("update_time_from") or _not_before(update_time_us, where.update_time_from))
        and (not where.HasField("update_time_until") or not _not_before(update_time_us, where.update_time_until))
        and (
            not where.metadata.fields or contains(json.loads(row.metadata_json or "{}"), MessageToDict(where.metadata))
        )
    )


def _not_before(microseconds: int, limit: Timestamp) -> bool:
    return microseconds * 1000 >= limit.seconds * 1_000_000_000 + limit.nanos


def contains(outer: Any, inner: Any) -> bool:
    """PostgreSQL's `outer @> inner` for two JSON objects.

    An object contains another whose members it has, each containing the other's. An array contains another when each
    item of that is equal to, or contained in, one of its own; order and number do not matter.
    """
    if isinstance(inner, dict):
        return isinstance(outer, dict) and all(
            key in outer and contains(outer[key], value) for key, value in inner.items()
        )
    if isinstance(inner, list):
        return isinstance(outer, list) and all(any(contains(item, wanted) for item in outer) for wanted in inner)
    # Python takes True for 1.
    return isinstance(outer, bool) == isinstance(inner, bool) and bool(outer == inner)
