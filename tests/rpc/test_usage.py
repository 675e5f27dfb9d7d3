"""GetUsage over the wire: bounds, keys that are bound to a user, pages, and what a row says."""

from datetime import UTC, datetime
from typing import Any

from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import usage_service_pb2 as u
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.session_pb2 import TokenUsage
from tests.support.rows import table
from tests.support.wire import ALICE, BOB, OTHER_TENANT, Wire

USER, DAY, AGENT, MODEL = (
    u.UsageDimension.USAGE_DIMENSION_USER,
    u.UsageDimension.USAGE_DIMENSION_DAY,
    u.UsageDimension.USAGE_DIMENSION_AGENT,
    u.UsageDimension.USAGE_DIMENSION_MODEL,
)
LONGEST = "\U0001f600" * 63 + "abc"
"""255 bytes."""


async def used(wire: Wire, session_id: str, tokens: int, model: str, **more: Any) -> None:
    usage = TokenUsage(input_tokens=tokens, output_tokens=1)
    said = Message(role=Role.ROLE_ASSISTANT, parts=[Part(text="x")], usage=usage, model=model)
    await wire.call("AppendMessages", m.AppendMessagesRequest(session_id=session_id, messages=[said]), **more)


async def get(wire: Wire, *, key: str = "", **fields: Any) -> Any:
    return await wire.call("GetUsage", u.GetUsageRequest(**fields), **({"key": key} if key else {}))


async def test_a_row_says_what_was_used_today(wire: Wire) -> None:
    before = datetime.now(UTC)
    await wire.create("s", user_id="ann", agent_id=LONGEST)
    await used(wire, "s", 10, LONGEST[:64])
    answer = await get(wire, group_by=[DAY, USER, MODEL, AGENT])
    assert before < answer.as_of_time.ToDatetime(UTC)
    day = datetime.now(UTC).date().isoformat()
    assert [(row.user_id, row.day, row.agent_id, row.model) for row in answer.rows] == [
        ("ann", day, LONGEST, ""),
        ("ann", day, LONGEST, LONGEST[:64]),
    ]
    assert answer.rows[1].usage == TokenUsage(input_tokens=10, output_tokens=1, total_tokens=11)
    (whole,) = (await get(wire)).rows
    assert whole == u.UsageRow(usage=answer.rows[1].usage, message_count=1, session_count=1)
    assert not (await get(wire, key=OTHER_TENANT)).rows
    assert not (await get(wire, last_day="2020-01-31")).rows


async def test_a_key_of_a_user_gets_that_users_usage(wire: Wire) -> None:
    for key, user, tokens in ((ALICE, "alice", 1), (BOB, "bob", 10)):
        await wire.create(f"{user}~s", key=key)
        await used(wire, f"{user}~s", tokens, "m", key=key)
    for key, tokens in ((ALICE, 1), (BOB, 10), ("", 11)):
        assert (await get(wire, key=key)).rows[0].usage.input_tokens == tokens
    assert [row.user_id for row in (await get(wire, key=ALICE, group_by=[USER])).rows] == ["alice"]
    assert (await get(wire, key=ALICE, user_id="alice")).rows[0].usage.input_tokens == 1
    for other in ("bob", ""):
        failure = await wire.failure("GetUsage", u.GetUsageRequest(user_id=other), key=ALICE)
        assert (failure.reason, list(failure.violations)) == ("INVALID_FIELD", ["user_id"])


REFUSED: dict[str, tuple[dict[str, Any], ...]] = {
    "first_day": (
        {"first_day": "2026-1-1"},
        {"first_day": "20260101"},
        {"first_day": "2026-W01-1"},
        {"first_day": "2026-02-30"},
        {"first_day": "\0"},
        {"first_day": "\uff12\uff10\uff12\uff16-01-01"},
        {"first_day": "9" * 100_000},
        {"first_day": "2026-01-02", "last_day": "2026-01-01"},
        {"first_day": "2010-01-01", "last_day": "2020-01-10"},
        {"first_day": "9999-12-31"},
    ),
    "last_day": ({"last_day": "today"}, {"last_day": "0000-01-01"}, {"last_day": "2026-11-30T00:00:00Z"}),
    "user_id": ({"user_id": LONGEST + "d"}, {"user_id": " a"}, {"user_id": "a\0"}),
    "agent_id": ({"agent_id": LONGEST + "d"},),
    "model": ({"model": "x" * 256}, {"model": "a\nb"}),
    "group_by": ({"group_by": [USER, USER]}, {"group_by": [0]}, {"group_by": [5]}, {"group_by": [DAY] * 10_000}),
    "page_size": ({"page_size": -1},),
}


async def test_bounds_are_checked_and_fields_named(wire: Wire) -> None:
    with table() as rows:
        for field, requests in REFUSED.items():
            for fields in requests:
                with rows.row(field, str(fields)[:80]):
                    failure = await wire.failure("GetUsage", u.GetUsageRequest(**fields))
                    assert (failure.reason, list(failure.violations)) == ("INVALID_FIELD", [field])
        for fields in (
            {"first_day": "2010-01-01", "last_day": "2020-01-09"},
            {"last_day": "0001-01-01"},
            {"last_day": "9999-12-31"},
            {"user_id": "", "agent_id": "", "model": ""},
            {"user_id": LONGEST, "agent_id": LONGEST, "model": "\U0001f600" * 255},
        ):
            with rows.row(fields):
                assert not (await get(wire, **fields)).rows


async def test_pages_go_on_behind_the_longest_keys(wire: Wire) -> None:
    longest = "\U0001f600" * 128
    for name in ("a", "b"):
        await wire.create(name, user_id=LONGEST, agent_id=LONGEST)
        await used(wire, name, 1, longest[:-1] + name)
    request = u.GetUsageRequest(group_by=[USER, DAY, AGENT, MODEL], page_size=1)
    found = []
    while True:
        page = await wire.call("GetUsage", request)
        found += [row.model[-1:] for row in page.rows]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == ["", "a", "b"]
    for other in ({"group_by": [USER]}, {"group_by": request.group_by, "model": "a"}):
        failure = await wire.failure("GetUsage", u.GetUsageRequest(page_token=request.page_token, **other))
        assert failure.reason == "INVALID_PAGE_TOKEN"


async def test_a_messages_model_has_bounds_and_outlives_its_content(wire: Wire) -> None:
    await wire.create("s")
    for model in ("x" * 129, "a\nb"):
        said = Message(role=Role.ROLE_ASSISTANT, model=model)
        failure = await wire.failure("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=[said]))
        assert (failure.reason, list(failure.violations)) == ("INVALID_FIELD", ["messages[0].model"])
    said = Message(role=Role.ROLE_ASSISTANT, message_id="a", model="\U0001f600" * 128, parts=[Part(text="x")])
    await wire.call("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=[said]))
    await wire.call("RedactMessage", m.RedactMessageRequest(session_id="s", message_id="a"))
    got: Message = await wire.call("GetMessage", m.GetMessageRequest(session_id="s", message_id="a"))
    assert (got.model, len(got.parts)) == (said.model, 0)
