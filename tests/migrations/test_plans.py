"""Every named statement is valid against the schema, and uses the indexes that it declares on a filled database."""

import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from sessiond.v1.document_pb2 import DocumentScope
from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain.commands import Scope
from sessiond_server.postgres import documents, filters
from sessiond_server.postgres.statements import (
    ATTACHMENTS,
    BLOBS,
    DOCUMENTS,
    FORKS,
    LIST,
    LOG,
    MOVING,
    PLACEMENT,
    READ,
    SEARCH,
    SUMMARIES,
    SWEEP,
    WORK,
    WRITE,
    Statement,
    parse,
)
from tests.support.databases import Databases, LoopThread
from tests.support.rows import table

pytestmark = pytest.mark.long  # the tables that all plans are made of take ten seconds to fill

STATEMENTS = [
    s
    for group in (
        WRITE,
        READ,
        SWEEP,
        LOG,
        WORK,
        ATTACHMENTS,
        BLOBS,
        DOCUMENTS,
        PLACEMENT,
        MOVING,
        SEARCH,
        SUMMARIES,
        FORKS,
    )
    for s in group.values()
    if s.name not in ("begin", "lock")
]
DECLARING = [s for s in STATEMENTS if s.indexes]

OF_ALL_TENANTS = re.compile(r"\bfor update\b|\b(delete from|update) (?!set\b)\w+|\breleases\b|\bdrop_time <=")
"""In a statement that names no tenant: it changes rows of all of them, or finds those that are changed next."""

_SESSIONS = """
insert into tenant_homes (tenant_id, database_id, version) select 't' || i, 'd', i
from generate_series(1, 5000) i;
insert into session_heads (tenant_id, session_id, version, content_version, update_time, expire_check_time, delete_time,
  user_id, core, limits)
select 't' || i % 3, 's' || i, 3, 1, now() - i * interval '1 s', now() + i * interval '1 s',
  case when i % 100 = 0 then now() end, 'u' || i % 200, 'core', ''
from generate_series(1, 20000) i;
insert into sessions (tenant_id, session_id, type, status, create_time, agent_id, team_id, workflow_id, user_id, name,
  name_folded, labels, metadata)
select 't' || i % 3, 's' || i, 1, case when i % 20 = 0 then 2 else 4 end, now() - i * interval '1 s', 'a' || i % 200,
  case when i % 50 = 0 then 'team' || i % 7 else '' end, '', 'u' || i % 200, 'n' || i, 'n' || i,
  jsonb_build_object('k', i), jsonb_build_object('m', i)
from generate_series(1, 20000) i;
insert into events (tenant_id, session_id, seq, commit_xid, type, create_time, message_id, head, body)
select 't' || i % 3, 's' || i, seq, (1000 * seq + i / 20)::text::xid8, 20, now(), 'm' || seq, 'head', 'body'
from generate_series(1, 20000) i, generate_series(1, 3) seq;
insert into events (tenant_id, session_id, seq, commit_xid, type, create_time, head, body, content)
select 't' || i % 3, 's' || i, 100000 + n, (1000 * n + i / 20)::text::xid8, 5, now(), 'head', 'body',
  case when n = 1 then '\x08'::bytea else '\x07'::bytea end
from generate_series(1, 20000) i, generate_series(1, 2) n where i % 10 = 0;
insert into message_marks (tenant_id, session_id, mark, seq)
select 't' || i % 3, 's' || i, mark, 3 from generate_series(1, 20000) i, unnest(array['la=1', 't' || i]) mark;
insert into runs (tenant_id, session_id, run_id, place, status, body)
select 't' || i % 3, 's' || i, 'r' || n, n, case when n = 3 then 2 else 3 end, 'body'
from generate_series(1, 20000) i, generate_series(1, 3) n;
insert into tool_calls (tenant_id, session_id, tool_call_id, seq, status, awaits_approval, create_time, result_seq,
  run_id, user_id, body)
select 't' || i % 3, 's' || i, 'c' || n, n, case when n = 3 then 1 else 5 end, n = 3 and i % 20 = 0, now(), 0,
  'r' || n, 'u' || i % 200, 'body'
from generate_series(1, 20000) i, generate_series(1, 3) n;
insert into run_figures (tenant_id, session_id, figures)
select 't' || i % 3, 's' || i, 'figures' from generate_series(1, 20000) i;
"""
_FORKS = """
insert into session_segments (tenant_id, session_id, first_seq, last_seq, log_id)
select 't' || i % 3, 's' || i, n, n, 's' || i - 3 * (4 - n) from generate_series(13, 20000) i, generate_series(1, 3) n;
insert into session_forks (tenant_id, session_id, parent_id, create_time)
select 't' || i % 3, 's' || i, 's' || i - 3, now() - i * interval '1 s' from generate_series(13, 20000) i;
insert into spreads (tenant_id, session_id, request_id, log_id, seq, message_id, reason, title, actor)
select 't' || i % 3, 's' || i, 'r' || i, 's' || i, 1, 'm', '', '', '' from generate_series(1, 20000) i;
analyze session_segments, session_forks, spreads;
"""
_ONE_LONG_LOG = """
insert into events (tenant_id, session_id, seq, commit_xid, type, create_time, message_id, head, body)
select 't1', 's1', seq, (5000 + seq)::text::xid8, 20, now(), case when seq % 30 = 0 then 'm' || seq end, 'head', 'body'
from generate_series(4, 60000) seq;
insert into events (tenant_id, session_id, seq, commit_xid, type, create_time, head, body, content)
select 't1', 's1', 100000 + seq, (70000 + seq)::text::xid8, 5, now(), 'head', 'body',
  case when seq % 60 = 0 then '\x08'::bytea else '\x07'::bytea end
from generate_series(4, 6000) seq;
insert into message_marks (tenant_id, session_id, mark, seq)
select 't1', 's1', 'l' || seq % 2 || '=' || seq % 50, seq from generate_series(4, 60000) seq;
insert into message_marks (tenant_id, session_id, mark, seq)
select 't1', 's1', 't' || lpad(seq::text, 21, '0'), seq from generate_series(4, 60000) seq;
insert into runs (tenant_id, session_id, run_id, place, status, body)
select 't1', 's1', 'r' || n, n, case when n % 30 = 0 then 4 else 3 end, 'body' from generate_series(4, 20000) n;
insert into tool_calls (tenant_id, session_id, tool_call_id, seq, status, awaits_approval, create_time, result_seq,
  run_id, user_id, body)
select 't1', 's1', 'c' || n, n, 5, false, now(), n, case when n % 2 = 0 then 'r' || n / 100 else '' end, 'u1', 'body'
from generate_series(4, 20000) n;
"""
_FILES = """
insert into attachments (tenant_id, session_id, attachment_id, seq, blob_id, body)
select 't' || i % 3, 's' || i, 'a' || n, n, case when n < 3 then lpad(to_hex(i), 32, '0')::uuid end, 'body'
from generate_series(1, 20000) i, generate_series(1, 3) n;
insert into attachments (tenant_id, session_id, attachment_id, seq, blob_id, body)
select 't1', 's1', 'a' || n, n, lpad(to_hex(n % 5000 + 1), 32, '0')::uuid, 'body' from generate_series(4, 20000) n;
insert into blobs (tenant_id, sha256, size_bytes, blob_id)
select 't' || i % 3, sha256(i::text::bytea), i, lpad(to_hex(i), 32, '0')::uuid from generate_series(1, 20000) i;
insert into uploads (tenant_id, session_id, attachment_id, blob_id, epoch, size_bytes, touch_time, body)
select 't' || i % 3, 's' || i, 'u', lpad(to_hex(i + 20000), 32, '0')::uuid, 1, 5, now() - i * interval '1 s', 'body'
from generate_series(1, 5000) i;
insert into releases (tenant_id, blob_id, session_id, attachment_id)
select 't' || i % 3, lpad(to_hex(i), 32, '0')::uuid, 's' || i, 'a' || n
from generate_series(1, 5000) i, generate_series(1, 2) n;
insert into pieces (tenant_id, piece_id, blob_id, start, length, drop_time)
select 't' || i % 3, lpad(to_hex(i + n * 100000), 32, '0')::uuid, lpad(to_hex(i), 32, '0')::uuid, n * 7936, 7936,
  case when i % 100 = 0 then now() + i * interval '1 s' end
from generate_series(1, 25000) i, generate_series(0, 1) n;
insert into blob_rows (tenant_id, piece_id, number, data)
select 't' || i % 3, lpad(to_hex(i), 32, '0')::uuid, n, 'data'
from generate_series(1, 2000) i, generate_series(0, 20) n;
analyze attachments, blobs, uploads, releases, pieces, blob_rows;
"""
_DOCUMENTS = """
insert into documents (tenant_id, scope, scope_id, key, version, create_time, update_time, expire_time, delete_time,
  user_readable, labels, body, value)
select 't' || i % 3, scope, case when scope = 4 then 's' || i % 2000 when scope > 1 then 'u' || i % 200 else '' end,
  'k' || i, 1, now(), now(), case when i % 50 = 0 then now() + i * interval '1 s' end,
  case when i % 50 = 1 then now() - i * interval '1 s' end, i % 100 = 2,
  case when i % 20 = 0 then jsonb_build_object('k', i::text) else '{}' end, 'body', 'value'
from generate_series(1, 20000) i, generate_series(1, 4) scope;
insert into document_requests (tenant_id, scope, scope_id, request_id, create_time, fingerprint, change)
select 't' || i % 3, 3, 'u' || i % 200, 'r' || i, now() - i * interval '1 s', 'print', 'change'
from generate_series(1, 20000) i;
analyze documents, document_requests;
"""
_REQUESTS = """
insert into requests (tenant_id, session_id, request_id, first_seq, last_seq, create_time, fingerprint)
select tenant_id, session_id, 'r' || seq, seq, seq, create_time - seq * interval '1 s', 'print' from events
where seq <= 1000;
analyze session_heads, sessions, events, message_marks, requests, runs, tool_calls, run_figures;
"""
_SEARCHED = """
insert into search_feeds (tenant_id, state, sessions, entries)
select 't' || i, case when i < 3 then 1 when i < 4900 then 1 + i % 2 else 3 end, 7000, 20000
from generate_series(0, 5000) i;
insert into search_sessions (feed_id, session_id, number, version, user_id, digest, keys)
select f.feed_id, 's' || i, i, 3, 'u' || i % 200, '', array[i, i % 50]
from generate_series(1, 20000) i join search_feeds f on f.tenant_id = 't' || i % 3;
insert into search_entries (feed_id, session_number, seq, number, create_time, role, keys)
select f.feed_id, i, n, i * 3 + n, now(), 2, array[i, n, i % 100]
from generate_series(1, 20000) i join search_feeds f on f.tenant_id = 't' || i % 3, generate_series(1, 3) n;
insert into search_buckets (feed_id, kind, bucket, first_time, last_time)
select feed_id, kind, bucket, now(), now() from search_feeds, generate_series(1, 2) kind, generate_series(0, 3) bucket;
insert into search_lease (holder, expire_time) values ('h', now());
analyze search_feeds, search_sessions, search_entries, search_buckets, search_lease;
"""
_SUMMARISED = """
insert into summary_feeds (tenant_id, commit_xid) select 't' || i, '0' from generate_series(0, 5000) i;
insert into summary_work (tenant_id, session_id, counted_to, messages, tokens, ended_seq, due_time)
select 't' || i % 3, 's' || i, 3, 3, 30, 0, case when i % 50 = 0 then now() end from generate_series(1, 20000) i;
analyze summary_feeds, summary_work;
"""
_REST = _FILES + _DOCUMENTS + _REQUESTS + _SEARCHED + _SUMMARISED + _FORKS
FILLINGS = {
    "short chats": _SESSIONS + _REST,  # nearly every event is a message, and few are in a session
    "one long log": _SESSIONS + _ONE_LONG_LOG + _REST,  # one event in 30 is a message
}


@pytest.fixture(scope="module", params=FILLINGS)
def filled_dsn(request: pytest.FixtureRequest, databases: Databases, loop_thread: LoopThread) -> Iterator[str]:
    dsn = databases.create_migrated()

    async def fill() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(FILLINGS[request.param])
        await connection.close()

    loop_thread.run(fill())
    yield dsn
    databases.drop(dsn)


@pytest.fixture
async def filled(filled_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(filled_dsn)
    yield connection
    await connection.close()


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def _plan(connection: asyncpg.Connection, text: str, parameters: int) -> list[dict[str, Any]]:
    """The plan that serves any parameters: what a connection runs once it has prepared the statement."""
    await connection.execute("set plan_cache_mode = force_generic_plan")
    await connection.execute(f"prepare subject as {text}")
    arguments = f"({', '.join(['null'] * parameters)})" if parameters else ""
    try:
        explained = await connection.fetchval(f"explain (format json) execute subject{arguments}")
    finally:
        await connection.execute("deallocate subject")
    return list(_nodes(json.loads(explained)[0]["Plan"]))


def _scans(nodes: list[dict[str, Any]]) -> set[str]:
    """All but those of the tables that have one row."""
    return {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"} - {
        "feed_order",
        "placement",
        "search_lease",
    }


def _indexes(nodes: list[dict[str, Any]]) -> set[str]:
    return {node["Index Name"] for node in nodes if "Index Name" in node}


async def test_statements_are_valid(filled: asyncpg.Connection) -> None:
    with table() as rows:
        for statement in STATEMENTS:
            with rows.row(statement.name):
                await filled.prepare(statement.text)


async def test_statements_use_the_indexes_they_declare(filled: asyncpg.Connection) -> None:
    with table() as rows:
        for statement in DECLARING:
            with rows.row(statement.name):
                parameters = len((await filled.prepare(statement.text)).get_parameters())
                nodes = await _plan(filled, statement.text, parameters)
                assert set(statement.indexes) <= _indexes(nodes)
                assert not _scans(nodes)


@pytest.mark.parametrize("after", [1, 2500])
async def test_feeds_are_read_from_their_position(filled: asyncpg.Connection, after: int) -> None:
    """Neither events before the position nor events behind the page are read, however long the history is."""
    everything = LOG["read_feed"].text.replace("pg_snapshot_xmin(pg_current_snapshot())", f"'{2**60}'::xid8")
    await filled.execute("set plan_cache_mode = force_generic_plan")
    await filled.execute(f"prepare subject as {everything}")
    explained = await filled.fetchval(
        f"explain (format json, analyze) execute subject ('t1', '{after}', 's1', 0, 10, 1000000)"
    )
    nodes = list(_nodes(json.loads(explained)[0]["Plan"]))
    (pages,) = [node for node in nodes if node.get("Index Name") == "events_feed" and "Only" not in node["Node Type"]]
    assert pages["Node Type"] == "Index Scan"
    assert 11 <= pages["Actual Rows"] + pages.get("Rows Removed by Filter", 0) < 100
    assert not _scans(nodes)


async def test_end_of_a_feed_is_read_from_the_end(filled: asyncpg.Connection) -> None:
    everything = LOG["feed_end"].text.replace("pg_snapshot_xmin(pg_current_snapshot())", f"'{2**60}'::xid8")
    await filled.execute("set plan_cache_mode = force_generic_plan")
    await filled.execute(f"prepare subject as {everything}")
    explained = await filled.fetchval("explain (format json, analyze) execute subject ('t1', 8)")
    reads = [n for n in _nodes(json.loads(explained)[0]["Plan"]) if n.get("Index Name") == "events_feed"]
    (newest,) = [node for node in reads if "Only" in node["Node Type"]]
    (ends,) = [node for node in reads if "Only" not in node["Node Type"]]
    assert newest["Actual Rows"] * newest["Actual Loops"] == 1
    assert 8 <= ends["Actual Rows"] * ends["Actual Loops"] < 200


@pytest.mark.parametrize("after", [0, 30000])
async def test_logs_are_read_from_their_position(filled: asyncpg.Connection, after: int) -> None:
    await filled.execute("set plan_cache_mode = force_generic_plan")
    await filled.execute(f"prepare subject as {LOG['read_log'].text}")
    explained = await filled.fetchval(
        f"explain (format json, analyze) execute subject ('t1', 's1', {after}, 10, 1000000)"
    )
    nodes = list(_nodes(json.loads(explained)[0]["Plan"]))
    (pages,) = [node for node in nodes if node.get("Index Name") == "events_pkey"]
    assert pages["Actual Rows"] <= 11
    assert not _scans(nodes)


async def test_events_find_the_heads_of_their_batch_by_hashing(filled: asyncpg.Connection) -> None:
    """A nested loop would be quadratic in the size of a batch."""
    text = WRITE["write_log"].text
    nodes = await _plan(filled, text, len((await filled.prepare(text)).get_parameters()))
    joins = {node["Node Type"] for node in nodes if "Join" in node["Node Type"] or "Loop" in node["Node Type"]}
    assert joins == {"Hash Join"}


@pytest.mark.parametrize(
    "name", ["write_log", "write_sessions", "write_work", "write_documents", "write_log_and_documents"]
)
async def test_upserts_read_no_table(filled: asyncpg.Connection, name: str) -> None:
    text = {**WRITE, **WORK, **DOCUMENTS}[name].text
    nodes = await _plan(filled, text, len((await filled.prepare(text)).get_parameters()))
    assert [node["Relation Name"] for node in nodes if node["Node Type"] == "ModifyTable"]
    assert not {n["Relation Name"] for n in nodes if "Scan" in n["Node Type"] and "Relation Name" in n} - {"feed_order"}


@pytest.mark.parametrize("after", [None, "key"])
@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize(
    ("order", "scope", "where", "index"),
    [
        ("CREATE_TIME_DESC", Scope("t1"), {}, "sessions_by_create_time"),
        ("CREATE_TIME_ASC", Scope("t1"), {}, "sessions_by_create_time"),
        ("CREATE_TIME_DESC", Scope("t1", "u7"), {}, "sessions_by_user"),
        ("CREATE_TIME_ASC", Scope("t1", "u7"), {}, "sessions_by_user"),
        ("CREATE_TIME_DESC", Scope("t1"), {"user_id": "u7"}, "sessions_by_user"),
        ("CREATE_TIME_DESC", Scope("t1"), {"agent_id": "a7"}, "sessions_by_agent"),
        ("CREATE_TIME_DESC", Scope("t1"), {"team_id": "team3"}, "sessions_by_team"),
        ("CREATE_TIME_DESC", Scope("t1"), {"labels": {"k": "7"}}, "sessions_labels"),
        ("UPDATE_TIME_DESC", Scope("t1"), {}, "session_heads_by_update_period"),
        ("UPDATE_TIME_ASC", Scope("t1"), {}, "session_heads_by_update_period"),
        ("NAME_ASC", Scope("t1"), {}, "sessions_by_name"),
        ("NAME_DESC", Scope("t1"), {}, "sessions_by_name"),
    ],
)
async def test_pages_of_sessions_come_from_an_index(
    filled: asyncpg.Connection,
    order: str,
    scope: Scope,
    where: dict[str, Any],
    index: str,
    content: bool,
    after: str | None,
) -> None:
    """They read no more rows than they return, wherever the page begins."""
    place: int | str = "n5" if order.startswith("NAME") else 0
    query = filters.page(
        scope,
        SessionFilter(**where),
        SessionOrder.Value(f"SESSION_ORDER_{order}"),
        after=(place, "s5") if after else None,
        limit=20,
        content=content,
    )
    # With values: lists are planned for the values of each call as long as that is better.
    values = [_literal(value, query.text, i + 1) for i, value in enumerate(query.parameters)]
    await filled.execute(f"prepare subject as {query.text}")
    explained = await filled.fetchval(f"explain (format json) execute subject ({', '.join(values)})")
    nodes = list(_nodes(json.loads(explained)[0]["Plan"]))
    assert index in _indexes(nodes)
    assert not _scans(nodes)
    ordered_by_index = "labels" not in where
    # Within each minute the rows are sorted.
    sorts = [
        node
        for node in nodes
        if "Sort" in node["Node Type"] and node["Plan Rows"] > 100 and node.get("Presorted Key") != ["h.update_period"]
    ]
    assert not (ordered_by_index and sorts)


def _literal(value: Any, text: str, number: int) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if f"_time, s.session_id) < (${number}" in text or f"_time, s.session_id) > (${number}" in text:
        return "now()"
    if f"update_period(${number})" in text:
        return "now()"
    return str(value)


async def test_every_list_is_valid(filled: asyncpg.Connection) -> None:
    """Covers each filter alone and all together, with each order, from the start and from a key."""
    fields: dict[str, Any] = {
        "type": 1,
        "component_id": "x",
        "agent_id": "x",
        "team_id": "x",
        "workflow_id": "x",
        "user_id": "x",
        "statuses": [1, 2],
        "name_contains": "x",
        "labels": {"k": "v"},
        "metadata": {"m": 1},
        "create_time_from": {"seconds": 1},
        "create_time_until": {"seconds": 1},
        "update_time_from": {"seconds": 1},
        "update_time_until": {"seconds": 1},
    }
    assert fields.keys() == {field.name for field in SessionFilter.DESCRIPTOR.fields}
    choices = [SessionFilter(), SessionFilter(**fields), *(SessionFilter(**{k: v}) for k, v in fields.items())]
    for where, order, after, content in itertools.product(choices, filters.ORDERS, (None, (0, "x")), (True, False)):
        query = filters.page(Scope("t", "u"), where, order, after=after, limit=1, content=content)  # type: ignore[arg-type]
        prepared = await filled.prepare(query.text)
        assert len(prepared.get_parameters()) == len(query.parameters)
    for where in choices:
        await filled.prepare(filters.count(Scope("t"), where).text)


@pytest.mark.parametrize("after", ["", "k5"])
@pytest.mark.parametrize(
    ("owner", "scope", "prefix", "labels", "index"),
    [
        ((DocumentScope.DOCUMENT_SCOPE_TENANT, ""), Scope("t1"), "", {}, "documents_pkey"),
        ((DocumentScope.DOCUMENT_SCOPE_TENANT, ""), Scope("t1"), "k1", {}, "documents_pkey"),
        ((DocumentScope.DOCUMENT_SCOPE_TENANT, ""), Scope("t1", "u7"), "", {}, "documents_user_readable"),
        ((DocumentScope.DOCUMENT_SCOPE_TENANT, ""), Scope("t1"), "", {"k": "40"}, "documents_labels"),
        ((DocumentScope.DOCUMENT_SCOPE_USER, "u7"), Scope("t1", "u7"), "k", {}, "documents_pkey"),
        ((DocumentScope.DOCUMENT_SCOPE_SESSION, "s7"), Scope("t1", "u7"), "", {}, "documents_pkey"),
    ],
)
async def test_pages_of_documents_come_from_an_index(
    filled: asyncpg.Connection,
    owner: tuple[DocumentScope.ValueType, str],
    scope: Scope,
    prefix: str,
    labels: dict[str, str],
    index: str,
    after: str,
) -> None:
    text, parameters = documents.page(scope, owner, prefix, labels, after, 20, values=True)
    values = [_literal(value, text, i + 1) for i, value in enumerate(parameters)]
    await filled.execute(f"prepare subject as {text}")
    explained = await filled.fetchval(f"explain (format json) execute subject ({', '.join(values)})")
    nodes = list(_nodes(json.loads(explained)[0]["Plan"]))
    assert index in _indexes(nodes)
    assert not _scans(nodes)


def test_orders_are_complete() -> None:
    assert set(filters.ORDERS) == set(SessionOrder.values())


ORDER = SessionOrder.SESSION_ORDER_CREATE_TIME_DESC


def test_values_are_never_interpolated_into_sql() -> None:
    plain = filters.page(
        Scope("t", "u"), SessionFilter(agent_id="a"), ORDER, after=(0, "x"), limit=1, content=True
    )  # fmt: skip
    hostile = filters.page(
        Scope("'{place}", "$1:limit"), SessionFilter(agent_id="'; --"), ORDER, after=(0, ":x"), limit=1, content=True
    )
    assert plain.text == hostile.text
    assert not any(mark in plain.text for mark in ("{", "}", " :"))


def test_blocks_are_parsed() -> None:
    blocks = parse("-- of the file\n\n-- name: a  index: i j\n-- why\nselect 1\n\n-- name: b\nselect 2\n")
    assert blocks["a"] == Statement("a", "select 1", ("i", "j"))
    assert blocks["b"] == Statement("b", "select 2", ())
    with pytest.raises(ValueError, match="two statements are named a"):
        parse("-- name: a\nselect 1\n-- name: a\nselect 2")
    assert LIST


def test_work_on_rows_of_all_tenants_leaves_those_alone_that_live_elsewhere() -> None:
    """While a tenant moves, its rows are in two databases, and one of them has only a copy."""
    whole_database = {"claim", "give_lease", "write_home", "raise", "forget_pieces"}
    checked = set()
    with table() as rows:
        for statement in STATEMENTS:
            names_tenants = re.search(r"unnest\(|tenant_id = \$\d", statement.text)
            if names_tenants or statement.name in whole_database or not OF_ALL_TENANTS.search(statement.text):
                continue
            checked.add(statement.name)
            with rows.row(statement.name):
                assert "lives_elsewhere(" in statement.text
    assert checked >= {
        "lock_due", "purge_requests", "purge_tombstones", "purge_documents", "purge_document_tombstones",
        "purge_document_requests", "abandon_uploads", "take_releases", "dropped_pieces",
    }  # fmt: skip
