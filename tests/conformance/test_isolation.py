"""Tenant and owner are part of every read and write (G11): what lies outside looks as if it did not exist."""

from collections.abc import Awaitable, Callable

import pytest

from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain import commands as c
from sessiond_server.errors import SessionNotFound
from sessiond_server.store.contract import Store
from tests.support.caller import Caller, accepted, refused

NEWEST_FIRST = SessionOrder.SESSION_ORDER_CREATE_TIME_DESC
OUTSIDE = [c.Scope("other"), c.Scope("tenant", "bob"), c.Scope("other", "alice"), c.Scope("tenant", "Alice")]
INSIDE = [c.Scope("tenant"), c.Scope("tenant", "alice")]


@pytest.fixture
async def alices(store: Store) -> Store:
    everyone = Caller()
    await accepted(store, everyone.create("s", user_id="alice"), everyone.append_ids("s", "m"))
    return store


READS: dict[str, Callable[[Store, c.Scope], Awaitable[object]]] = {
    "get_core": lambda store, scope: store.get_session(scope, "s", content=False),
    "get_session": lambda store, scope: store.get_session(scope, "s", content=True),
    "get_message": lambda store, scope: store.get_message(scope, "s", "m"),
    "list_messages": lambda store, scope: store.list_messages(
        scope, "s", after_seq=0, before_seq=0, descending=False, limit=10
    ),
    "list_messages_backwards": lambda store, scope: store.list_messages(
        scope, "s", after_seq=0, before_seq=0, descending=True, limit=10
    ),
}


@pytest.mark.parametrize("read", READS)
async def test_reads(alices: Store, read: str) -> None:
    for scope in INSIDE:
        assert await READS[read](alices, scope)
    for scope in OUTSIDE:
        with pytest.raises(SessionNotFound) as caught:
            await READS[read](alices, scope)
        assert caught.value.args == SessionNotFound("s").args


@pytest.mark.parametrize("content", [True, False])
async def test_batch_reads_and_lists(alices: Store, content: bool) -> None:
    for scope in INSIDE:
        (found,) = await alices.get_sessions(scope, ["s"], content=content)
        assert found is not None
        page = await alices.list_sessions(scope, SessionFilter(), NEWEST_FIRST, after=None, limit=5, content=content)
        assert len(page.sessions) == await alices.count_sessions(scope, SessionFilter()) == 1
    for scope in OUTSIDE:
        assert await alices.get_sessions(scope, ["s"], content=content) == [None]
        page = await alices.list_sessions(scope, SessionFilter(), NEWEST_FIRST, after=None, limit=5, content=content)
        assert list(page.sessions) == []
        assert await alices.count_sessions(scope, SessionFilter()) == 0


async def test_a_filter_cannot_widen_the_scope(alices: Store) -> None:
    await accepted(alices, Caller().create("b", user_id="bob"))
    bob = c.Scope("tenant", "bob")
    assert await alices.count_sessions(bob, SessionFilter(user_id="alice")) == 0
    assert await alices.count_sessions(bob, SessionFilter(user_id="bob")) == 1


@pytest.mark.parametrize("scope", OUTSIDE, ids=str)
async def test_writes(alices: Store, scope: c.Scope) -> None:
    before = await alices.get_session(c.Scope("tenant"), "s", content=True)
    stranger = Caller(scope)
    commands = [
        stranger.append("s"),
        stranger.update("s", name="x"),
        stranger.suspend("s"),
        stranger.end("s"),
        stranger.touch("s", 0),
        stranger.redact("s", "m"),
        stranger.delete("s"),
        stranger.command("s", c.ExpireSession()),
    ]
    for command in commands:
        await refused(alices, command, SessionNotFound)
    assert [type(result) for result in (await alices.apply(commands)).results] == [SessionNotFound] * len(commands)
    assert await alices.get_session(c.Scope("tenant"), "s", content=True) == before


async def test_retry_by_another_user_is_not_found(alices: Store) -> None:
    mine = Caller().append("s", request_id="r")
    await accepted(alices, mine)
    for scope in OUTSIDE:
        await refused(alices, c.Command(scope, "s", mine.action, "x", "r", mine.fingerprint), SessionNotFound)


async def test_the_owner_writes(alices: Store) -> None:
    await accepted(alices, Caller(c.Scope("tenant", "alice")).append("s"))
