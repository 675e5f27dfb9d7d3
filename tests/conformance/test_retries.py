"""Idempotency (G4): a retried request has one effect and gets its first outcome."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

from sessiond_server.domain import commands as c
from sessiond_server.errors import (
    MessageAlreadyExists,
    RequestIdReused,
    SessionAlreadyExists,
    SessionNotActive,
    SessionNotFound,
)
from sessiond_server.store.contract import Store
from tests.support.caller import CREATED, OTHER_PRINT, Caller, accepted, message, one, refused, struct, whole_log
from tests.support.rows import table
from tests.support.run_actions import ENQUEUE, INTERRUPT, begin, complete, decide, finish, request
from tests.support.store_backend import Open

EVERY_KIND = ["create", "update", "content", "suspend", "end", "touch", "append", "redact", "delete"]
EVERY_KIND += ["begin", "interrupt", "finish", "cancel run", "request", "approve", "start", "complete", "late"]
EVERY_KIND.insert(0, "update and append")
EVERY_KIND.insert(0, "pop")
EVERY_KIND.insert(0, "delete messages")


def _commands(caller: Caller) -> dict[str, c.Command]:
    usage = message("counted", "counted")
    usage.usage.input_tokens = 200
    return {
        "create": caller.create("s", "r", state=struct(a=1), summary="sum"),
        "update": caller.update("s", "r", name="renamed"),
        "content": caller.update("s", "r", merge=True, state=struct(b=2)),
        "suspend": caller.suspend("s", "r"),
        "end": caller.end("s", "r"),
        "touch": caller.touch("s", 10**13, "r"),
        "append": caller.command("s", c.AppendMessages([message("one"), usage]), "r"),
        "update and append": caller.update_and_append("s", "one", "two", request_id="r", state=struct(b=2)),
        "redact": caller.redact("s", "m", "privacy", "r"),
        "pop": caller.pop("s", 1, "r"),
        "delete messages": caller.delete_messages("s", "m", request_id="r"),
        "delete": caller.delete("s", "r"),
        "begin": caller.command("s", begin("r2", ENQUEUE), "r"),
        "interrupt": caller.command("s", begin("r2", INTERRUPT), "r"),
        "finish": caller.command("s", finish(5), "r", fence=c.Fence("r1", 3)),
        "cancel run": caller.command("s", c.CancelRun("r1"), "r"),
        "request": caller.command("s", request("t2", text="arguments"), "r"),
        "approve": caller.command("s", decide("asked", reason="why"), "r"),
        "start": caller.command("s", c.StartToolCall("asked"), "r"),
        "complete": caller.command("s", complete("running", "result"), "r"),
        "late": caller.command("s", complete("over", "late"), "r"),
    }


async def _prepare(store: Store, caller: Caller, kind: str) -> c.Command:
    command = _commands(caller)[kind]
    if kind != "create":
        said = message("to be redacted", "m")
        said.usage.output_tokens = 300
        await accepted(
            store,
            caller.create("s", state=struct(a=1)),
            caller.command("s", c.AppendMessages([said])),
        )
    if kind in EVERY_KIND[EVERY_KIND.index("begin") :]:
        fence = c.Fence("r1", 3)
        await accepted(
            store,
            caller.command("s", begin("r1")),
            *(caller.command("s", request(t, text=t), fence=fence) for t in ("asked", "running", "over")),
            *(caller.command("s", c.StartToolCall(t)) for t in ("running", "over")),
            caller.command("s", c.CancelToolCall("over")),
            caller.command("s", begin("waits", ENQUEUE)),
        )
    return command


async def _each_kind(store: Store, *left_out: str) -> AsyncIterator[tuple[str, Caller, c.Command]]:
    """Every kind of command in a tenant of its own, where all that it needs is done."""
    for kind in EVERY_KIND:
        if kind not in left_out:
            caller = Caller(c.Scope(kind))
            yield kind, caller, await _prepare(store, caller, kind)


async def test_a_retry_gets_an_equal_outcome_and_has_no_effect(store: Store) -> None:
    with table() as rows:
        async for kind, caller, command in _each_kind(store):
            with rows.row(kind):
                first = await accepted(store, command)
                log = [] if kind == "delete" else await whole_log(store, caller.scope, "s")
                assert await accepted(store, command) == first
                assert await accepted(store, command, command) == [*first, *first]
                if kind != "delete":
                    assert await whole_log(store, caller.scope, "s") == log


async def test_a_retry_within_one_batch(store: Store) -> None:
    with table() as rows:
        async for kind, _, command in _each_kind(store):
            with rows.row(kind):
                first, second = await accepted(store, command, command)
                assert first == second
                assert await accepted(store, command) == [first]


async def test_a_retry_after_further_changes_gets_the_first_outcome(store: Store) -> None:
    with table() as rows:
        async for kind, caller, command in _each_kind(store, "delete", "end"):
            with rows.row(kind):
                first = await accepted(store, command)
                await accepted(store, caller.update("s", name="later", state=struct(later=True), summary="later"))
                await accepted(store, caller.end("s"))
                assert await accepted(store, command) == first


async def test_the_same_id_for_another_request_is_refused(store: Store) -> None:
    with table() as rows:
        async for kind, caller, command in _each_kind(store):
            with rows.row(kind):
                await accepted(store, command)
                other = replace(command, fingerprint=OTHER_PRINT)
                error = await refused(store, other, RequestIdReused)
                assert error.metadata["request_id"] == "r"
                fresh = caller.create("t", "q")
                again = c.Command(fresh.scope, "t", fresh.action, "test", "q", OTHER_PRINT)
                results = (await store.apply([fresh, again])).results
                assert [type(result) for result in results] == [c.SessionWritten, RequestIdReused]


async def test_a_retry_of_a_redaction_and_of_what_it_redacted(store: Store, caller: Caller) -> None:
    append, redact = caller.append_ids("s", "m", request_id="a"), caller.redact("s", "m", "why", "b")
    await accepted(store, caller.create("s"))
    first = await accepted(store, append, redact)
    await accepted(store, caller.redact("s", "m", "another reason"))
    assert await accepted(store, append, redact) == first


async def test_a_retry_and_a_deletion_in_one_batch(store: Store, caller: Caller) -> None:
    """The same batch removes the events from which the first outcome is rebuilt."""
    append = caller.append("s", request_id="a")
    create = caller.create("s", "c", state=struct(a=1))
    first = await accepted(store, create, append)
    results = await accepted(store, create, append, caller.delete("s", "d"))
    assert results[:2] == first
    await refused(store, append, SessionNotFound)
    await refused(store, create, SessionAlreadyExists)


async def test_a_refusal_is_not_remembered(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", status=CREATED))
    append = caller.append("s", request_id="r")
    await refused(store, append, SessionNotActive)
    await accepted(store, caller.command("s", c.ActivateSession()))
    assert (await one(store, append, c.MessagesAppended)).version == 3


async def test_request_ids_belong_to_their_session(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("a", "r"), caller.create("b", "r"), Caller(c.Scope("two")).create("a", "r"))
    assert (await one(store, caller.append("a", request_id="q"), c.MessagesAppended)).version == 2
    assert (await one(store, caller.append("b", request_id="q"), c.MessagesAppended)).version == 2


async def test_an_expected_version_does_not_refuse_the_retry(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"))
    command = caller.append("s", request_id="r", expected_version=1)
    first = await accepted(store, command)
    assert await accepted(store, command) == first


async def test_chosen_message_ids_do_not_refuse_the_retry(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"))
    command = caller.append_ids("s", "m1", "m2", request_id="r")
    first = await accepted(store, command)
    assert await accepted(store, command) == first
    await refused(store, caller.append_ids("s", "m1"), MessageAlreadyExists)


async def test_records_end_with_their_retention(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(request_retention=timedelta(hours=1))
    store = backend.store
    await accepted(store, caller.create("s", "c"), caller.append("s", request_id="old"))
    await backend.advance(3500)
    young = caller.append("s", request_id="young")
    first = await accepted(store, young)
    assert await store.purge(10) == 0
    await backend.advance(200)
    assert await store.purge(1) == 1
    assert await store.purge(10) == 1
    assert await store.purge(10) == 0
    assert await accepted(store, young) == first
    again = await one(store, caller.append("s", request_id="old"), c.MessagesAppended)
    assert again.version == 4
