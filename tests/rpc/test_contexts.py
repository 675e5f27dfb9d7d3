"""GetContext over the wire: what no model could be given, bad input, and who may ask."""

from typing import Any

from google.rpc.error_details_pb2 import PreconditionFailure  # type: ignore[import-untyped]
from grpc import StatusCode

from sessiond.v1 import context_service_pb2 as x
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1.message_pb2 import Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.session_pb2 import SessionConfig
from sessiond.v1.session_service_pb2 import EndSessionRequest
from sessiond_server.domain.context import tokens
from sessiond_server.domain.context.conversation import NO_RESULT
from tests.support.chat_rules import gemini_fault
from tests.support.wire import ALICE, BOB, OTHER_TENANT, WRITER, Wire, said

TOO_SMALL = (StatusCode.FAILED_PRECONDITION, "CONTEXT_BUDGET_TOO_SMALL")
THINKING = Part(thinking="hm")


async def context(wire: Wire, **fields: Any) -> Any:
    return await wire.call("GetContext", x.GetContextRequest(session_id="s", **fields))


async def refusal(wire: Wire, **fields: Any) -> dict[str, str]:
    """The metadata of CONTEXT_BUDGET_TOO_SMALL, whose other details name the field too."""
    failure = await wire.failure("GetContext", x.GetContextRequest(session_id="s", **fields))
    assert (failure.code, failure.reason) == TOO_SMALL
    metadata = dict(failure.metadata)
    assert failure.text.startswith(f"{metadata['field']}: ")
    (precondition,) = (detail for detail in failure.details if isinstance(detail, PreconditionFailure))
    assert [violation.subject for violation in precondition.violations] == [metadata["field"]]
    return metadata


async def append(wire: Wire, *messages: Message) -> None:
    for start in range(0, len(messages), 256):
        page = messages[start : start + 256]
        await wire.call("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=page))


def answered(text: str, *before: Part) -> Message:
    return Message(role=Role.ROLE_ASSISTANT, parts=[*before, Part(text=text)])


def calls(*ids: str) -> Message:
    made = Message(role=Role.ROLE_ASSISTANT)
    for call_id in ids:
        made.parts.add().tool_call.CopyFrom(ToolCallPart(tool_call_id=call_id, name="search"))
    return made


async def test_empty_session_has_an_empty_context(wire: Wire) -> None:
    await wire.create("s")
    made = await context(wire, max_tokens=1, max_messages=1)
    assert made == x.Context(session_id="s", version=1)


async def test_system_prompt_counts_and_may_be_too_large(wire: Wire) -> None:
    await wire.create("s", config=SessionConfig(system_prompt="Be brief."))
    needed = tokens.of_fixed("Be brief.")
    made = await context(wire, max_tokens=needed)
    assert (made.system_prompt, made.token_count, made.estimated_token_count) == ("Be brief.", needed, needed)
    metadata = await refusal(wire, max_tokens=needed - 1)
    assert metadata == {
        "session_id": "s", "field": "max_tokens", "needed_tokens": str(needed), "needed_messages": "0",
    }  # fmt: skip
    made = await context(wire, max_tokens=1, omit_system_prompt=True)
    assert (made.system_prompt, made.token_count) == ("", 0)


async def test_context_of_one_token_names_what_is_needed(wire: Wire) -> None:
    await wire.create("s")
    await append(wire, said("Hello."), answered("Hello!"))
    needed = (await refusal(wire, max_tokens=1))["needed_tokens"]
    assert (await context(wire, max_tokens=int(needed))).token_count == int(needed)
    assert (await refusal(wire, max_tokens=int(needed) - 1))["needed_messages"] == "2"
    assert (await refusal(wire, max_messages=1))["field"] == "max_messages"
    assert len((await context(wire, max_messages=2)).messages) == 2


async def test_message_larger_than_the_budget_is_refused_until_it_is_shortened(wire: Wire) -> None:
    await wire.create("s")
    answer = Part(tool_result=ToolResultPart(tool_call_id="a", text="word " * 50_000))
    await append(wire, said("go"), calls("a"), Message(role=Role.ROLE_TOOL, parts=[answer]))
    assert int((await refusal(wire, max_tokens=1000))["needed_tokens"]) > 40_000
    made = await context(wire, max_tokens=1000, max_tool_result_tokens=500)
    assert 100 < made.token_count <= 1000
    shown = made.messages[2].parts[0].tool_result.text
    assert shown.startswith("word ")
    assert shown.endswith("word ")
    assert len(shown) < 5000


async def test_results_of_more_than_three_mebibytes_have_to_be_shortened(wire: Wire) -> None:
    await wire.create("s")
    await append(wire, said("go"), calls("a", "b", "c", "d"))
    for call_id in "abcd":
        answer = Part(tool_result=ToolResultPart(tool_call_id=call_id, text="x" * 1_000_000))
        await append(wire, Message(role=Role.ROLE_TOOL, parts=[answer]))
    assert (await refusal(wire))["field"] == "max_tool_result_tokens"
    assert len((await context(wire, max_tool_result_tokens=1000)).messages) == 6


async def test_ten_thousand_calls_without_results(wire: Wire) -> None:
    await wire.create("s")
    await append(wire, said("go"), *(calls(*(f"{n}-{k}" for k in range(100))) for n in range(100)))
    made = await context(wire)
    assert made.completed_call_count == 10_000
    assert not gemini_fault(made.messages)
    made = await context(wire, max_tokens=20_000)
    assert 100 <= made.completed_call_count < 2_000
    assert made.messages[0].parts[0].text == "go"
    assert made.messages[-1].parts[0].tool_result.text == NO_RESULT
    assert (made.messages[-1].seq, made.messages[-1].message_id, made.messages[-1].session_id) == (0, "", "s")


async def test_only_thinking_is_nothing_to_send(wire: Wire) -> None:
    await wire.create("s")
    await append(wire, Message(role=Role.ROLE_ASSISTANT, parts=[THINKING]))
    for thinking in (False, True):
        made = await context(wire, include_thinking=thinking)
        assert (len(made.messages), made.omitted_message_count, made.token_count) == (0, 1, 0)
    await append(wire, said("go"), answered("yes", THINKING))
    assert [len(each.parts) for each in (await context(wire)).messages] == [1, 1]
    assert [len(each.parts) for each in (await context(wire, include_thinking=True)).messages] == [1, 2]


async def test_exact_counts_are_used_and_bounded(wire: Wire) -> None:
    await wire.create("s")
    for count in (-1, 2**53):
        request = m.AppendMessagesRequest(session_id="s", messages=[said("x", token_count=count)])
        failure = await wire.failure("AppendMessages", request)
        assert (failure.reason, [*failure.violations]) == (
            "INVALID_FIELD", ["messages[0].token_count"],
        )  # fmt: skip
    await append(wire, said("x", token_count=2**53 - 1), said("y", token_count=7), said("z"))
    made = await context(wire)
    assert made.token_count - made.estimated_token_count == 2**53 - 1 + 7
    made = await context(wire, max_tokens=100)
    assert [each.parts[0].text for each in made.messages] == ["y", "z"]
    assert made.estimated_token_count == made.token_count - 7 == tokens.MESSAGE_TOKENS + tokens.of_text("z")


async def test_bounds_of_the_request_are_checked_field_by_field(wire: Wire) -> None:
    await wire.create("s")
    bad = x.GetContextRequest(
        session_id="", max_tokens=2**53, max_messages=-1, max_tool_result_tokens=-1, min_version=-1, as_of_seq=-1,
        consistency=9,  # type: ignore[arg-type]
    )  # fmt: skip
    failure = await wire.failure("GetContext", bad)
    assert failure.code == StatusCode.INVALID_ARGUMENT
    assert [*failure.violations] == [
        "session_id", "max_tokens", "max_messages", "max_tool_result_tokens", "min_version", "as_of_seq", "consistency",
    ]  # fmt: skip
    largest = {"max_tokens": 2**53 - 1, "max_messages": 2**31 - 1, "max_tool_result_tokens": 2**31 - 1}
    assert (await context(wire, **largest)).version == 1


async def test_ended_session_has_a_context(wire: Wire) -> None:
    await wire.create("s")
    await append(wire, said("Hello."))
    await wire.call("EndSession", EndSessionRequest(session_id="s"))
    assert len((await context(wire)).messages) == 1


async def test_sessions_of_others_have_no_context(wire: Wire) -> None:
    await wire.create("alice~s", key=ALICE)
    request = x.GetContextRequest(session_id="alice~s")
    assert (await wire.call("GetContext", request, key=ALICE)).version == 1
    for key in (BOB, OTHER_TENANT):
        failure = await wire.failure("GetContext", request, key=key)
        assert (failure.code, failure.reason) == (StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    failure = await wire.failure("GetContext", request, key=WRITER)
    assert failure.code == StatusCode.PERMISSION_DENIED


async def test_only_places_of_the_session_can_be_asked_for(wire: Wire) -> None:
    await wire.create("s")
    await append(wire, said("one"), answered("two"))
    await wire.call("EndSession", EndSessionRequest(session_id="s"))
    for place in (5, 2**63 - 1):
        failure = await wire.failure("GetContext", x.GetContextRequest(session_id="s", as_of_seq=place))
        assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert failure.text == "as_of_seq: must be 1 to 4, the session's version"
    lengths = [len((await context(wire, as_of_seq=place)).messages) for place in (1, 2, 3, 4)]
    assert lengths == [0, 1, 2, 2]
    now = await context(wire, min_version=4)
    assert await context(wire, as_of_seq=4) == now
