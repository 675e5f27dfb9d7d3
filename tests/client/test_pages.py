"""Lists: a page is fetched when it is needed, in both directions."""

import asyncio

import grpc
import pytest

import sessiond
from sessiond.v1.event_service_pb2 import ListEventsResponse
from sessiond.v1.message_service_pb2 import ListMessagesResponse, MessageOrder
from sessiond.v1.session_service_pb2 import ListSessionsResponse
from tests.support.scripted_server import Fail, ScriptedServer, Wait

BOTH_CLIENTS = True


def page(number: int, *, of: int, size: int = 2) -> ListMessagesResponse:
    """Page 1, 2 ... of a list of messages; its own token is `page-N`."""
    return ListMessagesResponse(
        messages=[sessiond.Message(seq=number * 10 + i) for i in range(size)],
        next_page_token=f"page-{number + 1}" if number < of else "",
        previous_page_token=f"page-{number - 1}" if number > 1 else "",
        version=99,
    )


async def test_iteration_yields_items_of_all_pages(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([page(1, of=3), page(2, of=3, size=0), page(3, of=3)])
    listed = client.list_messages("s", order_by="newest_first", page_size=2, after_seq=1, before_seq=90, min_version=5)
    assert [message.seq async for message in listed] == [10, 11, 30, 31]
    requests = [seen.request for seen in server.seen]
    assert [request.page_token for request in requests] == ["", "page-2", "page-3"]
    for request in requests:
        assert (request.session_id, request.order_by) == ("s", MessageOrder.MESSAGE_ORDER_NEWEST_FIRST)
        assert (request.page_size, request.after_seq, request.before_seq, request.min_version) == (2, 1, 90, 5)


async def test_page_is_fetched_when_it_is_needed(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([page(1, of=2), page(2, of=2)])
    items = aiter(client.list_messages("s"))
    assert not server.seen
    await anext(items)
    await anext(items)
    assert len(server.seen) == 1
    await anext(items)
    assert len(server.seen) == 2


async def test_empty_list_yields_nothing(client: sessiond.Client, server: ScriptedServer) -> None:
    assert [session async for session in client.list_sessions()] == []
    assert [len(page.sessions) async for page in client.list_sessions().pages()] == [0]


async def test_pages_carry_versions(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([page(1, of=2), page(2, of=2)])
    assert [p.version async for p in client.list_messages("s").pages()] == [99, 99]


async def test_a_list_can_be_read_again(client: sessiond.Client, server: ScriptedServer) -> None:
    answer = ListSessionsResponse(sessions=[sessiond.Session(session_id="s")])
    server.always = answer
    listed = client.list_sessions(user_id="u")
    assert [session.session_id async for session in listed] == ["s"]
    assert [session.session_id async for session in listed] == ["s"]
    assert await listed.page() == answer
    assert [seen.request.page_token for seen in server.seen] == ["", "", ""]


async def test_a_list_starts_at_its_token(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([page(2, of=3), page(3, of=3)])
    pages = [p async for p in client.list_messages("s", page_token="page-2").pages()]
    assert [p.messages[0].seq for p in pages] == [20, 30]
    assert [seen.request.page_token for seen in server.seen] == ["page-2", "page-3"]


async def test_pages_can_be_read_back_to_the_first(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([page(2, of=3), page(1, of=3)])
    pages = [p async for p in client.list_messages("s", page_token="page-2").pages(back=True)]
    assert [p.messages[0].seq for p in pages] == [20, 10]
    assert [seen.request.page_token for seen in server.seen] == ["page-2", "page-1"]


async def test_failed_page_is_requested_again(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([page(1, of=2), Fail(grpc.StatusCode.INTERNAL), page(2, of=2)])
    items = aiter(client.list_messages("s"))
    seqs = [(await anext(items)).seq, (await anext(items)).seq]
    with pytest.raises(sessiond.SessiondError):
        await anext(items)
    seqs += [message.seq async for message in items]
    assert seqs == [10, 11, 20, 21]
    assert [seen.request.page_token for seen in server.seen] == ["", "page-2", "page-2"]


@pytest.mark.long
async def test_iteration_continues_after_a_cancellation(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([page(1, of=2, size=1), Wait(asyncio.Event()), page(2, of=2)])
    items = aiter(client.list_messages("s"))
    first = await anext(items)
    server.arrived.clear()

    async def read_on() -> sessiond.Message:
        return await anext(items)

    waiting = asyncio.create_task(read_on())
    await server.arrived.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await server.cancelled.wait()
    assert [first.seq, *[message.seq async for message in items]] == [10, 20, 21]


async def test_iterator_stays_at_its_end(client: sessiond.Client, server: ScriptedServer) -> None:
    pages = client.list_messages("s").pages()
    await anext(pages)
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(pages)
    assert len(server.seen) == 1


def events(*seqs: int, more: bool) -> ListEventsResponse:
    return ListEventsResponse(
        events=[sessiond.Event(seq=seq) for seq in seqs], position=f"after-{seqs[-1]}", more=more, version=9
    )


async def test_events_are_listed_page_by_page(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([events(4, 5, more=True), events(6, more=False)])
    listed = client.list_events("s", position="after-3", types=["message_appended"], page_size=2)
    assert [event.seq async for event in listed] == [4, 5, 6]
    requests = [seen.request for seen in server.seen]
    assert [request.position for request in requests] == ["after-3", "after-5"]
    for request in requests:
        assert (request.session_id, request.page_size) == ("s", 2)
        assert list(request.filter.types) == [sessiond.EventType.EVENT_TYPE_MESSAGE_APPENDED]


async def test_last_page_of_events_has_a_position(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([events(1, more=True), events(2, more=False), events(3, more=False)])
    pages = [page async for page in client.list_events("s").pages()]
    assert [page.position for page in pages] == ["after-1", "after-2"]
    assert (await client.list_events("s", position=pages[-1].position).page()).events[0].seq == 3
    assert server.seen[-1].request.position == "after-2"
