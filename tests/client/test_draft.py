"""Drafts: the deltas that watchers receive, and the messages that are appended."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

import sessiond
from sessiond import draft as drafts
from sessiond import written as drafted
from sessiond.draft import Draft
from sessiond.v1.message_service_pb2 import AppendMessagesResponse
from sessiond_server import errors as server_errors
from tests.support.both_clients import async_only
from tests.support.scripted_server import Fail, ScriptedServer, Wait, failing

BOTH_CLIENTS = True


def published(server: ScriptedServer) -> list[list[sessiond.Delta]]:
    return [list(seen.request.deltas) for seen in server.seen if seen.method == "PublishDelta"]


def appended(server: ScriptedServer) -> list[sessiond.Message]:
    return [seen.request.messages[0] for seen in server.seen if seen.method == "AppendMessages"]


def joined(batches: Sequence[Sequence[sessiond.Delta]]) -> dict[int, tuple[str, str]]:
    """What a reader of the deltas has of each part; a piece that does not follow fails."""
    parts: dict[int, tuple[str, str]] = {}
    length: dict[int, int] = defaultdict(int)
    for delta in (delta for batch in batches for delta in batch):
        kind = delta.WhichOneof("piece")
        assert kind is not None
        if kind == "typing":
            continue
        assert delta.offset == length[delta.part_index]
        piece = getattr(delta, kind)
        length[delta.part_index] += len(piece.encode())
        assert 0 < len(piece.encode()) <= 65_536
        assert parts.get(delta.part_index, (kind, ""))[0] == kind
        parts[delta.part_index] = (kind, parts.get(delta.part_index, ("", ""))[1] + piece)
    return parts


async def shown(server: ScriptedServer, end: str) -> None:
    """Waits until the text ends so."""
    while not (parts := joined(published(server))) or not parts[max(parts)][1].endswith(end):
        server.arrived.clear()
        await server.arrived.wait()


async def test_tokens_are_published_and_then_appended(client: sessiond.Client, server: ScriptedServer) -> None:
    async with client.draft("s", name="ada", run_id="r", interval=0, metadata={"k": 1}) as draft:
        for token in ("Mild", ": ", "21 °C", ".\n", "🌤️", ""):
            await draft.write(token)
        await shown(server, "🌤️")
        assert not appended(server)
        draft.usage = sessiond.TokenUsage(output_tokens=5)
    text = "Mild: 21 °C.\n🌤️"
    assert joined(published(server)) == {0: ("text", text)}
    deltas = [delta for batch in published(server) for delta in batch]
    assert deltas[0].typing
    assert {(delta.message_id, delta.name, delta.run_id) for delta in deltas} == {(draft.message_id, "ada", "r")}
    expected = sessiond.assistant(text, name="ada", metadata={"k": 1}, usage=draft.usage, message_id=draft.message_id)
    assert appended(server) == [expected]
    request = next(seen.request for seen in server.seen if seen.method == "AppendMessages")
    assert (request.session_id, request.request_id) == ("s", draft.request_id)


async def test_text_thinking_and_calls_have_parts_of_their_own(client: sessiond.Client, server: ScriptedServer) -> None:
    async with client.draft("s", interval=0, message_id="m") as draft:
        await draft.think("Weather, ")
        await draft.think("then.")
        await draft.write("Let me see.")
        await draft.call_tool("call_1", "weather")
        await draft.write_arguments('{"city": ')
        await draft.write_arguments('"Nara"}')
        await draft.call_tool("call_2", "clock")
        await draft.write("One moment.")
        await shown(server, "moment.")
    assert joined(published(server)) == {
        0: ("thinking", "Weather, then."),
        1: ("text", "Let me see."),
        2: ("arguments", '{"city": "Nara"}'),
        4: ("text", "One moment."),
    }
    message = sessiond.Message(message_id="m", role=sessiond.Role.ROLE_ASSISTANT)
    message.parts.add(thinking="Weather, then.")
    message.parts.add(text="Let me see.")
    message.parts.append(sessiond.tool_call("call_1", "weather", '{"city": "Nara"}'))
    message.parts.append(sessiond.tool_call("call_2", "clock"))
    message.parts.add(text="One moment.")
    assert appended(server) == [message]


async def test_text_written_during_a_publish_is_published_together(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    released = asyncio.Event()
    server.script.append(Wait(released))
    async with client.draft("s", interval=0) as draft:
        await server.arrived.wait()
        for n in range(100):
            await draft.write(f"{n} ")
        released.set()
        await shown(server, "99 ")
        assert [len(batch) for batch in published(server)] == [1, 1]


async def test_large_text_is_published_in_several_requests(client: sessiond.Client, server: ScriptedServer) -> None:
    released = asyncio.Event()
    server.script.append(Wait(released))
    text = "aé語🌤" * 50_000
    async with client.draft("s", interval=0) as draft:
        await draft.write(text)
        await server.arrived.wait()
        released.set()
        await shown(server, text[-10:])
    assert joined(published(server)) == {0: ("text", text)}
    requests = [seen.request for seen in server.seen if seen.method == "PublishDelta"]
    assert len(requests) > 2
    assert max(request.ByteSize() for request in requests) < 256 * 1024
    assert sessiond.text_of(appended(server)[0]) == text


async def test_many_parts_are_published_in_order(client: sessiond.Client, server: ScriptedServer) -> None:
    released = asyncio.Event()
    server.script.append(Wait(released))
    async with client.draft("s", interval=0) as draft:
        for n in range(100):
            await draft.think(f"t{n}")
            await draft.write(f"w{n}")
        released.set()
        await shown(server, "w99")
    assert len(joined(published(server))) == 200
    assert max(map(len, published(server))) == drafts.PUBLISHED_PIECES


@pytest.mark.parametrize(("end", "cut"), [(0, 0), (1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 6), (7, 6), (9, 6)])
def test_pieces_end_between_characters(end: int, cut: int) -> None:
    content = bytearray("aé語🌤".encode())
    assert drafted._boundary(content, end) == cut
    assert drafted._boundary(content, 99) == len(content) == 10


async def test_failed_publish_does_not_stop_the_draft(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = Fail(grpc.StatusCode.UNIMPLEMENTED)
    async with client.draft("s", interval=0) as draft:
        for n in range(3):
            before = len(server.seen)
            await draft.write(f"{n}")
            while len(server.seen) == before:
                server.arrived.clear()
                await server.arrived.wait()
        server.always = None
    assert sessiond.text_of(appended(server)[0]) == "012"


async def test_append_waits_for_the_publish_in_flight(
    client: sessiond.Client, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "LANDING", 60.0)
    landing = asyncio.Event()
    server.script.append(Wait(landing))
    async with client.draft("s") as draft:
        await server.arrived.wait()
        leaving = asyncio.create_task(draft.append())
        await client.get_session("s")
        assert not appended(server)
        landing.set()
        await leaving
    assert [seen.method for seen in server.seen] == ["PublishDelta", "GetSession", "AppendMessages"]
    assert not server.cancelled.is_set()


async def test_slow_publish_does_not_block_the_writer(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append(Wait(asyncio.Event()))
    async with client.draft("s") as draft:
        await server.arrived.wait()
        await draft.write("quick")
    assert sessiond.text_of(appended(server)[0]) == "quick"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (server_errors.SessionEnded("s", "CLIENT"), sessiond.SessionEnded),
        (server_errors.SessionNotActive("s", "SUSPENDED"), sessiond.SessionNotActive),
        (server_errors.SessionNotFound("s"), sessiond.SessionNotFound),
    ],
)
async def test_refusal_of_a_delta_is_raised_in_the_writer(
    error: server_errors.SessiondError,
    kind: type[sessiond.SessiondError],
    client: sessiond.Client,
    server: ScriptedServer,
) -> None:
    """The writer gets the refusal before the end of the block."""
    server.always = failing(error)

    async def write() -> None:
        async with client.draft("s", interval=0) as draft:
            while True:
                await draft.write("token ")
                await client.count_sessions(timeout=60) if server.always is None else await asyncio.sleep(0)

    with pytest.raises(kind):
        await write()
    assert not appended(server)


async def test_an_exception_appends_nothing(client: sessiond.Client, server: ScriptedServer) -> None:
    draft = client.draft("s")

    async def write() -> None:
        async with draft:
            await draft.write("half an ans")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write()
    assert not appended(server)
    assert draft.appended is None


async def test_cancelling_appends_nothing(client: sessiond.Client, server: ScriptedServer) -> None:
    async def write() -> None:
        async with client.draft("s") as draft:
            await draft.write("half an ans")
            await asyncio.Event().wait()

    writing = asyncio.create_task(write())
    await server.arrived.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not appended(server)
    assert not {task for task in asyncio.all_tasks() if task.get_name() == "sessiond-draft"}


async def test_failed_append_is_retried_with_the_same_request(client: sessiond.Client, server: ScriptedServer) -> None:
    draft = client.draft("s")
    server.always = Fail(grpc.StatusCode.DEADLINE_EXCEEDED)
    with pytest.raises(sessiond.DeadlinePassed) as caught:
        async with draft:
            await draft.write("hi")
    assert caught.value.request_id == draft.request_id
    server.always = AppendMessagesResponse(version=7)
    assert (await draft.append()).version == 7
    assert await draft.append() == draft.appended
    first, second = (seen.request for seen in server.seen if seen.method == "AppendMessages")
    assert first == second


async def test_draft_can_be_appended_before_the_end_of_its_block(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    async with client.draft("s", role="user") as draft:
        await draft.write("done")
        await draft.append()
        with pytest.raises(RuntimeError, match="appended"):
            await draft.write("more")
    assert [message.role for message in appended(server)] == [sessiond.Role.ROLE_USER]


async def test_empty_draft_appends_a_message_without_parts(client: sessiond.Client, server: ScriptedServer) -> None:
    async with client.draft("s"):
        pass
    assert [len(message.parts) for message in appended(server)] == [0]


async def test_arguments_without_a_call_are_refused(client: sessiond.Client) -> None:
    with pytest.raises(RuntimeError, match="call_tool"):
        async with client.draft("s") as draft:
            await draft.write_arguments("{}")


async def test_negative_interval_is_refused(client: sessiond.Client) -> None:
    with pytest.raises(ValueError, match="interval"):
        client.draft("s", interval=-1)


async def test_typing_publishes_a_delta_without_text(client: sessiond.Client, server: ScriptedServer) -> None:
    await client.typing("s", name="ada")
    await client.typing("s", message_id="m")
    first, second = (batch[0] for batch in published(server))
    assert first.typing
    assert (first.name, second.message_id) == ("ada", "m")
    assert first.message_id


# What a model writes, whatever it is.


async def written(client: sessiond.Client, server: ScriptedServer, *pieces: str) -> list[sessiond.Message]:
    """The messages that a draft of these pieces of text is appended as."""
    async with client.draft("s", interval=0) as draft:
        for piece in pieces:
            await draft.write(piece)
    return [message for request in requests(server) for message in request.messages]


def requests(server: ScriptedServer) -> list[Any]:
    return [seen.request for seen in server.seen if seen.method == "AppendMessages"]


@pytest.mark.parametrize(
    ("pieces", "stored"),
    [
        (("a\0b",), "a\ufffdb"),
        (("\0",), "\ufffd"),
        (("a\ud83d", "\ude00b"), "a😀b"),
        (("a\ud83d\ude00b",), "a😀b"),
        (("a\ud83d", "b"), "a\ufffdb"),
        (("a\ud83d",), "a\ufffd"),
        (("\ud83d", "\ud83d", "\ude00"), "\ufffd😀"),
        (("\ude00",), "\ufffd"),
        (("\ud83d", "", "\ude00"), "😀"),
    ],
)
async def test_text_that_no_message_can_hold_is_repaired(
    pieces: tuple[str, ...], stored: str, client: sessiond.Client, server: ScriptedServer
) -> None:
    (message,) = await written(client, server, *pieces)
    assert [part.text for part in message.parts] == [stored]


async def test_half_a_surrogate_pair_is_not_joined_across_parts(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    async with client.draft("s", interval=0) as draft:
        await draft.think("a\ud83d")
        await draft.write("\ude00b\ud83d")
        await draft.call_tool("c", "t")
        await draft.write_arguments('"\ud83d')
        await draft.write_arguments('\ude00\0"')
        await shown(server, '\ufffd"')
    (message,) = appended(server)
    said = [part.thinking or part.text or part.tool_call.arguments_json for part in message.parts]
    assert said == ["a\ufffd", "\ufffdb\ufffd", '"😀\ufffd"']
    assert [text for _, text in joined(published(server)).values()] == said


async def test_text_beyond_one_message_continues_in_another(
    sessions: sessiond.Client,
) -> None:
    """The service's own checks accept the messages."""
    await sessions.create_session(session_id="s", active=True)
    text = "aé語🌤" * 500_000
    async with sessions.draft("s", name="ada", metadata={"k": "v" * 1000}) as draft:
        await draft.think("Long.")
        for start in range(0, len(text), 100_000):
            await draft.write(text[start : start + 100_000])
        draft.usage = sessiond.TokenUsage(output_tokens=3)
    messages = [message async for message in sessions.list_messages("s")]
    assert draft.appended is not None
    assert list(draft.message_ids) == list(draft.appended.message_ids) == [each.message_id for each in messages]
    assert len(messages) == 5
    assert "".join(part.text for message in messages for part in message.parts) == text
    assert (draft.appended.first_seq, draft.appended.version) == (2, 6)
    assert [message.usage.output_tokens for message in messages] == [0, 0, 0, 0, 3]
    assert {message.name for message in messages} == {"ada"}


async def test_parts_beyond_one_message_continue_in_another(sessions: sessiond.Client) -> None:
    await sessions.create_session(session_id="s", active=True)
    async with sessions.draft("s") as draft:
        for n in range(300):
            await draft.think(f"t{n}")
            await draft.write(f"w{n}")
            await draft.call_tool(f"c{n}", "tool")
    messages = [message async for message in sessions.list_messages("s")]
    assert [len(message.parts) for message in messages] == [256, 256, 256, 132]
    assert [part.text for message in messages for part in message.parts if part.text] == [f"w{n}" for n in range(300)]


@async_only("it looks into the draft")
async def test_deltas_of_a_further_message_carry_its_id(client: sessiond.Client, server: ScriptedServer) -> None:
    async with client.draft("s", interval=0) as draft:
        for n in range(300):
            await draft.think(f"t{n}")
            await draft.write(f"w{n}")
        await shown_of(server, draft)
    deltas = [delta for batch in published(server) for delta in batch if not delta.typing]
    assert [delta.message_id for delta in deltas] == [draft.message_ids[n // 256] for n in range(600)]
    assert [delta.part_index for delta in deltas] == [n % 256 for n in range(600)]


async def shown_of(server: ScriptedServer, draft: Draft) -> None:
    """Waits until all parts were shown."""
    while sum(not delta.typing for batch in published(server) for delta in batch) < len(draft._written.parts):
        server.arrived.clear()
        await server.arrived.wait()


async def test_arguments_that_do_not_fit_move_to_the_next_message_as_a_whole(sessions: sessiond.Client) -> None:
    await sessions.create_session(session_id="s", active=True)
    async with sessions.draft("s") as draft:
        await draft.write("w" * 600_000)
        await draft.call_tool("c", "tool")
        for _ in range(6):
            await draft.write_arguments("x" * 100_000)
        await draft.write("end")
    first, second = [message async for message in sessions.list_messages("s")]
    assert [len(part.text) for part in first.parts] == [600_000]
    assert second.parts[0].tool_call.arguments_json == "x" * 600_000
    assert second.parts[1].text == "end"


async def test_arguments_that_no_message_can_hold_are_refused_where_they_are_written(sessions: sessiond.Client) -> None:
    await sessions.create_session(session_id="s", active=True)
    async with sessions.draft("s") as draft:
        await draft.write("before")
        await draft.call_tool("c", "tool")
        await draft.write_arguments("{")
        with pytest.raises(sessiond.InvalidFields) as caught:
            await draft.write_arguments("x" * 1_048_576)
        assert caught.value.violations[0].field == "arguments_json"
        await draft.write("after")
    (message,) = [message async for message in sessions.list_messages("s")]
    assert [part.text for part in message.parts] == ["before", "", "after"]
    assert message.parts[1].tool_call.arguments_json == "{"


@pytest.mark.parametrize(
    ("call", "field"), [(("c", ""), "name"), (("c", "a\nb"), "name"), (("c", "t" * 129), "name"),
                        (("c" * 8193, "t"), "tool_call_id"), (("\0", "t"), "tool_call_id"), (("c", "\ud83d"), "name")],
)  # fmt: skip
async def test_a_call_that_no_message_can_hold_is_refused_where_it_is_written(
    call: tuple[str, str], field: str, client: sessiond.Client, server: ScriptedServer
) -> None:
    async with client.draft("s") as draft:
        await draft.call_tool("c", "good")
        with pytest.raises(sessiond.InvalidFields) as caught:
            await draft.call_tool(*call)
        assert caught.value.violations[0].field == field
        # They are not the arguments of the call before.
        with pytest.raises(sessiond.InvalidFields):
            await draft.write_arguments("{}")
        await draft.write("the rest")
    assert [part.tool_call.name or part.text for part in appended(server)[0].parts] == ["good", "the rest"]
    assert not appended(server)[0].parts[0].tool_call.arguments_json


@pytest.mark.parametrize("fields", [{"message_id": "a\nb"}, {"name": "a\nb"}, {"metadata": {"k": "v" * 70_000}}])
async def test_invalid_outline_is_refused_before_anything_is_written(
    fields: dict[str, Any], client: sessiond.Client
) -> None:
    with pytest.raises(sessiond.InvalidFields):
        client.draft("s", **fields)


@async_only("it looks into the draft")
async def test_append_of_several_requests_continues_where_it_failed(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    draft = client.draft("s", interval=0)
    away = Fail(grpc.StatusCode.DEADLINE_EXCEEDED)

    async def write() -> None:
        async with draft:
            for _ in range(40):
                await draft.write("w" * 100_000)
            await shown(server, "w")
            await draft._stop_showing()
            server.script.extend([AppendMessagesResponse(version=9, first_seq=7), away])

    with pytest.raises(sessiond.DeadlinePassed):
        await write()
    server.always = AppendMessagesResponse(version=21, first_seq=20)
    answer = await draft.append()
    assert (answer.first_seq, answer.version, list(answer.message_ids)) == (7, 21, list(draft.message_ids))
    first, second, again = requests(server)
    assert second == again
    assert first.request_id == draft.request_id != second.request_id
    ids = [message.message_id for request in (first, second) for message in request.messages]
    assert ids == list(draft.message_ids)


async def test_text_is_kept_when_the_session_refuses_its_delta(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = failing(server_errors.SessionNotActive("s", "SUSPENDED"))
    draft = client.draft("s", interval=0)

    async def write() -> None:
        async with draft:
            for n in itertools.count():
                pieces.append(f"{n} ")
                await draft.write(pieces[-1])

    pieces: list[str] = []
    with pytest.raises(sessiond.SessionNotActive):
        await write()
    server.always = None
    await draft.append()
    assert sessiond.text_of(appended(server)[0]) == "".join(pieces)


@async_only("it takes the place of the loop's exception handler")
async def test_unexpected_error_of_a_publish_does_not_prevent_the_append(
    client: sessiond.Client, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def defective(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(drafted, "Delta", defective)
    async with client.draft("s", interval=0) as draft:
        await draft.write("kept")
    assert sessiond.text_of(appended(server)[0]) == "kept"
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
