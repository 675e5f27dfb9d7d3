"""Legal holds over every store: what they refuse, whom they cover, and what stays of them."""

import asyncio
from typing import Any

import asyncpg
import pytest

from sessiond.v1.erasure_pb2 import ErasureState
from sessiond.v1.retention_pb2 import LegalHold
from sessiond_server import erasing
from sessiond_server.domain import commands as c
from sessiond_server.domain.batch import ACTIONS
from sessiond_server.errors import (
    HoldNotFound,
    RequestIdReused,
    SessionNotFound,
    UnderLegalHold,
)
from sessiond_server.store.retention import NewHold
from tests.support.caller import Caller, accepted, refused
from tests.support.documents import ANN, SESSION, alone, delete, put, read, written
from tests.support.store_backend import Backend
from tests.support.stored_uploads import declared, uploaded
from tests.support.wire import DirectWriter

EVERYONE = c.Scope("tenant")

REMOVING = {
    c.DeleteSession, c.DeleteMessages, c.RedactMessage, c.DeleteAttachment, c.DeleteDocument, c.AppendMessages,
    c.UpdateAndAppend,
}  # fmt: skip
"""Actions of which some remove something. Every other one must leave all that callers have stored."""


def test_every_action_that_removes_something_says_so() -> None:
    assert {action for action, row in ACTIONS.items() if row.removes is not None} == REMOVING


async def place(backend: Backend, *, session_id: str = "", user_id: str = "", request_id: str = "") -> LegalHold:
    hold = NewHold(session_id, user_id, "case 7", "counsel", request_id)
    return await backend.retention.place_hold(EVERYONE, hold)


async def lift(backend: Backend, hold: LegalHold) -> LegalHold:
    return await backend.retention.lift_hold(EVERYONE, hold.hold_id, "judge", "closed")


async def fill(backend: Backend, caller: Caller) -> None:
    """The session s of ann with three messages, an attachment and a document, and a document of ann."""
    store = backend.store
    await accepted(store, caller.create("s", user_id="ann"))
    await accepted(store, caller.append_ids("s", "m1", "m2", "m3"))
    await uploaded(backend, caller, declared("a1"))
    for name in ("d1", "d2"):
        await accepted(store, alone(put((SESSION, "s"), name)), alone(put(ANN, name)))


def removals(caller: Caller) -> list[tuple[c.Command, str]]:
    """Every way to remove something of ann's, and whether the session or the user is named in the refusal."""
    return [
        (caller.redact("s", "m1"), "s"),
        (caller.delete_messages("s", "m2"), "s"),
        (caller.pop("s"), "s"),
        (caller.command("s", c.DeleteAttachment("a1")), "s"),
        (alone(delete((SESSION, "s"), "d1")), "s"),
        (alone(delete(ANN, "d1")), ""),
        (caller.append_with("s", delete((SESSION, "s"), "d2")), "s"),
        (caller.append_with("s", delete(ANN, "d2")), ""),
        (caller.delete("s"), "s"),
    ]


async def test_what_would_remove_something_is_refused_until_the_last_hold_is_lifted(
    backend: Backend, caller: Caller
) -> None:
    store = backend.store
    await fill(backend, caller)
    first, second = await place(backend, user_id="ann"), await place(backend, user_id="ann")
    assert (first.user_id, first.reason, first.place_actor) == ("ann", "case 7", "counsel")
    await lift(backend, first)

    async def is_refused(row: tuple[c.Command, str]) -> None:
        refusal = await refused(store, row[0], UnderLegalHold)
        assert refusal.metadata == ({"session_id": "s"} if row[1] else {"user_id": "ann"})

    for row in removals(caller):
        await is_refused(row)
    # What only adds, or replaces, goes on.
    await accepted(store, caller.append("s"), alone(put(ANN, "d1", '"new"')), caller.update("s", name="x"))
    await lift(backend, second)
    for command, _ in removals(caller):
        await accepted(store, command)


async def test_a_hold_on_a_session_keeps_that_session_and_nothing_else(backend: Backend, caller: Caller) -> None:
    await fill(backend, caller)
    await accepted(backend.store, caller.create("other", user_id="ann"))
    hold = await place(backend, session_id="s")
    for command, of in removals(caller):
        if of:
            await refused(backend.store, command, UnderLegalHold)
        else:
            await accepted(backend.store, command)
    await accepted(backend.store, caller.delete("other"))
    await lift(backend, hold)
    await accepted(backend.store, caller.delete("s"))


async def test_sessions_that_the_batch_itself_creates_are_held_too(backend: Backend, caller: Caller) -> None:
    await place(backend, user_id="ann")
    made, gone = (await backend.store.apply([caller.create("n", user_id="ann"), caller.delete("n")])).results
    assert isinstance(made, c.SessionWritten)
    assert isinstance(gone, UnderLegalHold)
    await accepted(backend.store, caller.create("b", user_id="bob"), caller.delete("b"))


async def test_a_redaction_is_refused_where_a_held_session_shows_the_message(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("parent", user_id="ann"))
    await accepted(store, caller.append_ids("parent", "m1", "m2"))
    await accepted(store, caller.fork("parent", "fork", message_id="m1"))
    of_fork = await place(backend, session_id="fork")
    await refused(store, caller.redact("parent", "m1"), UnderLegalHold)
    await accepted(store, caller.redact("parent", "m2"))  # the fork does not show it
    # What the fork shows of its parent stays when that is deleted.
    await lift(backend, of_fork)
    of_parent = await place(backend, session_id="parent")
    await refused(store, caller.redact("fork", "m1"), UnderLegalHold)
    await lift(backend, of_parent)
    await accepted(store, caller.redact("fork", "m1"))


async def test_a_retry_of_what_was_done_before_the_hold_gets_its_first_outcome(
    backend: Backend, caller: Caller
) -> None:
    await fill(backend, caller)
    command = caller.redact("s", "m1", request_id="r1")
    (first,) = await accepted(backend.store, command)
    await place(backend, session_id="s")
    assert await accepted(backend.store, command) == [first]


async def test_an_erasure_leaves_what_is_held_and_waits_for_it(backend: Backend, caller: Caller) -> None:
    erasures, writer = backend.erasures, DirectWriter(backend.store)
    await fill(backend, caller)
    await accepted(backend.store, caller.create("free", user_id="ann"))
    session, user = await place(backend, session_id="s"), await place(backend, user_id="ann")
    with pytest.raises(UnderLegalHold) as refusal:
        await erasures.begin_erasure(EVERYONE, "ann", "r1")
    assert refusal.value.metadata == {"user_id": "ann"}
    await lift(backend, user)
    begun = await erasures.begin_erasure(EVERYONE, "ann", "r1")
    assert (begun.state, begun.held) == (ErasureState.ERASURE_STATE_RUNNING, True)
    # A hold that comes now does not take back that it was asked for, but stops it.
    user = await place(backend, user_id="ann")
    assert (await erasures.begin_erasure(EVERYONE, "ann", "r2")).erasure_id == begun.erasure_id
    assert await erasing.erase_one(erasures, writer)
    assert await present(backend) == [True, True]
    assert await read(backend.documents, ANN, "d1") is not None
    await lift(backend, user)
    assert await erasures.claim_erasure(60) is None  # it waits for a minute, and is not tried in a loop
    await backend.advance(61)
    assert await erasing.erase_one(erasures, writer)
    assert await present(backend) == [True, False]
    assert await read(backend.documents, ANN, "d1") is None
    waiting = await erasures.get_erasure(EVERYONE, "ann")
    assert (waiting.state, waiting.held, waiting.session_count) == (ErasureState.ERASURE_STATE_RUNNING, True, 1)
    await lift(backend, session)
    await backend.advance(61)
    assert await erasing.erase_one(erasures, writer)
    ended = await erasures.get_erasure(EVERYONE, "ann")
    assert (ended.state, ended.held, ended.session_count) == (ErasureState.ERASURE_STATE_DONE, False, 2)


async def present(backend: Backend) -> list[bool]:
    found = await backend.store.get_sessions(EVERYONE, ["s", "free"], content=False)
    return [each is not None for each in found]


async def test_expired_documents_keep_their_content_under_a_hold(backend: Backend, caller: Caller) -> None:
    connection = await asyncpg.connect(backend.dsn) if backend.dsn else None
    await accepted(backend.store, caller.create("s", user_id="bob"))
    owners = (ANN, (SESSION, "s"))
    for owner in owners:
        await written(backend.store, put(owner, "d", '"zebrafish"', ttl=10))
    holds = [await place(backend, user_id="ann"), await place(backend, session_id="s")]
    await backend.advance(11)
    assert await read(backend.documents, ANN, "d") is None
    assert await backend.store.purge(100) == 0
    if connection is not None:
        assert await connection.fetchval("select count(*) from documents where delete_time is null") == 2
        await connection.close()
    for hold in holds:
        await lift(backend, hold)
    assert await backend.store.purge(100) == 2


async def test_holds_stay_as_records(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    first = await place(backend, session_id="s", request_id="r1")
    second = await place(backend, user_id="ann")
    assert await place(backend, session_id="s", request_id="r1") == first
    with pytest.raises(RequestIdReused):
        await place(backend, user_id="ann", request_id="r1")
    lifted = await lift(backend, first)
    assert (lifted.lift_actor, lifted.lift_reason) == ("judge", "closed")
    assert lifted.lift_time.ToNanoseconds() >= lifted.create_time.ToNanoseconds() > 0
    again = await backend.retention.lift_hold(EVERYONE, first.hold_id, "other", "again")
    assert again == lifted
    assert await place(backend, session_id="s", request_id="r1") == lifted
    await accepted(backend.store, caller.delete("s"))
    for scope, hold_id in ((EVERYONE, "none"), (c.Scope("another"), second.hold_id)):
        with pytest.raises(HoldNotFound):
            await backend.retention.lift_hold(scope, hold_id, "x", "")
    with pytest.raises(SessionNotFound):
        await place(backend, session_id="s")

    async def listed(
        session_id: str, user_id: str, lifted: bool, after: tuple[int, str] | None = None, limit: int = 9
    ) -> list[str]:
        page = await backend.retention.list_holds(
            EVERYONE, session_id=session_id, user_id=user_id, lifted=lifted, after=after, limit=limit
        )
        return [hold.hold_id for hold in page.holds] + ([f"next {page.next_key[1]}"] if page.next_key else [])

    a, b = first.hold_id, second.hold_id
    rows: tuple[tuple[tuple[Any, ...], list[str]], ...] = (
        (("", "", False), [b]),
        (("", "", True), [b, a]),
        (("s", "", True), [a]),
        (("s", "", False), []),
        (("", "ann", True), [b]),
        (("", "bob", True), []),
        (("", "", True, None, 1), [b, f"next {b}"]),
        (("", "", True, (second.create_time.ToMicroseconds(), b), 1), [a]),
    )
    for asked, wanted in rows:
        assert await listed(*asked) == wanted, asked


async def test_a_hold_waits_for_removals_that_have_begun(backend: Backend, caller: Caller) -> None:
    """Whichever comes first: where the hold was placed, the session is there."""
    names = [f"s{number}" for number in range(12)]
    await accepted(backend.store, *(caller.create(name, user_id="ann") for name in names))

    async def hold(name: str) -> str:
        try:
            await place(backend, session_id=name)
        except SessionNotFound:
            return ""
        return name

    work = [backend.other.apply([caller.delete(name)]) for name in names]
    removing = asyncio.gather(*work)
    placed = await asyncio.gather(*map(hold, names))
    await removing
    there = await backend.store.get_sessions(EVERYONE, names, content=False)
    assert [bool(name) for name in placed] == [each is not None for each in there]
