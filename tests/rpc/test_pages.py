"""Lists over the wire: every item once, both ways, and tokens that only continue their own list."""

from collections.abc import Callable
from typing import Any

import pytest
from grpc import StatusCode

from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.session_pb2 import SessionView
from tests.support.wire import ALICE, BOB, OTHER_TENANT, TENANT, Wire

OLDEST, NEWEST = m.MessageOrder.MESSAGE_ORDER_OLDEST_FIRST, m.MessageOrder.MESSAGE_ORDER_NEWEST_FIRST


async def talk(wire: Wire, count: int, session_id: str = "s", key: str = TENANT) -> None:
    await wire.create(session_id, key=key)
    if count:
        await wire.append(session_id, *(str(number) for number in range(1, count + 1)), key=key)


async def page(
    wire: Wire, order: m.MessageOrder.ValueType = OLDEST, token: str = "", size: int = 3, **more: Any
) -> Any:
    request = m.ListMessagesRequest(session_id="s", order_by=order, page_token=token, page_size=size, **more)
    return await wire.call("ListMessages", request)


def texts(answer: Any) -> list[int]:
    return [int(message.parts[0].text) for message in answer.messages]


async def test_page_one_has_the_newest_message(wire: Wire) -> None:
    """Defect 3: the first page dropped it."""
    await talk(wire, 10)
    assert texts(await page(wire, NEWEST)) == [10, 9, 8]
    assert texts(await page(wire, NEWEST, size=0)) == [*range(10, 0, -1)]


@pytest.mark.parametrize("order", [OLDEST, NEWEST])
@pytest.mark.parametrize(("count", "size"), [(1, 3), (3, 3), (4, 3), (9, 3), (10, 3), (7, 1), (5, 100)])
async def test_every_message_once_forwards_and_back(
    wire: Wire, order: m.MessageOrder.ValueType, count: int, size: int
) -> None:
    await talk(wire, count)
    expected = [*range(1, count + 1)] if order == OLDEST else [*range(count, 0, -1)]
    pages, token = [], ""
    while True:
        pages.append(await page(wire, order, token, size))
        assert bool(pages[-1].previous_page_token) == (len(pages) > 1)
        if not (token := pages[-1].next_page_token):
            break
    assert [text for one in pages for text in texts(one)] == expected
    assert all(len(one.messages) == size for one in pages[:-1])

    back, token = [pages[-1]], pages[-1].previous_page_token
    while token:
        back.append(await page(wire, order, token, size))
        assert back[-1].next_page_token
        token = back[-1].previous_page_token
    assert [text for one in reversed(back) for text in texts(one)] == expected


async def test_turning_round_in_the_middle_gives_the_same_page(wire: Wire) -> None:
    await talk(wire, 9)
    first = await page(wire)
    second = await page(wire, token=first.next_page_token)
    third = await page(wire, token=second.next_page_token)
    assert texts(await page(wire, token=third.previous_page_token)) == texts(second) == [4, 5, 6]
    again = await page(wire, token=(await page(wire, token=third.previous_page_token)).next_page_token)
    assert texts(again) == [7, 8, 9]


async def test_messages_appended_between_pages_are_neither_lost_nor_repeated(wire: Wire) -> None:
    await talk(wire, 4)
    oldest, newest = await page(wire), await page(wire, NEWEST)
    await wire.append("s", "5", "6")
    assert texts(await page(wire, token=oldest.next_page_token)) == [4, 5, 6]
    older = await page(wire, NEWEST, newest.next_page_token)
    assert texts(older) == [1]
    assert texts(await page(wire, NEWEST, older.previous_page_token)) == [4, 3, 2]


@pytest.mark.parametrize("order", [OLDEST, NEWEST])
async def test_bounds_hold_on_every_page(wire: Wire, order: m.MessageOrder.ValueType) -> None:
    await talk(wire, 10)  # texts 1..10 at seq 2..11
    seen, token = [], ""
    while True:
        one = await page(wire, order, token, after_seq=3, before_seq=10)
        seen += texts(one)
        if not (token := one.next_page_token):
            break
    assert sorted(seen) == [3, 4, 5, 6, 7, 8]
    assert seen == sorted(seen, reverse=order == NEWEST)
    back = await page(wire, order, one.previous_page_token, after_seq=3, before_seq=10)
    assert texts(back) == seen[:3]
    assert not back.previous_page_token


async def test_empty_list_has_no_next_page(wire: Wire) -> None:
    await talk(wire, 0)
    answer = await page(wire)
    assert (len(answer.messages), answer.next_page_token, answer.previous_page_token) == (0, "", "")
    assert answer.version == 1


async def test_sessions_that_tie_in_time_are_all_listed(wire: Wire) -> None:
    """Defect 4: ties were lost between pages."""
    wire.store._clock = lambda: 1_700_000_000_000_000  # type: ignore[attr-defined]
    names = {f"s{number}" for number in range(11)}
    for name in names:
        await wire.create(name)
    for order in s.SessionOrder.values():
        seen: list[str] = []
        token = ""
        while True:
            request = s.ListSessionsRequest(order_by=order, page_size=4, page_token=token)
            answer = await wire.call("ListSessions", request)
            seen += [session.session_id for session in answer.sessions]
            if not (token := answer.next_page_token):
                break
        assert len(seen) == 11
        assert set(seen) == names


Change = Callable[[Any], None]


def setting(**values: Any) -> Change:
    def change(request: Any) -> None:
        for name, value in values.items():
            target = request
            *path, last = name.split("__")
            for part in path:
                target = getattr(target, part)
            setattr(target, last, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        setting(filter__user_id="x"),
        setting(filter__name_contains="s"),
        setting(order_by=s.SessionOrder.SESSION_ORDER_NAME_ASC),
        setting(view=SessionView.SESSION_VIEW_FULL),
    ],
)
async def test_a_token_of_sessions_is_bound_to_filter_order_and_view(wire: Wire, change: Change) -> None:
    for number in range(3):
        await wire.create(f"s{number}")
    request = s.ListSessionsRequest(page_size=2)
    request.page_token = (await wire.call("ListSessions", request)).next_page_token
    change(request)
    failure = await wire.failure("ListSessions", request)
    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    assert failure.violations.keys() == {"page_token"}


async def test_defaults_spelt_out_and_another_size_are_the_same_list(wire: Wire) -> None:
    for number in range(4):
        await wire.create(f"s{number}")
    token = (await wire.call("ListSessions", s.ListSessionsRequest(page_size=2))).next_page_token
    request = s.ListSessionsRequest(
        page_size=1,
        page_token=token,
        order_by=s.SessionOrder.SESSION_ORDER_CREATE_TIME_DESC,
        view=SessionView.SESSION_VIEW_BASIC,
    )
    assert [x.session_id for x in (await wire.call("ListSessions", request)).sessions] == ["s1"]


@pytest.mark.parametrize(
    "change",
    [
        setting(session_id="t"),
        setting(order_by=NEWEST),
        setting(after_seq=1),
        setting(before_seq=100),
    ],
)
async def test_a_token_of_messages_is_bound_to_session_order_and_bounds(wire: Wire, change: Change) -> None:
    await talk(wire, 5)
    await talk(wire, 5, "t")
    request = m.ListMessagesRequest(session_id="s", page_size=2)
    request.page_token = (await wire.call("ListMessages", request)).next_page_token
    change(request)
    assert (await wire.failure("ListMessages", request)).reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize("key", [OTHER_TENANT, ALICE, BOB])
async def test_a_token_is_bound_to_its_tenant_and_user(wire: Wire, key: str) -> None:
    for number in range(3):
        await wire.create(f"s{number}", user_id="alice" if key == ALICE else "")
    token = (await wire.call("ListSessions", s.ListSessionsRequest(page_size=1))).next_page_token
    failure = await wire.failure("ListSessions", s.ListSessionsRequest(page_size=1, page_token=token), key=key)
    assert failure.reason == "INVALID_PAGE_TOKEN"


async def test_a_token_of_another_rpc_is_refused(wire: Wire) -> None:
    await talk(wire, 5)
    await wire.create("t")
    of_messages = (await page(wire)).next_page_token
    of_sessions = (await wire.call("ListSessions", s.ListSessionsRequest(page_size=1))).next_page_token
    assert (await wire.failure("ListSessions", s.ListSessionsRequest(page_token=of_messages))).reason == (
        "INVALID_PAGE_TOKEN"
    )
    request = m.ListMessagesRequest(session_id="s", page_token=of_sessions)
    assert (await wire.failure("ListMessages", request)).reason == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize("token", ["1", "next", "A" * 60, "\u00e9", "A" * 100_000])
async def test_an_unknown_token_is_never_page_one(wire: Wire, token: str) -> None:
    """Defect 4: an unknown cursor restarted at the first page."""
    await talk(wire, 5)
    for rpc, request in (
        ("ListMessages", m.ListMessagesRequest(session_id="s", page_token=token)),
        ("ListSessions", s.ListSessionsRequest(page_token=token)),
    ):
        failure = await wire.failure(rpc, request)
        assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
