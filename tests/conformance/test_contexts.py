"""Contexts from a store: what whole logs give, whatever the store and its cache, read with bounded effort."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from sessiond.v1.context_service_pb2 import Context
from sessiond.v1.message_pb2 import Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.session_pb2 import SessionConfig
from sessiond.v1.summary_pb2 import Summary
from sessiond_server.domain import commands as c
from sessiond_server.domain.context import ended_calls, plan
from sessiond_server.domain.context.conversation import LEFT_OUT, NO_RESULT, Shape, said, units
from sessiond_server.errors import ContextBudgetTooSmall, InvalidFields, SessionNotFound
from sessiond_server.rpc.context import history
from sessiond_server.rpc.context.history import History, Wanted
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import CACHED, PAGE_BYTES, Freshness, MessagesPage
from tests.support.caller import Caller, accepted, struct
from tests.support.run_actions import decide, fail, request
from tests.support.store_backend import Backend

USER, ASSISTANT, TOOL, SYSTEM = Role.ROLE_USER, Role.ROLE_ASSISTANT, Role.ROLE_TOOL, Role.ROLE_SYSTEM


def message(role: Role.ValueType, *parts: Part | str, **fields: Any) -> Message:
    return Message(role=role, parts=[Part(text=part) if isinstance(part, str) else part for part in parts], **fields)


def call(call_id: str) -> Part:
    return Part(tool_call=ToolCallPart(tool_call_id=call_id, name="search", arguments_json="{}"))


def result(call_id: str, text: str = "found") -> Part:
    return Part(tool_result=ToolResultPart(tool_call_id=call_id, text=text))


def conversation(length: int, seed: int = 1) -> list[Message]:
    """Turns of a user and an agent that calls tools, some of which give no result, and words of the system."""
    chance = random.Random(seed)
    made: list[Message] = []
    while len(made) < length:
        made.append(message(USER, f"{len(made)} " + "u" * chance.randrange(200)))
        for _ in range(chance.randrange(4)):
            made.append(message(ASSISTANT, call(f"c{len(made)}")))
            if chance.random() < 0.9:
                made.append(message(TOOL, result(f"c{len(made) - 1}", "r" * chance.randrange(400))))
        if chance.random() < 0.1:
            made.append(message(SYSTEM, "Be brief."))
        made.append(message(ASSISTANT, "a" * chance.randrange(1, 200)))
    return made[:length]


def summary(caller: Caller, through_seq: int, text: str, **fields: Any) -> c.Command:
    return caller.command("s", c.CreateSummary(Summary(through_seq=through_seq, text=text, **fields)))


async def filled(store: Store, caller: Caller, messages: Sequence[Message], **fields: Any) -> None:
    await accepted(store, caller.create("s", **fields))
    for start in range(0, len(messages), 256):
        await accepted(store, caller.command("s", c.AppendMessages(messages[start : start + 256])))


async def context(
    backend: Backend,
    scope: c.Scope,
    *,
    store: Store | None = None,
    max_tokens: int = 0,
    max_messages: int = 1000,
    system_prompt: bool = True,
    shape: Shape | None = None,
    freshness: Freshness = CACHED,
    as_of_seq: int = 0,
) -> Context:
    wanted = Wanted(max_tokens, max_messages, system_prompt, shape or Shape(), as_of_seq)
    store = store or backend.store
    return await History(store, store, store, backend.work).context(scope, "s", wanted, freshness)


def texts(made: Context) -> list[str]:
    return [
        part.text or part.tool_result.text or f"call {part.tool_call.tool_call_id}"
        for each in made.messages
        for part in each.parts
    ]


class Counting:
    """A store that counts the messages that are read from it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.messages = 0
        self.pages = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def list_messages(self, *args: Any, **options: Any) -> MessagesPage:
        return self._counted(await self._store.list_messages(*args, **options))

    async def find_messages(self, *args: Any, **options: Any) -> MessagesPage:
        return self._counted(await self._store.find_messages(*args, **options))

    def _counted(self, page: MessagesPage) -> MessagesPage:
        self.messages += len(page.messages)
        self.pages += 1
        return page


async def test_context_is_what_the_whole_log_gives(backend: Backend, caller: Caller) -> None:
    """However much of it was read, from wherever; and the same on each replica."""
    messages = conversation(700)
    await filled(backend.store, caller, messages)
    page = await backend.store.list_messages(caller.scope, "s", after_seq=0, before_seq=0, descending=False, limit=1000)
    assert len(page.messages) == 700
    whole = units(said(Message.FromString(body), Shape()) for body in page.messages)
    for tokens, most in [(300, 1000), (2000, 1000), (9000, 1000), (2**40, 7), (2**40, 90), (2**40, 333), (2**40, 1000)]:
        chosen = plan.choose(whole, plan.Budget(tokens, most, PAGE_BYTES), None, complete=True)
        assert isinstance(chosen, plan.Chosen)
        taken = [*([chosen.first] if chosen.first else ()), *chosen.units]
        for store in (backend.store, backend.other):
            for freshness in (CACHED, Freshness(strong=True)):
                made = await context(
                    backend, caller.scope, store=store, max_tokens=tokens, max_messages=most, freshness=freshness
                )
                assert list(made.messages) == [each for unit in taken for each in unit.messages]
                assert made.token_count == made.estimated_token_count == sum(unit.tokens for unit in taken) <= tokens
                assert len(made.messages) <= most
                stored = {each.seq for each in made.messages if each.seq}
                assert made.omitted_message_count == 700 - len(stored)


async def test_long_session_is_read_no_further_than_the_budget_reaches(backend: Backend, caller: Caller) -> None:
    await filled(backend.store, caller, conversation(1500))
    for tokens, most in [(1000, 100), (20_000, 600)]:
        store = Counting(backend.store)
        made = await context(backend, caller.scope, store=cast(Store, store), max_tokens=tokens)
        assert len(made.messages) > 10
        assert store.messages <= most + history.LEADING


async def test_turn_longer_than_the_budget_keeps_its_users_message(backend: Backend, caller: Caller) -> None:
    rounds = [m for n in range(600) for m in (message(ASSISTANT, call(f"{n}")), message(TOOL, result(f"{n}")))]
    await filled(backend.store, caller, [message(USER, "old"), message(USER, "the task"), *rounds])
    made = await context(backend, caller.scope, max_tokens=500)
    assert texts(made)[0] == "the task"
    assert texts(made)[-2:] == ["call 599", "found"]
    assert made.token_count <= 500


async def test_users_message_that_is_too_far_back_is_stood_in_for(
    backend: Backend, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "FAR_PAGES", 1)
    await filled(backend.store, caller, [message(USER, "task"), *(message(ASSISTANT, f"{n}") for n in range(1100))])
    made = await context(backend, caller.scope, max_messages=5)
    assert texts(made) == [LEFT_OUT, *texts(made)[1:-1], "1099"]
    assert (made.messages[0].role, made.messages[0].seq, made.messages[0].message_id) == (USER, 0, "")
    assert 3 <= len(made.messages) <= 5
    monkeypatch.setattr(history, "FAR_PAGES", 3)
    assert texts(await context(backend, caller.scope, max_messages=5))[0] == "task"


async def test_what_is_looked_at_is_bounded(backend: Backend, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here redacted messages lie between the first and the last one."""
    hidden = [message(USER, "u", message_id=f"m{n}") for n in range(300)]
    await filled(backend.store, caller, [message(USER, "first"), *hidden, message(ASSISTANT, "last")])
    await accepted(backend.store, *(caller.redact("s", f"m{n}") for n in range(300)))
    assert texts(await context(backend, caller.scope)) == ["first", "last"]
    monkeypatch.setattr(history, "MOST_READ", 250)
    made = await context(backend, caller.scope)
    assert texts(made) == ["first", "last"], "the user's message before what is looked at begins it"
    assert made.omitted_message_count == 300
    monkeypatch.setattr(history, "MOST_READ", 4000)
    monkeypatch.setattr(history, "MOST_READ_BYTES", 1)
    assert texts(await context(backend, caller.scope)) == ["first", "last"]


async def test_few_contexts_at_a_time_are_read_beyond_the_first_page(
    backend: Backend, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "DEEP_READS", 4)
    await filled(backend.store, caller, conversation(250))

    class Watched(Counting):
        deep = most = 0

        async def list_messages(self, *args: Any, **options: Any) -> MessagesPage:
            if options["limit"] != history.PAGE:
                return await super().list_messages(*args, **options)
            self.deep += 1
            self.most = max(self.most, self.deep)
            try:
                await asyncio.sleep(0)
                return await super().list_messages(*args, **options)
            finally:
                self.deep -= 1

    store = Watched(backend.store)
    made = History(cast(Store, store), cast(Store, store), backend.store, backend.work)
    wanted = Wanted(0, 1000, True, Shape())
    contexts = await asyncio.gather(*(made.context(caller.scope, "s", wanted, CACHED) for _ in range(9)))
    assert {len(each.messages) for each in contexts} == {len(contexts[0].messages)}
    assert 1 <= store.most < 4, "one tenant does not take all places"
    cancelled = [asyncio.create_task(made.context(caller.scope, "s", wanted, CACHED)) for _ in range(9)]
    await asyncio.sleep(0)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
    assert await made.context(caller.scope, "s", wanted, CACHED) == contexts[0]


async def test_newest_summary_covers_what_it_says(backend: Backend, caller: Caller) -> None:
    said_of = [message(role, f"{n}") for n, role in enumerate([USER, ASSISTANT] * 100)]
    await filled(backend.store, caller, said_of, config=SessionConfig(system_prompt="Be brief."))
    for through, text in [(50, "old"), (190, "new")]:
        await accepted(backend.store, summary(caller, through, text))
    made = await context(backend, caller.scope)
    assert (made.system_prompt, made.summary.text) == ("Be brief.", "new")
    # seq n + 2 is message n: 190 is that of the user's message 188, which begins the turn of 189.
    assert texts(made) == [f"{n}" for n in range(188, 200)]
    assert made.omitted_message_count == 188
    await accepted(backend.store, summary(caller, 191, "newest", token_count=50))
    made = await context(backend, caller.scope, system_prompt=False)
    assert (made.system_prompt, made.token_count - made.estimated_token_count) == ("", 50)
    assert texts(made) == [f"{n}" for n in range(190, 200)]
    with pytest.raises(ContextBudgetTooSmall) as refused:
        await context(backend, caller.scope, max_tokens=50)
    assert refused.value.field == "max_tokens"


async def test_first_messages_of_the_system_stand_for_a_prompt(backend: Backend, caller: Caller) -> None:
    policy = [message(SYSTEM, f"rule {n}") for n in range(10)]
    await filled(backend.store, caller, [*policy, *conversation(300)])
    rules = [f"rule {n}" for n in range(8)]
    bounds: list[dict[str, Any]] = [{}, {"max_tokens": 700}, {"max_messages": 20}]
    for options in bounds:
        made = await context(backend, caller.scope, **options)
        assert texts(made)[:8] == rules
        assert made.messages[8].role == (SYSTEM if not options else USER)
        assert len(made.messages) <= options.get("max_messages", 1000)
        assert made.token_count <= options.get("max_tokens", 2**40)
        without = await context(backend, caller.scope, system_prompt=False, **options)
        assert not set(texts(without)) & set(rules)
    await accepted(backend.store, summary(caller, 311, "all"))
    assert texts(await context(backend, caller.scope)) == rules
    with pytest.raises(ContextBudgetTooSmall, match="max_messages"):
        await context(backend, caller.scope, max_messages=7)


async def test_redacted_and_deleted_messages_are_left_out(backend: Backend, caller: Caller) -> None:
    messages = [
        message(USER, "go", message_id="go"),
        message(ASSISTANT, call("a"), message_id="a"),
        message(TOOL, result("a"), message_id="ra", token_count=5),
        message(ASSISTANT, call("b"), message_id="b", token_count=9),
        message(TOOL, result("b"), message_id="rb"),
        message(ASSISTANT, "secret", message_id="said", token_count=3),
        message(ASSISTANT, "done", message_id="done"),
    ]
    await filled(backend.store, caller, messages)
    await accepted(backend.store, caller.redact("s", "ra"))
    assert texts(await context(backend, caller.scope))[:3] == ["go", "call a", NO_RESULT]
    await accepted(backend.store, caller.delete_messages("s", "b"))
    await accepted(backend.store, caller.redact("s", "said"))
    made = await context(backend, caller.scope)
    assert texts(made) == ["go", "call a", NO_RESULT, "done"]
    assert (made.completed_call_count, made.token_count - made.estimated_token_count) == (1, 0)
    assert (
        made.omitted_message_count == 3
    )  # the result of a, that of b, the redacted one; the deleted one does not count
    await accepted(backend.store, caller.redact("s", "go"))
    assert texts(await context(backend, caller.scope)) == []


async def asked(backend: Backend, caller: Caller) -> None:
    """A conversation with calls in two messages, and tool calls for all but one of them. One is rejected, one fails."""
    messages = [
        message(USER, "go"),
        message(ASSISTANT, call("no"), call("late"), message_id="first"),
        message(USER, "?"),
    ]
    await filled(backend.store, caller, [*messages, message(ASSISTANT, call("bad"), call("none"), message_id="second")])
    for call_id, ttl in [("no", 0), ("late", 60), ("bad", 0)]:
        wanted = request(call_id, approval=call_id != "bad", text="arguments", ttl=ttl)
        wanted.call.model_call_id = call_id
        wanted.call.message_id = "second" if call_id == "bad" else ""
        await accepted(backend.store, caller.command("s", wanted))
    reject = decide("no", approve=False, reason="too expensive")
    steps: list[c.Action] = [reject, c.StartToolCall("bad"), fail("bad", "E", "some of a result")]
    await accepted(backend.store, *(caller.command("s", step) for step in steps))


REJECTED = f"{ended_calls.REJECTED} Reason: too expensive"
FAILED = f"{ended_calls.FAILED} Reason: E"


async def test_rejected_and_failed_calls_have_results(backend: Backend, caller: Caller) -> None:
    """The call of which there is no message belongs to the second one, whose id it names."""
    await asked(backend, caller)
    expected = ["go", "call no", "call late", REJECTED, NO_RESULT, "?", "call bad", "call none", FAILED, NO_RESULT]
    for store in (backend.store, backend.other):
        assert texts(await context(backend, caller.scope, store=store)) == expected
    await backend.advance(61)
    assert texts(await context(backend, caller.scope)) == expected, "the clock alone changes nothing"
    await backend.other.expire_due(10)
    expected[4] = ended_calls.EXPIRED
    for freshness in (Freshness(12), Freshness(strong=True)):
        made = await context(backend, caller.scope, freshness=freshness)
        assert texts(made) == expected
        assert (made.version, made.completed_call_count) == (12, 4)
    await accepted(backend.store, caller.command("s", c.AppendMessages((message(TOOL, result("no", "after all")),))))
    expected[3:5] = ["after all", ended_calls.EXPIRED]
    assert texts(await context(backend, caller.scope, freshness=Freshness(strong=True))) == expected


async def test_call_that_ends_meanwhile_is_open_in_an_older_version(backend: Backend, caller: Caller) -> None:
    await asked(backend, caller)
    before = await context(backend, caller.scope)

    class Raced(Counting):
        async def list_messages(self, *args: Any, **options: Any) -> MessagesPage:
            if not self.pages:
                again = request("again", approval=True)
                again.call.model_call_id = "none"
                actions = decide("late", approve=False), again, decide("again", approve=False)
                await accepted(backend.store, *(caller.command("s", action) for action in actions))
            return await super().list_messages(*args, **options)

    assert await context(backend, caller.scope, store=cast(Store, Raced(backend.store))) == before
    made = await context(backend, caller.scope, freshness=Freshness(strong=True))
    assert [text for text in texts(made) if text == ended_calls.REJECTED] == [ended_calls.REJECTED] * 2


def writes_of_all_kinds(caller: Caller) -> Iterator[c.Command]:
    """Of all that a context is made of."""
    said_so_far = conversation(66, seed=5)
    for number in range(22):
        start = number * 3
        yield caller.command("s", c.AppendMessages(said_so_far[start : start + 3]))
        calls = {part.tool_call.tool_call_id for one in said_so_far[start : start + 3] for part in one.parts} - {""}
        for call_id in sorted(calls):
            wanted = request(f"{number}-{call_id}", approval=True)
            wanted.call.model_call_id = call_id
            yield caller.command("s", wanted)
            yield caller.command("s", decide(wanted.call.tool_call_id, approve=number % 3 == 0, reason=f"{number}"))
        if number % 7 == 3:
            prompt = SessionConfig(system_prompt=f"Be brief, {number}.")
            yield caller.update("s", config=prompt)
        if number % 9 == 4:
            yield caller.update("s", state=struct(large="x" * 3000, number=number))
        if number % 11 == 5:
            yield summary(caller, start, f"of {start}")


async def test_context_as_of_a_version_is_what_was_answered_then(backend: Backend, caller: Caller) -> None:
    options: list[dict[str, Any]] = [{}, {"max_tokens": 400}, {"max_messages": 8, "system_prompt": False}]
    await accepted(backend.store, caller.create("s", config=SessionConfig(system_prompt="Be brief.")))
    answered = [[await context(backend, caller.scope, **each) for each in options]]
    for command in writes_of_all_kinds(caller):
        await accepted(backend.store, command)
        answered.append([await context(backend, caller.scope, **each) for each in options])
    versions = [contexts[0].version for contexts in answered]
    assert versions == sorted(set(versions))
    assert len({contexts[0].summary.text for contexts in answered}) > 2
    assert len({contexts[0].system_prompt for contexts in answered}) > 3
    for number, contexts in enumerate(answered):
        store = (backend.store, backend.other)[number % 2]
        for each, then in zip(options, contexts, strict=True):
            then.omitted_message_count = 0
            assert await context(backend, caller.scope, store=store, as_of_seq=then.version, **each) == then


async def test_context_of_an_earlier_version_has_nothing_that_is_gone(backend: Backend, caller: Caller) -> None:
    messages = [message(USER, f"{n}", message_id=f"m{n}") for n in range(4)]
    await filled(backend.store, caller, messages)
    await accepted(backend.store, caller.append("s", "later"), caller.redact("s", "m1"))
    await accepted(backend.store, caller.delete_messages("s", "m2"))
    made = await context(backend, caller.scope, as_of_seq=5)
    assert (texts(made), made.version, made.omitted_message_count) == (["0", "3"], 5, 0)


async def test_place_that_the_session_does_not_have_is_refused(backend: Backend, caller: Caller) -> None:
    await filled(backend.store, caller, conversation(3))
    await accepted(backend.store, caller.delete("s"), caller.create("s", reuse=True), caller.append("s", "anew"))
    for place in (1, 5, 8, 2**40):
        with pytest.raises(InvalidFields, match="as_of_seq"):
            await context(backend, caller.scope, as_of_seq=place)
    assert texts(await context(backend, caller.scope, as_of_seq=6)) == []
    assert texts(await context(backend, caller.scope, as_of_seq=7)) == ["anew"]
    with pytest.raises(SessionNotFound):
        await context(backend, c.Scope("other"), as_of_seq=7)


async def test_messages_appended_meanwhile_are_not_in_an_older_version(backend: Backend, caller: Caller) -> None:
    await filled(backend.store, caller, conversation(30))
    before = await context(backend, caller.scope)

    class Raced(Counting):
        async def list_messages(self, *args: Any, **options: Any) -> MessagesPage:
            if not self.pages:
                await accepted(backend.store, *(caller.append("s", f"late {n}") for n in range(250)))
            return await super().list_messages(*args, **options)

    raced = await context(backend, caller.scope, store=cast(Store, Raced(backend.store)))
    assert raced == before
    assert (await context(backend, caller.scope)).version == before.version + 250


async def test_session_deleted_meanwhile_is_not_found(backend: Backend, caller: Caller) -> None:
    await filled(backend.store, caller, conversation(5))
    await accepted(backend.store, summary(caller, 1, "x"))

    class Raced(Counting):
        async def list_summaries(self, *args: Any, **options: Any) -> Any:
            await accepted(backend.store, caller.delete("s"), caller.create("s", reuse=True))
            return await backend.store.list_summaries(*args, **options)

    with pytest.raises(SessionNotFound):
        await context(backend, caller.scope, store=cast(Store, Raced(backend.store)))


async def test_sessions_of_others_are_not_found(backend: Backend, caller: Caller) -> None:
    await filled(backend.store, caller, conversation(5), user_id="ann")
    for scope in (c.Scope("other"), c.Scope(caller.scope.tenant_id, "bob")):
        with pytest.raises(SessionNotFound):
            await context(backend, scope)
    assert (await context(backend, c.Scope(caller.scope.tenant_id, "ann"))).messages
