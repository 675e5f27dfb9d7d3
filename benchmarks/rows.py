"""What the rows send: prepared requests against a site that was filled for them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message as Proto

from benchmarks.load import CALL_MARK, RUN_MARK, Script, Step
from benchmarks.site import Site, message, new_session
from sessiond.formats.chat import from_chat
from sessiond.v1.context_service_pb2 import GetContextRequest
from sessiond.v1.document_pb2 import Document, DocumentScope, DocumentWrite
from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.message_service_pb2 import (
    AppendMessagesRequest,
    DeleteMessagesRequest,
    ListMessagesRequest,
    MessageFilter,
    MessageOrder,
)
from sessiond.v1.session_pb2 import Consistency, Session, SessionView
from sessiond.v1.session_service_pb2 import (
    CreateSessionRequest,
    ForkSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
    SessionUpdate,
    StructUpdate,
    UpdateSessionRequest,
)

SESSIONS = 256
"""That a row's callers spread over: several per caller, so that they meet in batches but rarely on one session."""


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    title: str
    scripts: Callable[[Site], Sequence[Script]]
    """Fills the site with what the row needs."""
    messages_per_call: int = 0
    target: float | None = None
    """Least ratio to the ceiling, by the design."""
    protocol: str = "grpc"
    """Of the calls, as of Pressure; the ceiling's are plain calls."""
    cached: bool = False
    """Answered by the cache: measured without one too, for what that saves the database."""


_SERVICES = {
    "AppendMessages": "MessageService",
    "DeleteMessages": "MessageService",
    "GetContext": "ContextService",
    "ListMessages": "MessageService",
}
"""Of the methods that SessionService does not have."""


def step(method: str, request: Proto) -> Step:
    service = _SERVICES.get(method, "SessionService")
    return Step(f"/sessiond.v1.{service}/{method}", request.SerializeToString())


def get_session(session_id: str) -> Step:
    return step("GetSession", GetSessionRequest(session_id=session_id))


def append(session_id: str, count: int) -> Step:
    request = AppendMessagesRequest(
        session_id=session_id, messages=[message(number) for number in range(count)], request_id=CALL_MARK
    )
    return step("AppendMessages", request)


def append_with_state(session_id: str, documents: int) -> Step:
    """A message, one key of the session's state, and up to three documents, as a framework writes a turn."""
    state = Session()
    state.state.update({"step": CALL_MARK})
    scopes = (
        (DocumentScope.DOCUMENT_SCOPE_AGENT, "bench"),
        (DocumentScope.DOCUMENT_SCOPE_USER, f"user-{session_id.rpartition('-')[2]}"),  # see site.new_session
        (DocumentScope.DOCUMENT_SCOPE_SESSION, session_id),
    )
    request = AppendMessagesRequest(
        session_id=session_id,
        messages=[message(0)],
        update=SessionUpdate(
            session=state,
            update_mask=FieldMask(paths=["state"]),
            struct_update=StructUpdate.STRUCT_UPDATE_SET_KEYS,
        ),
        documents=[
            DocumentWrite(put=Document(scope=scope, scope_id=scope_id, key=session_id[-16:], json=f'"{CALL_MARK}"'))
            for scope, scope_id in scopes[:documents]
        ],
        request_id=CALL_MARK,
    )
    return step("AppendMessages", request)


def set_key(session_id: str) -> Step:
    """One key of the state gets another value; the answer has no content."""
    session = Session(session_id=session_id)
    session.state.update({"step": CALL_MARK})
    request = UpdateSessionRequest(
        session=session,
        update_mask=FieldMask(paths=["state"]),
        struct_update=StructUpdate.STRUCT_UPDATE_SET_KEYS,
        view=SessionView.SESSION_VIEW_BASIC,
        request_id=CALL_MARK,
    )
    return step("UpdateSession", request)


def list_messages(session_id: str, count: int = 50) -> Step:
    newest = MessageOrder.MESSAGE_ORDER_NEWEST_FIRST
    return step("ListMessages", ListMessagesRequest(session_id=session_id, page_size=count, order_by=newest))


def get_context(session_id: str) -> Step:
    """What fits into 1 000 tokens of it, which is most of the newest 60 messages."""
    return step("GetContext", GetContextRequest(session_id=session_id, max_tokens=1000))


def find_messages(session_id: str) -> Step:
    """Those with a label that `growth.measure_finds` gave them."""
    request = ListMessagesRequest(session_id=session_id, page_size=50, filter=MessageFilter(labels={"topic": "tea"}))
    return step("ListMessages", request)


def pop(session_id: str) -> Step:
    request = DeleteMessagesRequest(session_id=session_id, last_n=1, return_messages=True, request_id=CALL_MARK)
    return step("DeleteMessages", request)


def fork(session_id: str, seq: int) -> Step:
    return step("ForkSession", ForkSessionRequest(session_id=session_id, seq=seq))


def get_session_as_of(session_id: str, seq: int) -> Step:
    return step("GetSession", GetSessionRequest(session_id=session_id, as_of_seq=seq))


def list_messages_from_database(session_id: str, count: int = 50) -> Step:
    request = ListMessagesRequest(
        session_id=session_id,
        page_size=count,
        order_by=MessageOrder.MESSAGE_ORDER_NEWEST_FIRST,
        consistency=Consistency.CONSISTENCY_STRONG,
    )
    return step("ListMessages", request)


def list_sessions(count: int = 20) -> Step:
    return step("ListSessions", ListSessionsRequest(page_size=count))


def _gets(site: Site) -> Sequence[Script]:
    return [[get_session(one)] for one in site.fresh("get", SESSIONS, messages=2)]


def _creates(site: Site) -> Sequence[Script]:
    return [
        [step("CreateSession", CreateSessionRequest(session=new_session("", number), request_id=CALL_MARK))]
        for number in range(SESSIONS)
    ]


def _appends(count: int) -> Callable[[Site], Sequence[Script]]:
    return lambda site: [[append(one, count)] for one in site.fresh(f"append{count}", SESSIONS)]


def _lists(site: Site) -> Sequence[Script]:
    return [[list_messages(one)] for one in site.fresh("list", SESSIONS, messages=60)]


def _contexts(site: Site) -> Sequence[Script]:
    return [[get_context(one)] for one in site.fresh("context", SESSIONS, messages=60)]


def _session_lists(site: Site) -> Sequence[Script]:
    site.fresh("listed", 1000)
    return [[list_sessions()]]


def _updates(site: Site) -> Sequence[Script]:
    scripts = []
    for number, one in enumerate(site.fresh("update", SESSIONS)):
        session = Session(session_id=one, name=f"Renamed {number}")
        session.metadata.update({"locale": "en-GB", "customer": f"c-{number}", "rating": 4})
        mask = FieldMask(paths=["name", "metadata"])
        request = UpdateSessionRequest(session=session, update_mask=mask, request_id=CALL_MARK)
        scripts.append([step("UpdateSession", request)])
    return scripts


def _chats(conversations: Path) -> Callable[[Site], Sequence[Script]]:
    """Each script is one conversation as an agent lives it: every turn of the model reads the history first."""
    lines = conversations.read_text().splitlines()
    chats = [[from_chat(turn) for turn in json.loads(line)["messages"]] for line in lines if line.strip()]
    return lambda site: [_chat(chat) for chat in chats]


def _chat(turns: Sequence[Message]) -> Script:
    steps = [step("CreateSession", CreateSessionRequest(session=new_session(RUN_MARK), request_id=CALL_MARK))]
    for turn in turns:
        if turn.role == Role.ROLE_ASSISTANT:
            steps.append(list_messages(RUN_MARK))
        request = AppendMessagesRequest(session_id=RUN_MARK, messages=[turn], request_id=CALL_MARK)
        steps.append(step("AppendMessages", request))
    steps.append(get_session(RUN_MARK))
    return steps


def rows(conversations: Path) -> Sequence[Row]:
    """All rows but the ceiling itself and growth."""
    return (
        Row("get_session", "GetSession", _gets, target=0.80, cached=True),
        Row("create_session", "CreateSession", _creates),
        Row("append_1", "AppendMessages(1)", _appends(1), messages_per_call=1, target=0.60),
        Row("append_10", "AppendMessages(10)", _appends(10), messages_per_call=10),
        Row("append_100", "AppendMessages(100)", _appends(100), messages_per_call=100),
        Row("list_messages_50", "ListMessages(50)", _lists, target=0.60, cached=True),
        Row("get_context", "GetContext", _contexts, target=0.50, cached=True),
        Row("list_sessions_20", "ListSessions(20)", _session_lists),
        Row("update_session", "UpdateSession", _updates),
        Row("chat_mix", "chat mix", _chats(conversations)),
        Row("pipe_get_session", "GetSession, pipe", _gets, target=4.0, protocol="pipe"),
        Row("pipe_create_session", "CreateSession, pipe", _creates, target=1.0, protocol="pipe"),
        Row("pipe_append_1", "AppendMessages(1), pipe", _appends(1), messages_per_call=1, target=1.5, protocol="pipe"),
        Row("pipe_chat_mix", "chat mix, pipe", _chats(conversations), protocol="pipe"),
    )
