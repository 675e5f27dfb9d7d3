"""Contexts: what providers accept whatever the log holds, what fits, and a beginning that stays.

The conversations are real ones cut off at every message, and random ones with all that goes wrong.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.formats import anthropic, chat
from sessiond.v1.message_pb2 import Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.run_pb2 import Failure
from sessiond.v1.tool_call_pb2 import ToolApproval, ToolCall, ToolCallStatus
from sessiond_server.domain.context import conversation as conversations
from sessiond_server.domain.context import ended_calls, plan, tokens
from sessiond_server.domain.context.conversation import CUT, NO_RESULT, Shape, Unit
from sessiond_server.domain.context.plan import Budget, Chosen, TooSmall
from tests.support.chat_rules import anthropic_fault, chat_fault, gemini_fault

CONVERSATIONS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "examples/demo/conversations.jsonl").read_text("utf-8").splitlines()
]
USER, ASSISTANT, TOOL, SYSTEM = Role.ROLE_USER, Role.ROLE_ASSISTANT, Role.ROLE_TOOL, Role.ROLE_SYSTEM
PLAIN = Shape()
ENDLESS = Budget(2**62, 2**62, 2**62)


def said(role: Role.ValueType, *parts: Part | str) -> Message:
    return Message(role=role, parts=[Part(text=part) if isinstance(part, str) else part for part in parts])


def call(call_id: str) -> Part:
    return Part(tool_call=ToolCallPart(tool_call_id=call_id, name="search", arguments_json="{}"))


def result(call_id: str, text: str = "found") -> Part:
    return Part(tool_result=ToolResultPart(tool_call_id=call_id, text=text))


def units(messages: Sequence[Message], shape: Shape) -> list[Unit]:
    return conversations.units(conversations.said(message, shape) for message in messages)


def log(*messages: Message) -> list[Message]:
    """The messages at the places that they have in a log: others of its events lie in between."""
    for place, message in enumerate(messages):
        message.seq, message.message_id = 2 + 3 * place, f"m{place}"
    return list(messages)


def sent(chosen: Chosen | TooSmall) -> list[Message]:
    assert isinstance(chosen, Chosen), chosen
    first = [chosen.first] if chosen.first is not None else []
    return [message for unit in (*first, *chosen.units) for message in unit.messages]


def context(
    messages: Sequence[Message], budget: Budget = ENDLESS, shape: Shape = PLAIN, turn: Unit | None = None
) -> list[Message]:
    return sent(plan.choose(units(messages, shape), budget, turn, complete=True))


def check(messages: Sequence[Message]) -> None:
    """Fails unless all three providers take them."""
    copies = [Message.FromString(message.SerializeToString()) for message in messages]
    assert not chat_fault(chat.to_items(copies))
    assert not anthropic_fault(anthropic.to_items(copies))
    assert not gemini_fault(copies)


def texts(messages: Sequence[Message]) -> list[str]:
    return [
        part.text or part.tool_result.text or f"call {part.tool_call.tool_call_id}"
        for m in messages
        for part in m.parts
    ]


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda one: str(one["id"]))
def test_real_conversation_cut_off_at_any_message_is_accepted(conversation: dict[str, Any]) -> None:
    whole = log(*chat.from_items(conversation["messages"]))
    for end in range(1, len(whole) + 1):
        for begin in range(end):
            part = whole[begin:end]
            check(context(part))
            for budget in (30, 100, 300, 1000):
                made = plan.choose(units(part, Shape()), Budget(budget, 9, 2**20), None, complete=True)
                if isinstance(made, Chosen):
                    check(sent(made))
                    assert sum(unit.tokens for unit in (*made.units, *([made.first] if made.first else ()))) <= budget


PARTS = st.one_of(
    st.sampled_from(["", " ", "a", "some text"]).map(lambda text: Part(text=text)),
    st.sampled_from("abc").map(call),
    st.sampled_from("abc").map(result),
    st.just(Part(thinking="hm")),
)
MESSAGES = st.builds(
    lambda role, parts: Message(role=role, parts=parts),
    st.sampled_from([USER, USER, ASSISTANT, ASSISTANT, TOOL, SYSTEM]),
    st.lists(PARTS, max_size=4),
).filter(lambda m: m.role == ASSISTANT or not any(part.HasField("tool_call") for part in m.parts))


@settings(max_examples=300, deadline=None)
@given(
    messages=st.lists(MESSAGES, max_size=14),
    budget=st.integers(1, 120),
    most=st.integers(1, 10),
    complete=st.booleans(),
)
def test_any_log_gives_a_context_that_is_accepted(
    messages: list[Message], budget: int, most: int, complete: bool
) -> None:
    check(context(log(*messages)))
    made = units(messages, Shape())
    turn = None if complete else units(log(said(USER, "before")), Shape())[0]
    chosen = plan.choose(made, Budget(budget, most, 2**20), turn, complete=complete)
    if isinstance(chosen, TooSmall):
        return
    check(sent(chosen))
    taken = [*([chosen.first] if chosen.first else []), *chosen.units]
    assert sum(unit.tokens for unit in taken) <= budget
    assert len(sent(chosen)) <= most
    assert list(chosen.units) == made[len(made) - len(chosen.units) :], "the newest ones, none left out"


class TestRepairs:
    def test_calls_without_results_are_completed(self) -> None:
        messages = log(said(USER, "go"), said(ASSISTANT, call("a"), call("b")), said(TOOL, result("b", "B")))
        (_, unit) = units(messages, Shape())
        assert unit.completed == 1
        assert texts(unit.messages) == ["call a", "call b", "B", NO_RESULT]
        completion = unit.messages[-1]
        assert (completion.role, completion.parts[0].tool_result.is_error, completion.seq) == (TOOL, True, 0)

    def test_results_without_calls_are_left_out(self) -> None:
        messages = log(said(USER, "go"), said(TOOL, result("x")), said(USER, result("y"), "text"))
        assert texts(context(messages)) == ["go", "text"]

    def test_late_result_is_put_behind_its_call(self) -> None:
        """As that of a call that waited for an approval while the conversation went on."""
        asked = (said(USER, "book"), said(ASSISTANT, call("a")), said(USER, "and?"), said(ASSISTANT, "wait"))
        messages = log(*asked, said(TOOL, result("a")))
        assert texts(context(messages)) == ["book", "call a", "found", "and?", "wait"]

    def test_of_calls_with_one_id_the_latest_gets_the_result(self) -> None:
        messages = log(
            said(USER, "go"), said(ASSISTANT, call("a")), said(ASSISTANT, call("a")), said(TOOL, result("a"))
        )
        assert texts(context(messages)) == ["go", "call a", NO_RESULT, "call a", "found"]

    def test_result_in_a_users_message_becomes_that_of_a_tool(self) -> None:
        messages = log(said(USER, "go"), said(ASSISTANT, call("a")), said(USER, result("a"), "and more"))
        made = context(messages)
        assert [m.role for m in made] == [USER, ASSISTANT, TOOL, USER]
        assert texts(made) == ["go", "call a", "found", "and more"]

    def test_messages_that_need_no_change_are_the_stored_ones(self) -> None:
        messages = log(said(USER, "go"), said(ASSISTANT, call("a")), said(TOOL, result("a")), said(ASSISTANT, "done"))
        assert [id(m) for m in context(messages)] == [id(m) for m in messages]

    def test_thinking_is_left_out_unless_it_is_asked_for(self) -> None:
        messages = log(
            said(USER, "go"), said(ASSISTANT, Part(thinking="hm"), "yes"), said(ASSISTANT, Part(thinking="hm"))
        )
        assert texts(context(messages)) == ["go", "yes"]
        assert context(messages, shape=Shape(thinking=True))[1] is messages[1]

    def test_form_of_a_changed_message_goes(self) -> None:
        item = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
                                                 {"type": "text", "text": "yes"}]}  # fmt: skip
        messages = log(said(USER, "go"), *anthropic.from_items([item]))
        assert anthropic.to_items(context(messages))[1] == {"role": "assistant", "content": "yes"}
        assert anthropic.to_items(context(messages, shape=Shape(thinking=True)))[1] == item

    def test_only_thinking_and_no_user_give_no_messages(self) -> None:
        assert context(log(said(ASSISTANT, Part(thinking="hm")))) == []
        assert context(log(said(ASSISTANT, "hello"), said(ASSISTANT, call("a")))) == []
        assert context([]) == []

    @pytest.mark.parametrize("most", [1, 8, 40, 200])
    def test_long_results_keep_their_beginning_and_end(self, most: int) -> None:
        text = "begins " + "in the middle " * 400 + "ends"
        messages = log(said(USER, "go"), said(ASSISTANT, call("a")), said(TOOL, result("a", text)))
        shown = context(messages, shape=Shape(result_tokens=most))[2].parts[0].tool_result.text
        assert CUT in shown
        assert tokens.of_text(shown.replace(CUT, "")) <= most
        if most > 8:
            assert (shown[:7], shown[-4:]) == ("begins ", "ends")
        assert context(messages, shape=Shape(result_tokens=5000))[2] is messages[2]

    def test_ten_thousand_calls_without_results(self) -> None:
        rounds = (said(ASSISTANT, *(call(f"{n % 7}") for n in range(250))) for _ in range(40))
        messages = log(said(USER, "go"), *rounds)
        check(made := context(messages))
        assert sum(part.tool_result.is_error for m in made for part in m.parts) == 10_000


def ended(status: str, seq: int, call_id: str = "a", **fields: Any) -> ToolCall:
    """A tool call that was requested at `seq`, and ended with the next event."""
    value = ToolCallStatus.Value(f"TOOL_CALL_STATUS_{status}")
    return ToolCall(seq=seq, model_call_id=call_id, status=value, **({"version": seq + 1} | fields))


def rejected(seq: int, reason: str = "", call_id: str = "a", actor: str = "ada", **fields: Any) -> ToolCall:
    return ended("REJECTED", seq, call_id, approval=ToolApproval(actor=actor, reason=reason), **fields)


def failed(seq: int, code: str = "E", message: str = "", call_id: str = "a", **fields: Any) -> ToolCall:
    error = Failure(code=code, message=message)
    return ended("FAILED", seq, call_id, error=error, **({"start_time": Timestamp(seconds=1)} | fields))


class TestEndedCalls:
    """What the session's tool calls say of calls for which no message has a result."""

    TWICE = (said(USER, "go"), said(ASSISTANT, call("a")), said(USER, "and?"), said(ASSISTANT, call("a"), call("b")))
    """At seq 2, 5, 8 and 11, as m0 to m3."""

    def told(self, *calls: ToolCall, version: int = 99, shape: Shape = PLAIN, extra: Sequence[Message] = ()) -> Any:
        """Results by the seq of the message and the id of the call, with only the calls in the ranges given."""
        conversation = [conversations.said(one, shape) for one in log(*self.TWICE, *extra)]
        made = conversations.units(conversation)
        ranges = ended_calls.ranges(made, version)
        seen = [one for one in calls if any(after < one.seq <= until for after, until in ranges)]
        known = ended_calls.results(conversation, made, seen, version, shape)
        check(sent(plan.choose(made := conversations.units(conversation, known), ENDLESS, None, complete=True)))
        results = {
            (unit.seq, part.tool_result.tool_call_id): part.tool_result
            for unit in made
            for message in unit.messages
            for part in message.parts
            if part.HasField("tool_result")
        }
        assert all(each.is_error for each in results.values())
        return {key: each.text for key, each in results.items() if each.text != NO_RESULT}

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            (rejected(6), ended_calls.REJECTED),
            (rejected(6, "too expensive"), f"{ended_calls.REJECTED} Reason: too expensive"),
            (rejected(6, "expired", actor="sessiond"), ended_calls.EXPIRED),
            (failed(6), f"{ended_calls.FAILED} Reason: E"),
            (failed(6, "E", "no seat"), f"{ended_calls.FAILED} Reason: E: no seat"),
            (failed(6, "APPROVAL_EXPIRED", "x", start_time=None), ended_calls.EXPIRED),
        ],
    )
    def test_rejected_and_failed_calls_say_why(self, call: ToolCall, text: str) -> None:
        assert self.told(call) == {(5, "a"): text}

    @pytest.mark.parametrize("status", ["PENDING", "APPROVED", "RUNNING", "COMPLETED", "CANCELLED"])
    def test_other_calls_say_nothing(self, status: str) -> None:
        assert self.told(ended(status, 6)) == {}

    def test_call_belongs_to_the_latest_message_before_it(self) -> None:
        assert self.told(rejected(4), rejected(6), rejected(9, "later"), rejected(10, call_id="b")) == {
            (5, "a"): f"{ended_calls.REJECTED} Reason: later"
        }
        assert self.told(rejected(13)) == {(11, "a"): ended_calls.REJECTED}
        assert self.told(rejected(12, call_id="b"), rejected(13, call_id="c")) == {(11, "b"): ended_calls.REJECTED}

    def test_call_belongs_to_the_message_that_it_names(self) -> None:
        assert self.told(rejected(13, message_id="m1")) == {(5, "a"): ended_calls.REJECTED}
        for other in ("m0", "none"):
            assert self.told(rejected(13, message_id=other)) == {}

    def test_own_id_of_the_tool_call_stands_for_one_that_the_model_gave(self) -> None:
        """As of clients that name their tool calls as the model does."""
        call = rejected(6, call_id="", tool_call_id="a")
        assert self.told(call) == {(5, "a"): ended_calls.REJECTED}
        assert self.told(rejected(6, call_id="z", tool_call_id="a")) == {}

    def test_last_attempt_counts(self) -> None:
        assert self.told(failed(6), ended("RUNNING", 7)) == {}
        assert self.told(failed(6), rejected(7)) == {(5, "a"): ended_calls.REJECTED}

    def test_what_ended_after_the_version_is_not_known(self) -> None:
        assert self.told(rejected(12), version=12) == {}
        assert self.told(rejected(12), version=13) == {(11, "a"): ended_calls.REJECTED}

    def test_result_in_a_message_wins(self) -> None:
        answer = said(TOOL, result("a"))
        conversation = [
            conversations.said(one, PLAIN) for one in log(said(USER, "go"), said(ASSISTANT, call("a")), answer)
        ]
        made = conversations.units(conversation)
        assert ended_calls.ranges(made, 9) == []
        assert ended_calls.results(conversation, made, [rejected(6)], 9, PLAIN) == {}

    @pytest.mark.parametrize("most", [1, 12, 13, 20, 60, 5000])
    def test_long_reason_is_shortened(self, most: int) -> None:
        reason = "begins " + "in the middle " * 400 + "ends"
        (text,) = self.told(rejected(6, reason), shape=Shape(result_tokens=most)).values()
        assert text.startswith(ended_calls.REJECTED)
        assert tokens.of_text(text.replace(CUT, "")) <= max(most, tokens.of_text(ended_calls.REJECTED))
        assert text.endswith("ends") is (most >= 20)
        assert (CUT in text) is (20 <= most < 5000)

    def test_no_sentence_is_shorter_than_the_one_that_it_replaces(self) -> None:
        """Else a context could depend on how much was read before the calls were asked for."""
        for text in (ended_calls.REJECTED, ended_calls.FAILED, ended_calls.EXPIRED):
            assert tokens.of_text(text) >= tokens.of_text(NO_RESULT)

    def test_ranges_are_of_the_newest_messages_only(self) -> None:
        rounds = [said(ASSISTANT, call("a")) for _ in range(ended_calls.MOST_MESSAGES + 1)]
        made = units(log(said(USER, "go"), *rounds), PLAIN)
        ranges = ended_calls.ranges(made, 2000)
        assert (ranges[0], ranges[-1], len(ranges)) == ((8, 11), (made[-1].seq, 2000), ended_calls.MOST_MESSAGES)


class TestBudget:
    def test_least_that_is_needed_is_named(self) -> None:
        messages = log(said(USER, "x" * 400), said(ASSISTANT, "y" * 400))
        made = units(messages, Shape())
        for budget in (1, sum(unit.tokens for unit in made) - 1):
            chosen = plan.choose(made, Budget(budget, 9, 2**20), None, complete=True)
            assert chosen == TooSmall(made[0].tokens + made[1].tokens, 2)
        assert plan.choose(made[:1], Budget(1, 9, 2**20), None, complete=True) == TooSmall(made[0].tokens, 1)
        assert (
            sent(plan.choose(made, Budget(made[0].tokens + made[1].tokens, 2, 2**20), None, complete=True)) == messages
        )

    def test_long_turn_keeps_its_users_message(self) -> None:
        rounds = [m for n in range(50) for m in (said(ASSISTANT, call(f"{n}")), said(TOOL, result(f"{n}", "x" * 80)))]
        messages = log(said(USER, "old"), said(ASSISTANT, "done"), said(USER, "the task"), *rounds)
        made = context(messages, Budget(400, 100, 2**20))
        check(made)
        assert texts(made)[0] == "the task"
        assert made[-1] is messages[-1]
        assert 8 < len(made) < 40

    def test_exact_counts_are_believed_while_the_message_is_whole(self) -> None:
        message = said(ASSISTANT, Part(thinking="hm" * 900), "yes")
        message.token_count = 777
        assert conversations.said(message, Shape(thinking=True)).tokens == 777
        (unit,) = units(log(message), Shape())
        assert unit.tokens == tokens.MESSAGE_TOKENS + tokens.of_text("yes")


@pytest.mark.parametrize("turns", ["user", "agent", "both"])
@pytest.mark.parametrize("bound", ["tokens", "messages"])
def test_beginning_stays_and_moves_in_steps(turns: str, bound: str) -> None:
    """Of 600 turns, or of 600 rounds of one turn: what was sent before is a prefix of what is sent next but for so many
    moves, far fewer than turns; and from then on about half of the budget is used at least."""
    made: list[Message] = [said(USER, "the first task")]
    for n in range(600):
        length = 20 + 37 * n % 160
        if turns == "user" or (turns == "both" and n % 25 == 0):
            made += [said(USER, f"{n} " + "u" * length), said(ASSISTANT, "a" * length)]
        else:
            made += [said(ASSISTANT, call(f"{n}")), said(TOOL, result(f"{n}", f"{n} " + "r" * length))]
    messages = log(*made)
    budget = Budget(2000, 10_000, 2**30) if bound == "tokens" else Budget(2**30, 64, 2**30)
    measured = [conversations.said(message, PLAIN) for message in messages]
    before: list[bytes] = []
    moves = 0
    for end in range(1, len(messages) + 1, 2):
        start = max(0, end - 160)
        users = (one for one in reversed(measured[:start]) if one.message.role == USER)
        turn = next((conversations.units([one])[0] for one in users), None)
        chosen = plan.choose(conversations.units(measured[start:end]), budget, turn, complete=not start)
        now = [message.SerializeToString() for message in sent(chosen)]
        moves += now[: len(before)] != before
        if moves:
            assert isinstance(chosen, Chosen)
            used = sum(unit.tokens for unit in chosen.units)
            assert used > 0.45 * budget.tokens if bound == "tokens" else len(now) > 0.45 * 64
        before = now
    appended = sum(unit.tokens for unit in units(messages, Shape())) if bound == "tokens" else len(messages)
    step = (budget.tokens if bound == "tokens" else budget.messages) // 4
    assert 3 < moves < 3 * appended / step, (moves, appended / step)


def test_answer_is_the_same_however_far_back_was_read() -> None:
    messages = log(*(m for n in range(400) for m in (said(USER, f"{n} " + "u" * 90), said(ASSISTANT, "a" * 90))))
    budget = Budget(1500, 1000, 2**30)
    whole = sent(plan.choose(units(messages, Shape()), budget, None, complete=True))
    seen = 0
    for length in (60, 100, 250, 799):
        tail = units(messages[-length:], Shape())
        if plan.fitting(tail, budget):
            seen += 1
            assert sent(plan.choose(tail, budget, None, complete=False)) == whole
    assert seen == 3 or seen == 4


def test_question_after_a_turn_that_is_too_long_comes_with_the_newest_of_that_turn() -> None:
    rounds = [m for n in range(50) for m in (said(ASSISTANT, call(f"{n}")), said(TOOL, result(f"{n}", "x" * 80)))]
    messages = log(said(USER, "old"), said(USER, "the task"), *rounds, said(ASSISTANT, "done"), said(USER, "and?"))
    made = context(messages, Budget(400, 100, 2**20))
    check(made)
    assert texts(made)[0] == "the task"
    assert texts(made)[-2:] == ["done", "and?"]
    assert 10 < len(made) < 40


def test_all_behind_a_message_that_is_too_long_is_taken() -> None:
    messages = log(said(USER, "x" * 5000), said(USER, "short"), said(ASSISTANT, "yes"), said(USER, "and?"))
    assert texts(context(messages, Budget(200, 100, 2**30))) == ["short", "yes", "and?"]


def test_form_of_converters_is_known_by_its_beginning() -> None:
    thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}
    (message,) = anthropic.from_items([thought])
    assert message.parts[-1].json.startswith(tokens.FORM)


TEXTS = {
    "english": ("The agreement comes into force when both parties have signed it. ", 0.10, 0.30),
    "german": ("Die Vereinbarung tritt in Kraft, sobald beide Parteien unterschrieben haben. ", 0.10, 0.40),
    "russian": ("Соглашение вступает в силу после подписания. ", 0.2, 0.6),
    "greek": ("και η συμφωνία τίθεται σε ισχύ. ", 0.3, 1.2),
    "arabic": ("يدخل الاتفاق حيز التنفيذ. ", 0.3, 0.9),
    "hindi": ("यह समझौता लागू होता है। ", 0.25, 1.1),
    "thai": ("ข้อตกลงนี้มีผลบังคับใช้", 0.4, 1.8),
    "chinese": ("双方签署后本协议生效。", 0.7, 1.3),
    "korean": ("이 계약은 효력이 발생한다. ", 0.5, 1.2),
    "amharic": ("ሁሉም ሰው ነፃ ነው። ", 1.5, 3.0),
    "base64": ("TWFuIGlzIGRpc3Rpbmd1aXNoZWQsIG5vdCBvbmx5IGJ5IGhpcw", 0.4, 0.9),
}
"""Some text, and the range of tokens for each character that tokenizers make of such text (decision 39)."""


@pytest.mark.parametrize("name", TEXTS)
def test_estimate_lies_between_those_of_tokenizers(name: str) -> None:
    text, least, most = TEXTS[name]
    assert least <= tokens.of_text(text * 50) / (len(text) * 50) <= most


def test_estimates_add_up_and_take_any_text() -> None:
    assert tokens.of_text("") == 0
    for text in ("a", " ", "\x00", "\u00e9", "\ufffd", "\U0001f600", "\x7f", "\ud800"):
        assert 1 <= tokens.of_text(text) <= 3
        assert tokens.of_text(text * 1000) <= 1000 * tokens.of_text(text)
    assert tokens.of_part(None, Part()) == 0
