# ruff: noqa: RUF001 - full-width forms are what is tested
"""What searches find, over every store: the index of Postgres against the memory store, which looks at everything."""

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.message_pb2 import Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.run_pb2 import Failure
from sessiond.v1.session_service_pb2 import SessionFilter
from sessiond.v1.tool_call_pb2 import ToolCall, ToolData
from sessiond_server.domain import commands as c
from sessiond_server.errors import InvalidPageToken, SessionNotFound
from sessiond_server.store.contract import Store
from tests.support.caller import Caller, accepted, message, struct
from tests.support.rows import table
from tests.support.search import index_all, marked, message_pages, messages, places, sessions

CHINESE = "使用Python编程，很好"


async def said(store: Store, caller: Caller, session_id: str, *texts: str, **fields: Any) -> None:
    await accepted(store, caller.create(session_id, **fields), caller.append(session_id, *texts))
    await index_all(store)


FINDS = [
    ("Hello, World!", "world"),
    ("Hello, World!", "HELLO world"),
    ("see billing/money.py", "money.py"),
    ("test_rounding fails", "rounding"),
    ("test_rounding fails", "round*"),
    ("internationally", "int*"),
    ("a quick brown fox", '"quick brown"'),
    ("a quick brown fox", "fox -dog"),
    ("a quick brown fox", "dog OR fox"),
    ("a quick brown fox", '"quick brown'),
    (CHINESE, "编"),
    (CHINESE, "编程"),
    (CHINESE, "python"),
    (CHINESE, "Python编程"),
    (CHINESE, '"编程 很好"'),
    ("東京スカイツリー", "スカイ"),
    ("한국어로 말해요", "국어"),
    ("ภาษาไทยง่าย", "ไทย"),
    ("كِتَاب جميل", "كِتَاب"),
    ("हिन्दी में क्षत्रिय", "क्षत्रिय"),
    ("great 👍🏽 work", "👍"),
    ("🇩🇪🇫🇷", "🇫🇷"),
    ("ＦＵＬＬ ｗｉｄｔｈ", "full"),
    ("Straße", "STRASSE"),
    ("cafe\u0301", "café"),
]
FINDS_NOT = [
    ("Hello, World!", "worl"),
    ("Hello, World!", "hello moon"),
    ("a quick brown fox", '"brown quick"'),
    ("a quick brown fox", "fox -quick"),
    (CHINESE, "程编"),
    (CHINESE, "程很"),
    (CHINESE, "pyth"),
    ("हिन्दी में", "हिन्"),
    ("the internet", "inta*"),
]


async def test_finds_what_occurs_and_nothing_else(store: Store, caller: Caller) -> None:
    rows = [*((*row, True) for row in FINDS), *((*row, False) for row in FINDS_NOT)]
    for number, (text, _, _) in enumerate(rows):
        await accepted(store, caller.create(f"s{number}"), caller.append(f"s{number}", text))
    await index_all(store)
    with table() as each:
        for number, (text, query, is_found) in enumerate(rows):
            with each.row(f"{query} in {text}"):
                expected = [(f"s{number}", 2)] if is_found else []
                assert places(await messages(store, query, session_id=f"s{number}")) == expected


async def test_newest_come_first_and_pages_join(store: Store, caller: Caller) -> None:
    await said(store, caller, "a", *(f"word {n}" for n in range(7)))
    await said(store, caller, "b", "word", "other", "word")
    expected = [("b", 4), ("b", 2), *(("a", seq) for seq in range(8, 1, -1))]
    for limit in (1, 3, 9, 100):
        assert places(await messages(store, "word", limit=limit)) == expected
    pages = [page async for page in message_pages(store, "word", limit=3)]
    assert [len(page.hits) for page in pages] == [3, 3, 3]


async def test_what_comes_after_the_first_page_does_not_shift_the_others(store: Store, caller: Caller) -> None:
    await said(store, caller, "a", *(f"word {n}" for n in range(6)))
    for relevance in (False, True):
        seen = []
        async for page in message_pages(store, "word", limit=2, relevance=relevance):
            seen += places(list(page.hits))
            await accepted(store, caller.append("a", "word word word word"))
            await index_all(store)
        assert sorted(seen[:6]) == sorted(set(seen[:6]))
        assert len(seen) == len(set(seen))


async def test_relevance_puts_first_what_has_the_word_most(store: Store, caller: Caller) -> None:
    filler = " ".join(f"filler{n}" for n in range(80))
    await said(store, caller, "s", f"word {filler}", "word word word", "word", f"word {filler} {filler}")
    for limit in (1, 2, 10):
        found = places(await messages(store, "word", relevance=True, limit=limit))
        assert found == [("s", 3), ("s", 4), ("s", 2), ("s", 5)]


async def test_finds_in_every_part_and_says_where(store: Store, caller: Caller) -> None:
    parts = [
        Part(text="alpha"),
        Part(thinking="beta"),
        Part(data=struct(gamma="delta", list=[1234567])),
        Part(json='{"k": "\\u7f16\\u7a0b"}'),
        Part(tool_call=ToolCallPart(tool_call_id="1", name="epsilon_tool", arguments_json='{"x": "zeta"}')),
        Part(tool_result=ToolResultPart(tool_call_id="1", text="eta")),
    ]
    given = Message(role=Role.ROLE_ASSISTANT, name="theta", parts=parts, labels={"topic": "iota"})
    await accepted(store, caller.create("s"), caller.command("s", c.AppendMessages([given])))
    await index_all(store)
    expected = {
        "alpha": "parts[0].text", "beta": "parts[1].thinking", "gamma": "parts[2].data", "delta": "parts[2].data",
        "1234567": "parts[2].data", "编程": "parts[3].json", "epsilon": "parts[4].tool_call.name",
        "zeta": "parts[4].tool_call.arguments_json", "eta": "parts[5].tool_result.text", "theta": "name",
        "iota": "labels",
    }  # fmt: skip
    for query, path in expected.items():
        (hit,) = await messages(store, query)
        assert [snippet.path for snippet in hit.snippets] == [path], query
        assert hit.role == Role.ROLE_ASSISTANT
        assert hit.message_id
    assert places(await messages(store, "alpha iota zeta")) == [("s", 2)]
    assert await messages(store, '"alpha beta"') == []


async def test_finds_tool_calls_by_arguments_and_results(store: Store, caller: Caller) -> None:
    call = ToolCall(tool_call_id="t", name="lookup", arguments=ToolData(data=struct(city="Kyoto")))
    other = ToolCall(tool_call_id="u", name="lookup", arguments=ToolData(text="Osaka"))
    await accepted(
        store,
        caller.create("s"),
        caller.command("s", c.RequestToolCall(call)),
        caller.command("s", c.StartToolCall("t")),
        caller.command("s", c.EndToolCall("t", ToolData(text="sunny"), None)),
        caller.command("s", c.RequestToolCall(other)),
        caller.command("s", c.StartToolCall("u")),
        caller.command("s", c.EndToolCall("u", None, Failure(code="X", message="the bridge is out"))),
    )
    await index_all(store)
    for query, seq, name in (("kyoto", 2, "t"), ("sunny", 4, "t"), ("osaka", 5, "u"), ("bridge", 7, "u")):
        (hit,) = await messages(store, query)
        assert (hit.seq, hit.tool_call_id, hit.role) == (seq, name, Role.ROLE_TOOL)
    assert await messages(store, "kyoto", roles=frozenset({Role.ROLE_USER})) == []
    assert len(await messages(store, "lookup", roles=frozenset({Role.ROLE_TOOL}))) == 2


async def test_snippets_mark_hits_and_cut_the_rest(store: Store, caller: Caller) -> None:
    before, after = "x " * 400, " y" * 400
    await said(store, caller, "s", f"{before}Ａ needle, and 编程！another Needle{after}")
    (hit,) = await messages(store, "needle 编程")
    (snippet,) = hit.snippets
    assert "Ａ [needle], and [编程]！another [Needle] y" in marked(snippet)
    assert marked(snippet).startswith("…x ")
    assert marked(snippet).endswith("…")
    assert sum(len(each.text) for each in snippet.segments) <= 240


async def test_filters_of_session_role_and_time(store: Store, caller: Caller) -> None:
    await said(store, caller, "a", "word", agent_id="x", labels={"team": "red"})
    given = [message("word", role=Role.ROLE_ASSISTANT), message("word")]
    await accepted(store, caller.create("b", agent_id="y", user_id="ann"), caller.command("b", c.AppendMessages(given)))
    await index_all(store)
    everything = await messages(store, "word")
    assert places(everything) == [("b", 3), ("b", 2), ("a", 2)]
    assert places(await messages(store, "word", session_id="a")) == [("a", 2)]
    assert await messages(store, "word", session_id="none") == []
    assert places(await messages(store, "word", sessions=SessionFilter(agent_id="x"))) == [("a", 2)]
    assert places(await messages(store, "word", sessions=SessionFilter(labels={"team": "red"}))) == [("a", 2)]
    assert len(await messages(store, "word", sessions=SessionFilter(user_id="ann"))) == 2
    assert places(await messages(store, "word", roles=frozenset({Role.ROLE_ASSISTANT}))) == [("b", 2)]
    both = frozenset({Role.ROLE_ASSISTANT, Role.ROLE_USER})
    assert len(await messages(store, "word", roles=both)) == 3
    first, last = (microseconds(everything[place].create_time) for place in (2, 0))
    assert places(await messages(store, "word", until_us=last)) == [("a", 2)]
    assert len(await messages(store, "word", from_us=last)) == 2
    assert await messages(store, "word", until_us=first) == []
    assert len(await messages(store, "word", from_us=first, until_us=last + 1)) == 3


def microseconds(time: Timestamp) -> int:
    return time.seconds * 1_000_000 + time.nanos // 1000


async def test_nobody_finds_what_is_not_theirs(store: Store, caller: Caller) -> None:
    await said(store, caller, "a", "word", user_id="ann")
    await said(store, caller, "b", "word", user_id="bob", name="word")
    stranger = Caller(c.Scope("other"))
    await said(store, stranger, "a", "word")
    assert len(await messages(store, "word")) == 2
    assert places(await messages(store, "word", c.Scope("tenant", "ann"))) == [("a", 2)]
    assert await messages(store, "word", c.Scope("tenant", "ann"), session_id="b") == []
    assert await messages(store, "word", c.Scope("tenant", "cid")) == []
    assert await sessions(store, "word", c.Scope("tenant", "ann")) == []
    assert places(await messages(store, "word", c.Scope("other"))) == [("a", 2)]
    assert await messages(store, "word", c.Scope("nobody")) == []


async def test_finds_sessions_by_name_summary_and_labels(store: Store, caller: Caller) -> None:
    await accepted(
        store,
        caller.create("a", name="Trip to Kyoto", labels={"topic": "travel"}),
        caller.create("b", name="", summary="They spoke of Kyoto"),
        caller.create("c", name=""),
        caller.append("c", "Kyoto in spring"),
        caller.create("d", name="other"),
    )
    await index_all(store)

    async def ids(query: str, **where: Any) -> list[str]:
        return [hit.session.session_id for hit in await sessions(store, query, **where)]

    assert await ids("kyoto") == ["c", "b", "a"]
    assert await ids("travel") == ["a"]
    assert await ids("spoke kyoto", relevance=True) == ["b"]
    assert await ids("kyoto", sessions=SessionFilter(labels={"topic": "travel"})) == ["a"]
    await accepted(store, caller.update("a", name="Trip to Osaka"), caller.update("b", summary=""))
    await index_all(store)
    assert await ids("kyoto") == ["c"]
    assert await ids("osaka") == ["a"]
    (hit,) = await sessions(store, "osaka")
    assert [(each.path, marked(each)) for each in hit.snippets] == [("name", "Trip to [Osaka]")]


async def test_what_is_gone_is_not_found_from_its_acknowledgement_on(store: Store, caller: Caller) -> None:
    """The index does not see any of the deletions here: nothing reads the feed after them."""
    await accepted(
        store, caller.create("s", name=""),
        caller.command("s", c.AppendMessages([message("hello", f"m{n}") for n in range(1, 5)])),
        caller.create("t", name="hello"), caller.append("t", "hello"),
    )  # fmt: skip
    await index_all(store)
    assert len(await messages(store, "hello")) == 5
    assert len(await sessions(store, "hello")) == 2
    await accepted(store, caller.redact("s", "m1"))
    assert len(await messages(store, "hello")) == 4
    assert [hit.session.session_id for hit in await sessions(store, "hello")] == ["t"]
    await accepted(store, caller.delete_messages("s", "m2"))
    await accepted(store, caller.pop("s"))
    assert places(await messages(store, "hello", session_id="s")) == [("s", 4)]
    await accepted(store, caller.delete("t"))
    assert places(await messages(store, "hello")) == [("s", 4)]
    assert await sessions(store, "hello") == []
    await index_all(store)
    assert places(await messages(store, "hello")) == [("s", 4)]


async def test_an_id_used_anew_has_its_own_words_only(store: Store, caller: Caller) -> None:
    await said(store, caller, "s", "old words", name="ancient")
    await accepted(store, caller.delete("s"), caller.create("s", reuse=True, name="modern"), caller.append("s", "new"))
    assert await messages(store, "old") == []
    await index_all(store)
    assert await messages(store, "old") == []
    assert await sessions(store, "ancient") == []
    assert [hit.message_id != "" for hit in await messages(store, "new")] == [True]
    assert len(await sessions(store, "modern")) == 1


async def test_waits_until_the_index_has_seen_a_version(store: Store, caller: Caller) -> None:
    await said(store, caller, "s", "word", user_id="ann")
    index = store.search  # type: ignore[attr-defined]
    assert await index.wait_until_seen(caller.scope, "s", 2, 0.0) == 2
    assert await index.wait_until_seen(caller.scope, "s", 3, 60.0) == 2
    for scope, session_id in ((caller.scope, "none"), (c.Scope("tenant", "bob"), "s"), (c.Scope("other"), "s")):
        with pytest.raises(SessionNotFound):
            await index.wait_until_seen(scope, session_id, 1, 60.0)


async def test_places_of_another_index_are_refused(store: Store, caller: Caller) -> None:
    await said(store, caller, "s", "word")
    if hasattr(store, "search_upkeep"):
        with pytest.raises(InvalidPageToken):
            await anext(message_pages_from(store, [10**9, 1]))


async def message_pages_from(store: Store, after: list[int | str]):  # type: ignore[no-untyped-def]
    from sessiond_server.search.contract import Where
    from sessiond_server.search.finding import find_messages
    from sessiond_server.search.query import parse

    yield await find_messages(
        store.search,  # type: ignore[attr-defined]
        c.Scope("tenant"),
        parse("word"),
        Where(),
        relevance=False,
        after=after,
        limit=1,
    )
