"""Rewinds through a real channel: what clients and watchers see."""

from collections.abc import Callable
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from sessiond.v1 import context_service_pb2 as x
from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2 import MessageFilter
from sessiond.v1.session_pb2 import Session, SessionStatus
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import fold
from tests.support.wire import ALICE, BOB, Wire


async def rewind(wire: Wire, **fields: object) -> Session:
    answer: Session = await wire.call("RewindSession", s.RewindSessionRequest(session_id="s", **fields))  # type: ignore[arg-type]
    return answer


async def test_watchers_see_everything_and_are_told(wire: Wire) -> None:
    await wire.create("s")
    watcher = wire.watch("WatchSession", e.WatchSessionRequest(session_id="s", from_beginning=True))
    await wire.append("s", "one", "two", "three")
    made = await rewind(wire, seq=2)
    events: list[Event] = []
    while not events or events[-1].seq < made.version:
        frame = await watcher.read()
        events += frame.events.events
    assert [event.type for event in events[-2:]] == [
        EventType.EVENT_TYPE_MESSAGE_APPENDED, EventType.EVENT_TYPE_SESSION_REWOUND,
    ]  # fmt: skip
    assert (events[-1].rewound_to_seq, [*events[-1].session.rewound]) == (2, [*made.rewound])
    state = Session()
    for event in events:
        state = fold.fold(state, event)
    assert state == made
    listed = await wire.call("ListEvents", e.ListEventsRequest(session_id="s"))
    assert [event.message.parts[0].text for event in listed.events if event.HasField("message")] == [
        "one", "two", "three",
    ]  # fmt: skip


async def test_lists_have_what_is_hidden_only_when_asked(wire: Wire) -> None:
    await wire.create("s")
    await wire.append("s", "one", "two", "three")
    asked = t.RequestToolCallRequest(session_id="s", tool_call=ToolCall(tool_call_id="c", name="n"))
    await wire.call("RequestToolCall", asked)
    begun = await wire.call("BeginRun", r.BeginRunRequest(session_id="s"))
    await wire.call("CancelRun", r.CancelRunRequest(session_id="s", run_id=begun.run_id))
    await rewind(wire, seq=3)

    async def count(rpc: str, kind: Callable[..., Any], items: str, **more: object) -> int:
        both = []
        for hidden in (False, True):
            request = kind(session_id="s", include_rewound=hidden, **more)
            both.append(len(getattr(await wire.call(rpc, request), items)))
        assert both[0] < both[1]
        return both[1] - both[0]

    assert await count("ListMessages", m.ListMessagesRequest, "messages") == 1
    filtered = MessageFilter(roles=[Role.ROLE_USER])
    assert await count("ListMessages", m.ListMessagesRequest, "messages", filter=filtered) == 1
    assert await count("ListRuns", r.ListRunsRequest, "runs") == 1
    assert await count("ListToolCalls", t.ListToolCallsRequest, "tool_calls") == 1
    page = await wire.call("ListMessages", m.ListMessagesRequest(session_id="s", page_size=1, include_rewound=True))
    request = m.ListMessagesRequest(session_id="s", page_size=1, page_token=page.next_page_token)
    failure = await wire.failure("ListMessages", request)
    assert failure.reason == "INVALID_PAGE_TOKEN"
    request.include_rewound = True
    texts = [message.parts[0].text for message in (await wire.call("ListMessages", request)).messages]
    assert texts == ["two"]
    context = await wire.call("GetContext", x.GetContextRequest(session_id="s"))
    assert [message.parts[0].text for message in context.messages] == ["one", "two"]
    assert context.omitted_message_count == 0


async def test_bound_keys_rewind_sessions_of_their_user_only(wire: Wire) -> None:
    await wire.create("alice~s", key=ALICE)
    request = s.RewindSessionRequest(session_id="alice~s", seq=1)
    assert (await wire.call("RewindSession", request, key=ALICE)).version == 2
    assert (await wire.failure("RewindSession", request, key=BOB)).reason == "SESSION_NOT_FOUND"


async def test_places_are_any_ids(wire: Wire) -> None:
    await wire.create("s")
    first, second = "\u732b", "\U0001f408 two"
    messages = [Message(message_id=name, role=Role.ROLE_USER, parts=[Part(text=name)]) for name in (first, second)]
    await wire.call("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=messages))
    assert (await rewind(wire, before_message_id=second, request_id="r")).message_count == 1
    assert (await rewind(wire, before_message_id=second, request_id="r")).version == 4
    assert (await rewind(wire, message_id=second)).message_count == 2
    assert (await rewind(wire, before_message_id=first)).message_count == 0


async def test_what_is_hidden_is_not_the_callers_to_say(wire: Wire) -> None:
    claimed = Session(session_id="s", status=SessionStatus.SESSION_STATUS_ACTIVE)
    claimed.rewound.add(first_seq=1, last_seq=9)
    made = await wire.call("CreateSession", s.CreateSessionRequest(session=claimed))
    assert not made.rewound
    said = Message(role=Role.ROLE_USER, rewound=True, parts=[Part(text="one")])
    await wire.call("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=[said]))
    listed = await wire.call("ListMessages", m.ListMessagesRequest(session_id="s", include_rewound=True))
    assert [message.rewound for message in listed.messages] == [False]
    update = s.UpdateSessionRequest(session=claimed, update_mask=FieldMask(paths=["rewound"]))
    assert (await wire.failure("UpdateSession", update)).reason == "INVALID_FIELD"
