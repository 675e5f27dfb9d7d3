"""Lists and counts of sessions: filters, orders, keys."""

import json
import random
from itertools import product
from typing import Any

import asyncpg
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.session_pb2 import Session, SessionStatus, SessionType
from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain.commands import Scope
from sessiond_server.memory.filters import contains
from sessiond_server.store.contract import Store
from tests.support.caller import CREATED, ENDED, Caller, accepted, struct
from tests.support.rows import table
from tests.support.store_backend import Backend

CREATE_DESC = SessionOrder.SESSION_ORDER_CREATE_TIME_DESC
CREATE_ASC = SessionOrder.SESSION_ORDER_CREATE_TIME_ASC
UPDATE_DESC = SessionOrder.SESSION_ORDER_UPDATE_TIME_DESC
UPDATE_ASC = SessionOrder.SESSION_ORDER_UPDATE_TIME_ASC
NAME_DESC = SessionOrder.SESSION_ORDER_NAME_DESC
NAME_ASC = SessionOrder.SESSION_ORDER_NAME_ASC
UNSPECIFIED = SessionOrder.SESSION_ORDER_UNSPECIFIED


async def listed(
    store: Store,
    where: SessionFilter | None = None,
    order: SessionOrder.ValueType = CREATE_ASC,
    *,
    limit: int = 3,
    content: bool = False,
    scope: Scope | None = None,
) -> list[str]:
    """Ids of all sessions, page by page; fails when a page is not as long as it can be."""
    found: list[str] = []
    after = None
    where = where or SessionFilter()
    while True:
        page = await store.list_sessions(
            scope or Scope("tenant"), where, order, after=after, limit=limit, content=content
        )
        ids = [Session.FromString(item.core).session_id for item in page.sessions]
        found += ids
        if page.next_key is None:
            assert len(ids) <= limit
            return found
        assert len(ids) == limit
        assert page.next_key[1] == ids[-1]
        after = page.next_key


async def selected(store: Store, **where: Any) -> set[str]:
    """Ids of the sessions that a filter selects; fails unless lists and counts agree."""
    criteria = SessionFilter(**where)
    found = await listed(store, criteria, limit=100)
    assert len(found) == len(set(found)) == await store.count_sessions(Scope("tenant"), criteria)
    assert sorted(await listed(store, criteria, UPDATE_DESC, limit=2, content=True)) == sorted(found)
    return set(found)


async def test_nothing_to_list(store: Store) -> None:
    assert await listed(store) == []
    page = await store.list_sessions(
        Scope("tenant"), SessionFilter(), CREATE_DESC, after=(0, "x"), limit=1, content=True
    )
    assert (list(page.sessions), page.next_key) == ([], None)


async def test_orders(store: Store, caller: Caller) -> None:
    """Ids break ties: the sessions of one batch have one create time."""
    names = {"c": "β", "a": "b", "b": "B", "d": "b", "g": "", "f": "𝄞", "e": "\uffee"}
    await accepted(store, caller.create("c", name=names["c"]))
    await accepted(store, *(caller.create(i, name=names[i]) for i in "badg"))
    await accepted(store, *(caller.create(i, name=names[i]) for i in "fe"))
    await accepted(store, caller.touch("b", 0), caller.touch("f", 0))
    await accepted(store, caller.touch("c", 0))

    orders = {
        CREATE_ASC: "cabdgef",
        CREATE_DESC: "fegdbac",
        UNSPECIFIED: "fegdbac",
        UPDATE_ASC: "adgebfc",
        UPDATE_DESC: "cfbegda",
        NAME_ASC: "gbadcef",  # by code points: "" B b b β U+FFEE U+1D11E
        NAME_DESC: "fecdabg",
    }
    with table() as rows:
        for limit, content, (order, found) in product((1, 2, 7, 8), (True, False), orders.items()):
            with rows.row(limit, content, SessionOrder.Name(order)):
                assert "".join(await listed(store, order=order, limit=limit, content=content)) == found


@pytest.mark.parametrize("limit", [1, 3, 9])
async def test_pages_by_update_time_go_on_across_periods(backend: Backend, caller: Caller, limit: int) -> None:
    """Mutants: a page that begins where the period of its key begins; a filter by the period alone."""
    store = backend.store
    await accepted(store, *(caller.create(i) for i in "abcdefgh"))
    times = list[Timestamp]()
    for i, pause in zip("hbdfaceg", (0, 0, 1, 20, 40, 60, 61, 300), strict=True):
        await backend.advance(pause)
        await accepted(store, caller.touch(i, 0))
        core = (await store.get_session(caller.scope, i, content=False)).core
        times.append(Session.FromString(core).update_time)
    assert await listed(store, order=UPDATE_ASC, limit=limit) == list("hbdfaceg")
    assert await listed(store, order=UPDATE_DESC, limit=limit) == list("gecafdbh")
    for n, time in enumerate(times):
        later, earlier = SessionFilter(update_time_from=time), SessionFilter(update_time_until=time)
        assert await listed(store, later, UPDATE_DESC, limit=limit) == list("gecafdbh"[: 8 - n])
        assert await listed(store, earlier, UPDATE_ASC, limit=limit) == list("hbdfaceg"[:n])


async def test_ids_compare_by_code_points(store: Store, caller: Caller) -> None:
    ids = ["a", "B", "b", "A", "a-", "a.", "a_", "a~", "aa", "-", "10", "9"]
    await accepted(store, *(caller.create(i) for i in ids))
    assert await listed(store) == sorted(ids)
    assert await listed(store, order=NAME_DESC) == sorted(ids, reverse=True)


@pytest.mark.parametrize("content", [True, False])
async def test_keys_say_where_a_page_ended(store: Store, caller: Caller, content: bool) -> None:
    await accepted(store, *(caller.create(f"s{i}", state=struct(me=f"s{i}")) for i in range(3)))
    for order, name in ((CREATE_DESC, "create_time"), (UPDATE_ASC, "update_time"), (NAME_ASC, "name")):
        page = await store.list_sessions(Scope("tenant"), SessionFilter(), order, after=None, limit=2, content=content)
        last = Session.FromString(page.sessions[-1].core)
        value = getattr(last, name)
        place = value if isinstance(value, str) else value.ToMicroseconds()
        assert page.next_key == (place, last.session_id)
        assert [bool(item.content) for item in page.sessions] == [content, content]
        for item in page.sessions:
            session_id = Session.FromString(item.core).session_id
            assert item == await store.get_session(Scope("tenant"), session_id, content=content)


async def test_a_key_works_after_its_session_is_gone(store: Store, caller: Caller) -> None:
    """Defect 4 of the predecessors: an unknown cursor restarted at page 1."""
    await accepted(store, *(caller.create(f"s{i}") for i in range(4)))
    page = await store.list_sessions(Scope("tenant"), SessionFilter(), CREATE_ASC, after=None, limit=2, content=False)
    await accepted(store, caller.delete("s1"))
    rest = await store.list_sessions(
        Scope("tenant"), SessionFilter(), CREATE_ASC, after=page.next_key, limit=9, content=False
    )
    assert [Session.FromString(item.core).session_id for item in rest.sessions] == ["s2", "s3"]


async def test_filters_on_columns(store: Store, caller: Caller) -> None:
    await accepted(
        store,
        caller.create("agent", agent_id="x", user_id="u1"),
        caller.create("team", type=SessionType.SESSION_TYPE_TEAM, team_id="x", user_id="u2", status=CREATED),
        caller.create("flow", type=SessionType.SESSION_TYPE_WORKFLOW, workflow_id="x", agent_id="y"),
        caller.create("over", agent_id="y", user_id="u1"),
        caller.end("over"),
    )
    assert await selected(store) == {"agent", "team", "flow", "over"}
    assert await selected(store, type=SessionType.SESSION_TYPE_TEAM) == {"team"}
    assert await selected(store, component_id="x") == {"agent", "team", "flow"}
    assert await selected(store, component_id="y") == {"flow", "over"}
    assert await selected(store, agent_id="y") == {"flow", "over"}
    assert await selected(store, team_id="x") == {"team"}
    assert await selected(store, workflow_id="x") == {"flow"}
    assert await selected(store, user_id="u1") == {"agent", "over"}
    assert await selected(store, user_id="U1") == set()
    assert await selected(store, statuses=[ENDED]) == {"over"}
    assert await selected(store, statuses=[ENDED, CREATED]) == {"over", "team"}
    assert await selected(store, user_id="u1", agent_id="x", component_id="x") == {"agent"}
    assert await selected(store, user_id="u1", agent_id="x", statuses=[ENDED]) == set()


async def test_lists_follow_what_updates_change(store: Store, caller: Caller) -> None:
    await accepted(
        store,
        caller.create("s", name="old", agent_id="a", labels={"k": "1"}, metadata=struct(m=1), status=CREATED),
    )
    await accepted(store, caller.update("s", name="new", agent_id="b", labels={"k": "2"}))
    assert await selected(store, name_contains="old") == await selected(store, agent_id="a") == set()
    assert await selected(store, labels={"k": "1"}) == set()
    everything = {"name_contains": "new", "agent_id": "b", "labels": {"k": "2"}, "metadata": struct(m=1)}
    assert await selected(store, **everything) == {"s"}
    await accepted(store, caller.update("s", metadata=struct(n=2), merge=True))
    assert await selected(store, metadata=struct(m=1, n=2)) == {"s"}
    await accepted(store, caller.update("s", metadata=struct(n=3)))
    assert await selected(store, metadata=struct(m=1)) == set()
    await accepted(store, caller.end("s"))
    assert await selected(store, statuses=[ENDED], **(everything | {"metadata": struct(n=3)})) == {"s"}
    await accepted(store, caller.delete("s"))
    assert await selected(store) == set()


async def test_the_name_that_a_message_gives_is_listed(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", name=""), caller.append("s", "Plan the trip to Oslo"))
    assert await selected(store, name_contains="trip") == {"s"}


NAME_CONTAINS = [
    ("Quarterly Report", "report", True),
    ("Quarterly Report", "Y R", True),
    ("Quarterly Report", "reports", False),
    ("ÄRGER im BÜRO", "ärger", True),
    ("Straße", "STRASSE", True),
    ("ΣΊΣΥΦΟΣ", "σίσυφος", True),
    ("100% sure", "0% s", True),
    ("100x sure", "0% s", False),
    ("a_b", "a_b", True),
    ("axb", "a_b", False),
    ("back\\slash", "K\\S", True),
    ("会話の記録", "の記", True),
    ("'; drop table sessions; --", "'; DROP", True),
    ('quote"d', '"D', True),
]


async def test_name_contains(store: Store, caller: Caller) -> None:
    sessions = (
        caller.create(f"{i}", name=name, labels={"case": f"{i}"}) for i, (name, _, _) in enumerate(NAME_CONTAINS)
    )
    await accepted(store, *sessions)
    with table() as rows:
        for i, (name, part, found) in enumerate(NAME_CONTAINS):
            with rows.row(name, part):
                where = {"labels": {"case": f"{i}"}, "name_contains": part}
                assert await selected(store, **where) == ({f"{i}"} if found else set())


async def test_labels(store: Store, caller: Caller) -> None:
    await accepted(
        store,
        caller.create("a", labels={"env": "prod", "tier": "", "q": 'say "hi" \\ 🎈'}),
        caller.create("b", labels={"env": "Prod"}),
        caller.create("c"),
    )
    assert await selected(store, labels={"env": "prod"}) == {"a"}
    assert await selected(store, labels={"env": "prod", "tier": ""}) == {"a"}
    assert await selected(store, labels={"tier": "", "q": 'say "hi" \\ 🎈'}) == {"a"}
    assert await selected(store, labels={"env": "prod", "none": ""}) == set()
    assert await selected(store, labels={"tier": "x"}) == set()


CONTAINMENT: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"a": 1}, {}, True),
    ({"a": 1, "b": 2}, {"a": 1}, True),
    ({"a": 1}, {"a": 1.0}, True),
    ({"a": 1}, {"a": 1.5}, False),
    ({"a": 1}, {"a": True}, False),
    ({"a": 0}, {"a": False}, False),
    ({"a": "1"}, {"a": 1}, False),
    ({"a": None}, {"a": None}, True),
    ({"b": None}, {"a": None}, False),
    ({"a": None}, {"a": False}, False),
    ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1}}}, True),
    ({"a": {"b": {"c": 1}}}, {"a": {"c": 1}}, False),
    ({"a": {"b": 1}}, {"a": {}}, True),
    ({"a": 1}, {"a": {}}, False),
    ({"a": []}, {"a": {}}, False),
    ({"a": [1, 2, 3]}, {"a": [3, 1]}, True),
    ({"a": [1, 2]}, {"a": [1, 1, 1]}, True),
    ({"a": [1, 2]}, {"a": []}, True),
    ({"a": [1, 2]}, {"a": [4]}, False),
    ({"a": [1, 2]}, {"a": 1}, False),
    ({"a": [True]}, {"a": [1]}, False),
    ({"a": [[1, 2], 3]}, {"a": [[2]]}, True),
    ({"a": [[1, 2], 3]}, {"a": [2]}, False),
    ({"a": [{"b": 1, "c": 2}]}, {"a": [{"c": 2}]}, True),
    ({"a": [{"b": 1}, {"c": 2}]}, {"a": [{"b": 1, "c": 2}]}, False),
    ({"a": [{}]}, {"a": [{}]}, True),
    ({"a": 'é 🎈 "q" \\'}, {"a": 'é 🎈 "q" \\'}, True),
    ({"": {"": ""}}, {"": {"": ""}}, True),
    ({"a": 1e300, "b": -0.5}, {"a": 1e300, "b": -0.5}, True),
]


async def test_metadata_containment(store: Store, caller: Caller) -> None:
    await accepted(
        store,
        *(
            caller.create(f"{i}", metadata=ParseDict(outer, Struct()), labels={"case": f"{i}"})
            for i, (outer, _, _) in enumerate(CONTAINMENT)
        ),
    )
    for i, (outer, inner, expected) in enumerate(CONTAINMENT):
        where = {"labels": {"case": f"{i}"}, "metadata": ParseDict(inner, Struct())}
        assert await selected(store, **where) == ({f"{i}"} if expected else set()), (outer, inner)


async def test_metadata_that_is_absent(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("none"), caller.create("some", metadata=struct(a=1)))
    assert await selected(store, metadata=struct()) == {"none", "some"}
    assert await selected(store, metadata=struct(a=1)) == {"some"}


async def test_memory_store_matches_postgres_containment(database: asyncpg.Connection) -> None:
    """Random pairs, the same answer from both."""
    chance = random.Random(7)

    def value(depth: int) -> Any:
        kind = chance.randrange(7 if depth else 5)
        if kind == 5:
            return [value(depth - 1) for _ in range(chance.randrange(3))]
        if kind == 6:
            return {chance.choice("ab"): value(depth - 1) for _ in range(chance.randrange(3))}
        return [None, True, 1, "x", 2.5][kind]

    def reduced(item: Any) -> Any:
        if chance.random() < 0.1:
            return value(1)
        if isinstance(item, dict):
            return {key: reduced(child) for key, child in item.items() if chance.random() < 0.7}
        if isinstance(item, list):
            return [reduced(child) for child in item if chance.random() < 0.7]
        return item

    pairs = []
    for _ in range(2000):
        outer = {key: value(3) for key in "ab"}
        pairs.append((outer, reduced(outer)))
    rows = await database.fetch(
        "select o::jsonb @> i::jsonb from unnest($1::text[], $2::text[]) with ordinality k (o, i, n) order by n",
        [json.dumps(outer) for outer, _ in pairs],
        [json.dumps(inner if isinstance(inner, dict) else {}) for _, inner in pairs],
    )
    mine = [contains(outer, inner if isinstance(inner, dict) else {}) for outer, inner in pairs]
    assert [row[0] for row in rows] == mine
    assert 500 < sum(mine) < 1900


async def test_time_ranges(backend: Backend, caller: Caller) -> None:
    store = backend.store
    for name in ("a", "b", "c"):
        await accepted(store, caller.create(name))
        await backend.advance(10)
    await accepted(store, caller.touch("a", 0))
    times: dict[str, Session] = {}
    for name in ("a", "b", "c"):
        times[name] = Session.FromString((await store.get_session(caller.scope, name, content=False)).core)
    created, updated = times["b"].create_time, times["a"].update_time

    def plus(time: Timestamp, nanos: int) -> Timestamp:
        return Timestamp(seconds=time.seconds, nanos=time.nanos + nanos)

    assert await selected(store, create_time_from=created) == {"b", "c"}
    assert await selected(store, create_time_from=plus(created, 1)) == {"c"}
    assert await selected(store, create_time_until=created) == {"a"}
    assert await selected(store, create_time_until=plus(created, 1)) == {"a", "b"}
    assert await selected(store, update_time_from=updated) == {"a"}
    assert await selected(store, update_time_from=plus(updated, 1)) == set()
    assert await selected(store, update_time_until=updated) == {"b", "c"}
    assert await selected(store, update_time_until=plus(updated, 1)) == {"a", "b", "c"}
    assert await selected(store, create_time_from=created, create_time_until=created) == set()
    assert await selected(store, create_time_from=created, update_time_until=updated, statuses=[2]) == {"b", "c"}
    assert await selected(store, create_time_from=Timestamp(seconds=-62135596800)) == {"a", "b", "c"}
    assert await selected(store, update_time_until=Timestamp(seconds=253402300799, nanos=999999999)) == {"a", "b", "c"}


async def test_every_filter_with_every_order(store: Store, caller: Caller) -> None:
    """One statement for each combination: this proves that they are well formed and agree with the plain filter."""
    both: dict[str, Any] = {"agent_id": "x", "labels": {"k": "v"}, "metadata": struct(a=1)}
    await accepted(store, *(caller.create(f"s{i}", user_id="u", **both) for i in range(5)), caller.create("other"))
    where = SessionFilter(
        type=SessionType.SESSION_TYPE_AGENT,
        component_id="x",
        agent_id="x",
        user_id="u",
        statuses=[SessionStatus.SESSION_STATUS_ACTIVE],
        name_contains="NAME",
        labels={"k": "v"},
        metadata=struct(a=1),
        create_time_from=Timestamp(seconds=1),
        create_time_until=Timestamp(seconds=10**10),
        update_time_from=Timestamp(seconds=1),
        update_time_until=Timestamp(seconds=10**10),
    )
    orders = (CREATE_DESC, CREATE_ASC, UPDATE_DESC, UPDATE_ASC, NAME_ASC, NAME_DESC)
    with table() as rows:
        for order, content in product(orders, (True, False)):
            with rows.row(SessionOrder.Name(order), content):
                found = await listed(store, where, order, limit=2, content=content, scope=Scope("tenant", "u"))
                assert sorted(found) == [f"s{i}" for i in range(5)]
    assert await store.count_sessions(Scope("tenant", "u"), where) == 5
