"""What each RPC accepts: both sides of each rule, the defaults, and that only InvalidFields is ever raised."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message as Proto
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessiond.v1 import context_service_pb2 as context
from sessiond.v1 import document_service_pb2 as documents
from sessiond.v1 import message_service_pb2 as messages
from sessiond.v1 import retention_service_pb2 as retention
from sessiond.v1 import run_service_pb2 as runs
from sessiond.v1 import search_service_pb2 as searches
from sessiond.v1 import session_service_pb2 as sessions
from sessiond.v1 import template_service_pb2 as templates
from sessiond.v1 import tool_call_service_pb2 as tool_calls
from sessiond.v1 import usage_service_pb2 as usage
from sessiond.v1.document_pb2 import Document, DocumentScope
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2 import MessageFilter
from sessiond.v1.run_pb2 import RunStatus
from sessiond.v1.session_pb2 import (
    AgentMode,
    EndReason,
    Session,
    SessionConfig,
    SessionStatus,
    SessionType,
    TokenUsage,
)
from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder, StructUpdate
from sessiond_server.domain import commands
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.ids import own_prefix
from sessiond_server.errors import InvalidFields
from sessiond_server.rpc import fields
from sessiond_server.rpc.context import checks as context_requests
from sessiond_server.rpc.documents import checks as document_requests
from sessiond_server.rpc.messages import checks as message_requests
from sessiond_server.rpc.retention import checks as retention_requests
from sessiond_server.rpc.runs import checks as run_requests
from sessiond_server.rpc.search import checks as search_requests
from sessiond_server.rpc.sessions import branches as branch_requests
from sessiond_server.rpc.sessions import checks as requests
from sessiond_server.rpc.sessions import erasures as erasure_requests
from sessiond_server.rpc.templates import checks as template_requests
from sessiond_server.rpc.tool_calls import checks as tool_call_requests
from sessiond_server.rpc.usage import checks as usage_requests
from tests.support.effort import examples
from tests.support.rows import table

TENANT = Scope("tenant")
BOUND = Scope("tenant", "ada")
MIB = 1024 * 1024
DAY = 24 * 3600

FUNCTIONS: dict[str, Callable[[Any], object]] = {
    "CreateSession": lambda request: requests.create_session(request, TENANT),
    "GetSession": requests.get_session,
    "BatchGetSessions": requests.batch_get_sessions,
    "ListSessions": requests.list_sessions,
    "CountSessions": requests.count_sessions,
    "UpdateSession": requests.update_session,
    "ActivateSession": requests.activate_session,
    "SuspendSession": requests.suspend_session,
    "ResumeSession": requests.resume_session,
    "EndSession": requests.end_session,
    "TouchSession": requests.touch_session,
    "ForkSession": lambda request: branch_requests.fork_session(request, TENANT)[1],
    "ListForks": branch_requests.list_forks,
    "RewindSession": branch_requests.rewind_session,
    "DeleteSession": requests.delete_session,
    "EraseUser": lambda request: erasure_requests.erase_user(request, TENANT),
    "GetErasure": lambda request: erasure_requests.get_erasure(request, TENANT),
    "BatchDeleteSessions": requests.batch_delete_sessions,
    "BatchCreateSessions": lambda request: requests.batch_create_sessions(request, TENANT),
    "BatchUpdateSessions": requests.batch_update_sessions,
    "GetSessionMetrics": fields.named_read,
    "CreateSessionToken": requests.create_session_token,
    "AppendMessages": lambda request: message_requests.append_messages(request, TENANT),
    "GetMessage": lambda request: fields.named_read(request, "message_id"),
    "ListMessages": message_requests.list_messages,
    "RedactMessage": message_requests.redact_message,
    "DeleteMessages": message_requests.delete_messages,
    "BeginRun": run_requests.begin_run,
    "HeartbeatRun": run_requests.heartbeat_run,
    "FinishRun": run_requests.finish_run,
    "CancelRun": run_requests.cancel_run,
    "GetRun": lambda request: fields.named_read(request, "run_id"),
    "ListRuns": run_requests.list_runs,
    "RequestToolCall": tool_call_requests.request_tool_call,
    "ApproveToolCall": tool_call_requests.approve_tool_call,
    "RejectToolCall": tool_call_requests.reject_tool_call,
    "StartToolCall": tool_call_requests.start_tool_call,
    "CompleteToolCall": tool_call_requests.complete_tool_call,
    "FailToolCall": tool_call_requests.fail_tool_call,
    "CancelToolCall": tool_call_requests.cancel_tool_call,
    "GetToolCall": lambda request: fields.named_read(request, "tool_call_id"),
    "ListToolCalls": tool_call_requests.list_tool_calls,
    "ListPendingApprovals": tool_call_requests.list_pending_approvals,
    "GetDocument": lambda request: document_requests.get_document(request, TENANT),
    "BatchGetDocuments": lambda request: document_requests.batch_get_documents(request, TENANT),
    "PutDocument": lambda request: document_requests.put_document(request, TENANT),
    "SearchMessages": search_requests.search_messages,
    "SearchSessions": search_requests.search_sessions,
    "GetTemplate": template_requests.get_template,
    "PutTemplate": lambda request: template_requests.put_template(request, TENANT),
    "ListTemplates": template_requests.list_templates,
    "DeleteTemplate": lambda request: template_requests.delete_template(request, TENANT),
    "GetUsage": lambda request: usage_requests.get_usage(request, TENANT),
    "PlaceHold": retention_requests.place_hold,
    "LiftHold": retention_requests.lift_hold,
    "ListHolds": retention_requests.list_holds,
    "VerifyErasureReport": retention_requests.verify_erasure_report,
    "ListErasures": erasure_requests.list_erasures,
    "SetRetentionPolicy": retention_requests.set_retention_policy,
    "GetRetentionPolicy": retention_requests.get_retention_policy,
    "ListDocuments": lambda request: document_requests.list_documents(request, TENANT),
    "CreateSummary": context_requests.create_summary,
    "RequestSummary": context_requests.request_summary,
    "GetContext": lambda request: context_requests.get_context(request)[1],
    "ListSummaries": context_requests.list_summaries,
    "DeleteDocument": lambda request: document_requests.delete_document(request, TENANT),
}

METHODS = {
    method.name: method
    for service in (
        sessions.DESCRIPTOR.services_by_name["SessionService"],
        messages.DESCRIPTOR.services_by_name["MessageService"],
        runs.DESCRIPTOR.services_by_name["RunService"],
        tool_calls.DESCRIPTOR.services_by_name["ToolCallService"],
        documents.DESCRIPTOR.services_by_name["DocumentService"],
        context.DESCRIPTOR.services_by_name["ContextService"],
        searches.DESCRIPTOR.services_by_name["SearchService"],
        templates.DESCRIPTOR.services_by_name["TemplateService"],
        usage.DESCRIPTOR.services_by_name["UsageService"],
        retention.DESCRIPTOR.services_by_name["RetentionService"],
    )
    for method in service.methods
}


def request_class(rpc: str) -> type[Proto]:
    return GetMessageClass(METHODS[rpc].input_type)


def minimal(rpc: str) -> Any:
    """A request that is accepted."""
    request: Any = request_class(rpc)()
    fields = request.DESCRIPTOR.fields_by_name
    if "session_id" in fields:
        request.session_id = "s"
    if rpc in ("EraseUser", "GetErasure"):
        request.user_id = "u"
    if rpc == "PlaceHold":
        request.reason = "r"
    if rpc == "VerifyErasureReport":
        request.report.json = "{}"
    if rpc == "SetRetentionPolicy":
        request.policy.SetInParent()
    if rpc == "LiftHold":
        request.hold_id = "h"
    if "template_id" in fields and rpc != "CreateSession":
        request.template_id = "t"
    if "template" in fields:
        request.template.template_id = "t"
    if "session_ids" in fields:
        request.session_ids.append("s")
    if "scope" in fields:
        request.scope = DocumentScope.DOCUMENT_SCOPE_TENANT
    if "key" in fields:
        request.key = "k"
    if "document" in fields:
        request.document.CopyFrom(Document(scope=DocumentScope.DOCUMENT_SCOPE_TENANT, key="k", json="1"))
    if "names" in fields:
        request.names.add(scope=DocumentScope.DOCUMENT_SCOPE_TENANT, key="k")
    if "query" in fields:
        request.query = "word"
    if "message_id" in fields:
        request.message_id = "m"
    if "last_n" in fields:
        request.last_n = 1
    if "messages" in fields:
        request.messages.add(role=Role.ROLE_USER)
    if "sessions" in fields:
        request.sessions.add().session.session_id = "s"
    if "updates" in fields:
        request.updates.add().session.CopyFrom(Session(session_id="s", name="n"))
    if "session" in fields:
        request.session.session_id = "s"
        request.session.name = "n"
    if "run_id" in fields and rpc != "ListToolCalls":
        request.run_id = "r"
    if "summary" in fields:
        request.summary.through_seq = 1
        request.summary.text = "t"
    if "tool_call_id" in fields:
        request.tool_call_id = "t"
    if "tool_call" in fields:
        request.tool_call.name = "search"
    if rpc in ("HeartbeatRun", "FinishRun"):
        request.run.run_id, request.run.fence = "r", 2
    if "status" in fields:
        request.status = RunStatus.RUN_STATUS_FAILED
    if rpc == "FailToolCall":
        request.error.code = "broken"
    return request


def faults(rpc: str, request: Any) -> list[str]:
    """Paths of the violations; checks that the request is left as it was."""
    before = request.SerializeToString(deterministic=True)
    try:
        FUNCTIONS[rpc](request)
    except InvalidFields as error:
        return [violation.field for violation in error.violations]
    finally:
        assert request.SerializeToString(deterministic=True) == before
    return []


def changed(rpc: str, **fields: Any) -> Any:
    """The minimal request with other values in some fields; None clears."""
    request = minimal(rpc)
    for name, value in fields.items():
        request.ClearField(name)
        if value is not None:
            request.MergeFrom(type(request)(**{name: value}))
    return request


def test_every_rpc_has_a_function() -> None:
    assert FUNCTIONS.keys() == METHODS.keys()


@pytest.mark.parametrize("rpc", METHODS)
def test_minimal_request_is_accepted(rpc: str) -> None:
    assert faults(rpc, minimal(rpc)) == []


# The rules that many requests share, by field name.
SHARED: dict[str, list[tuple[Any, bool]]] = {
    "session_id": [
        ("a" * 255, True),
        ("a" * 256, False),
        ("", False),
        ("a b", True),
        ("a ", False),
        ("a\0", False),
        ("é", True),
    ],
    "message_id": [("a" * 255, True), ("", False), ("a/b", True), ("\u3000a", False)],
    "request_id": [("", True), ("Az0._:~-", True), ("a" * 128, True), ("a" * 129, False), ("!a", False), ("\0", False)],
    "expected_version": [(0, True), (2**63 - 1, True), (-1, False)],
    "min_version": [(0, True), (2**63 - 1, True), (-1, False)],
    "min_versions": [([], True), ([1] * 101, False)],
    "after_seq": [(0, True), (-1, False)],
    "before_seq": [(0, True), (-(2**63), False)],
    "consistency": [(0, True), (2, True), (3, False), (-1, False)],
    "view": [(0, True), (2, True), (3, False)],
    "page_size": [(0, True), (2**31 - 1, True), (-1, False)],
    "session_ids": [(["a", "b"], True), ([f"i{n}" for n in range(100)], True)],
    "struct_update": [(2, True), (3, True), (4, False)],
    "expected_versions": [([], True), ([1], True), ([-1], False), ([1, 1], False)],
    "no_expiry": [(False, True), (True, True)],
    "reuse_deleted": [(False, True), (True, True)],
    "remove_keys": [([], True), (["state.a"], False)],
}

SHARED_CASES = [
    (rpc, field.name, value, good)
    for rpc, method in METHODS.items()
    for field in method.input_type.fields
    # test_search_requests.py; tests/rpc/test_bad_input.py
    if not ((rpc.startswith("Search") or rpc == "ListHolds") and field.name == "session_id")
    for value, good in SHARED.get(field.name, [])
]


def test_shared_rules() -> None:
    with table() as rows:
        for rpc, field, value, good in SHARED_CASES:
            with rows.row(rpc, field, value):
                found = [path.partition("[")[0] for path in faults(rpc, changed(rpc, **{field: value}))]
                assert found == ([] if good else [field])


def test_every_field_of_a_request_has_a_table() -> None:
    own = {
        "session",
        "sessions",
        "update",
        "updates",
        "messages",
        "filter",
        "order_by",
        "update_mask",
        "reason",
        "extend",
        "page_token",
    }
    # test_fork_requests.py
    own |= {"seq", "fork_session_id"}
    # test_rewind_requests.py
    own |= {"before_message_id", "state", "include_rewound"}
    # test_work_requests.py
    own |= {"runs", "run", "run_id", "policy", "status", "statuses", "error", "usage", "model", "user_id"}
    own |= {"tool_call", "tool_call_id", "approver", "result", "approval_ttl"}
    # tests/rpc/test_bad_input.py
    own |= {"hold_id", "include_lifted", "report"}
    # test_summaries.py
    own |= {"summary", "keep_messages"}
    # test_context.py
    own |= {
        "max_tokens",
        "max_messages",
        "include_thinking",
        "omit_system_prompt",
        "max_tool_result_tokens",
    }
    own |= {"as_of_seq", "as_of_time"}  # tests/rpc/test_history.py
    # test_delete_messages
    own |= {"ids", "range", "last_n", "return_messages"}
    own |= {"access", "ttl"}  # test_session_tokens.py
    # test_search_requests.py
    own |= {"query", "roles", "time_from", "time_until", "wait_for"}
    # tests/rpc/test_documents.py
    own |= {"document", "documents", "names", "scope", "scope_id", "key", "key_prefix", "labels", "omit_values"}
    own |= {"first_day", "last_day", "agent_id", "group_by"}  # tests/rpc/test_usage.py
    own |= {"template", "template_id"}  # tests/rpc/test_templates.py
    fields = {field.name for method in METHODS.values() for field in method.input_type.fields}
    assert fields == own | SHARED.keys()


FILTERS: list[tuple[Any, ...]] = [
    ("type", SessionFilter(type=3), SessionFilter(type=4)),  # type: ignore[arg-type]
    ("component_id", SessionFilter(component_id="a" * 255), SessionFilter(component_id="a" * 256)),
    ("agent_id", SessionFilter(agent_id="a b"), SessionFilter(agent_id="a\n")),
    ("team_id", SessionFilter(team_id="é"), SessionFilter(team_id="\0")),
    ("workflow_id", SessionFilter(workflow_id="w"), SessionFilter(workflow_id="\x7f")),
    ("user_id", SessionFilter(user_id="u"), SessionFilter(user_id="u" * 256)),
    ("statuses", SessionFilter(statuses=[1, 2, 3, 4]), SessionFilter(statuses=[1, 2, 3, 4, 1])),  # type: ignore[list-item]
    ("statuses[1]", SessionFilter(statuses=[1, 4]), SessionFilter(statuses=[1, 0])),  # type: ignore[list-item]
    ("statuses[0]", SessionFilter(statuses=[1]), SessionFilter(statuses=[5])),  # type: ignore[list-item]
    ("name_contains", SessionFilter(name_contains="語" * 200), SessionFilter(name_contains="a" * 201)),
    ("name_contains", SessionFilter(name_contains="%_\\"), SessionFilter(name_contains="\0")),
    ("labels", *(SessionFilter(labels={f"k{i}": "" for i in range(n)}) for n in (16, 17))),
    ('labels["a b"]', SessionFilter(labels={"a/b": "x"}), SessionFilter(labels={"a b": "x"})),
    ('labels["a"]', SessionFilter(labels={"a": "x" * 255}), SessionFilter(labels={"a": "x" * 256})),
    (
        "create_time_until",
        SessionFilter(create_time_from=Timestamp(seconds=5), create_time_until=Timestamp(seconds=5, nanos=1)),
        SessionFilter(create_time_from=Timestamp(seconds=5), create_time_until=Timestamp(seconds=5)),
    ),
    (
        "update_time_until",
        SessionFilter(update_time_from=Timestamp(), update_time_until=Timestamp(seconds=1)),
        SessionFilter(update_time_from=Timestamp(seconds=1), update_time_until=Timestamp()),
    ),
    ("create_time_from", SessionFilter(), SessionFilter(create_time_from=Timestamp(nanos=-1))),
    ("update_time_until", SessionFilter(), SessionFilter(update_time_until=Timestamp(seconds=2**60))),
]


@pytest.mark.parametrize("rpc", ["ListSessions", "CountSessions"])
@pytest.mark.parametrize(("path", "good", "bad"), FILTERS)
def test_filter(rpc: str, path: str, good: SessionFilter, bad: SessionFilter) -> None:
    assert faults(rpc, changed(rpc, filter=good)) == []
    assert faults(rpc, changed(rpc, filter=bad)) == [f"filter.{path}"]


def test_filter_by_metadata() -> None:
    where = SessionFilter()
    where.metadata["x"] = "y" * 4000
    where.metadata.fields["x"].string_value += "y" * (4096 - where.metadata.ByteSize())
    assert where.metadata.ByteSize() == 4096
    assert faults("CountSessions", changed("CountSessions", filter=where)) == []
    where.metadata.fields["x"].string_value += "y"
    assert faults("CountSessions", changed("CountSessions", filter=where)) == ["filter.metadata"]
    where.metadata.Clear()
    where.metadata["x"] = float("nan")
    assert faults("CountSessions", changed("CountSessions", filter=where)) == ['filter.metadata.fields["x"]']


@pytest.mark.parametrize(
    ("rpc", "field", "most"),
    [("ListSessions", "order_by", 6), ("ListMessages", "order_by", 2), ("EndSession", "reason", 4)],
)
def test_own_enums(rpc: str, field: str, most: int) -> None:
    assert faults(rpc, changed(rpc, **{field: most})) == []
    assert faults(rpc, changed(rpc, **{field: most + 1})) == [field]
    assert faults(rpc, changed(rpc, **{field: -1})) == [field]


@pytest.mark.parametrize("rpc", ["BatchGetSessions", "BatchDeleteSessions"])
@pytest.mark.parametrize(
    ("ids", "paths"),
    [
        ([], ["session_ids"]),
        ([f"i{n}" for n in range(101)], ["session_ids"]),
        (["a", "b", "a", "c", "b"], ["session_ids[2]", "session_ids[4]"]),
        (["a", ""], ["session_ids[1]"]),
        (["", ""], ["session_ids[0]", "session_ids[1]"]),
    ],
)
def test_batch_ids(rpc: str, ids: list[str], paths: list[str]) -> None:
    assert faults(rpc, changed(rpc, session_ids=ids)) == paths


# Reads: the defaults.


@pytest.mark.parametrize(("view", "full"), [(0, True), (1, False), (2, True)])
def test_get_session_reads_full_by_default(view: Any, full: bool) -> None:
    assert requests.get_session(changed("GetSession", view=view)) == requests.SessionRead(full, strong=False)


@pytest.mark.parametrize(("view", "full"), [(0, False), (1, False), (2, True)])
def test_batches_and_lists_read_basic_by_default(view: Any, full: bool) -> None:
    read = requests.batch_get_sessions(changed("BatchGetSessions", view=view))
    assert read == requests.SessionRead(full, strong=False)
    assert requests.list_sessions(changed("ListSessions", view=view)).full is full


@pytest.mark.parametrize(("consistency", "strong"), [(0, False), (1, False), (2, True)])
def test_reads_are_cached_by_default(consistency: Any, strong: bool) -> None:
    reads = {rpc for rpc, method in METHODS.items() if "consistency" in method.input_type.fields_by_name}
    reads -= {
        "GetRun",
        "ListRuns",
        "GetToolCall",
        "ListToolCalls",
        "ListSummaries",
        "ListForks",
    }  # of which there are no copies
    answers: dict[str, Any] = {rpc: FUNCTIONS[rpc](changed(rpc, consistency=consistency)) for rpc in reads}
    assert {rpc: answer.strong for rpc, answer in answers.items()} == dict.fromkeys(reads, strong)


@pytest.mark.parametrize(("asked", "limit"), [(0, 20), (1, 1), (100, 100), (101, 100), (2**31 - 1, 100)])
def test_page_of_sessions(asked: int, limit: int) -> None:
    assert requests.list_sessions(changed("ListSessions", page_size=asked)).limit == limit


@pytest.mark.parametrize(("asked", "limit"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000)])
def test_page_of_messages(asked: int, limit: int) -> None:
    assert message_requests.list_messages(changed("ListMessages", page_size=asked)).limit == limit


def test_orders() -> None:
    assert requests.list_sessions(minimal("ListSessions")).order_by == SessionOrder.SESSION_ORDER_CREATE_TIME_DESC
    by_name = changed("ListSessions", order_by=SessionOrder.SESSION_ORDER_NAME_ASC)
    assert requests.list_sessions(by_name).order_by == SessionOrder.SESSION_ORDER_NAME_ASC
    assert [
        message_requests.list_messages(changed("ListMessages", order_by=order)).descending for order in (0, 1, 2)
    ] == [
        False,
        False,
        True,
    ]


# CreateSession.


def create(session: Session, scope: Scope = TENANT, request_id: str = "") -> Session:
    request = sessions.CreateSessionRequest(session=session, request_id=request_id)
    before = request.SerializeToString(deterministic=True)
    action = requests.create_session(request, scope, lambda: "made")
    assert request.SerializeToString(deterministic=True) == before
    return action.session


def test_create_fills_in_the_defaults() -> None:
    assert create(Session()) == Session(
        session_id="made",
        type=SessionType.SESSION_TYPE_AGENT,
        agent_mode=AgentMode.AGENT_MODE_GENERAL,
        status=SessionStatus.SESSION_STATUS_CREATED,
    )


def test_create_keeps_what_is_set() -> None:
    session = Session(
        session_id="mine",
        type=SessionType.SESSION_TYPE_WORKFLOW,
        workflow_id="w",
        user_id="ada",
        agent_mode=AgentMode.AGENT_MODE_PLAN,
        name="n",
        status=SessionStatus.SESSION_STATUS_ACTIVE,
        labels={"a": "b"},
        ttl=Duration(seconds=5),
        summary="s",
        config=SessionConfig(max_messages=3),
    )
    session.state["x"] = [1, {"y": None}]
    assert create(session) == session
    session.session_id = f"ada~{session.session_id}"
    assert create(session, BOUND) == session


def test_create_ignores_output_only_fields() -> None:
    session = Session(
        session_id="s",
        end_reason=EndReason.END_REASON_FAILED,
        usage=TokenUsage(input_tokens=-1),
        version=9,
        content_version=9,
        request_count=9,
        message_count=9,
        run_count=9,
        create_time=Timestamp(nanos=-1),
        update_time=Timestamp(seconds=1),
        last_activity_time=Timestamp(seconds=1),
        end_time=Timestamp(seconds=1),
    )
    assert create(session) == create(Session(session_id="s"))


def test_create_makes_an_id_that_a_retry_makes_again() -> None:
    first = create(Session(), request_id="r").session_id
    assert first not in ("", "made")
    assert create(Session(name="n"), request_id="r").session_id == first
    assert create(Session(), request_id="q").session_id != first
    assert create(Session(), Scope("other"), request_id="r").session_id != first
    assert create(Session(session_id="mine"), request_id="r").session_id == "mine"


def test_create_for_a_bound_key() -> None:
    assert create(Session(), BOUND).user_id == "ada"
    with pytest.raises(InvalidFields) as refused:
        create(Session(user_id="bob"), BOUND)
    assert [violation.field for violation in refused.value.violations] == ["session.user_id"]
    assert create(Session(user_id="bob")).user_id == "bob"


def test_create_needs_a_session() -> None:
    assert faults("CreateSession", changed("CreateSession", session=None)) == ["session"]
    assert faults("CreateSession", changed("CreateSession", session=Session())) == []


# UpdateSession.


def update(session: Session, *mask: str, struct_update: StructUpdate.ValueType | int = 0) -> commands.UpdateSession:
    request = sessions.UpdateSessionRequest(session=session, struct_update=struct_update)  # type: ignore[arg-type]
    if mask:
        request.update_mask.paths.extend(mask)
    before = request.SerializeToString(deterministic=True)
    action = requests.update_session(request)
    assert request.SerializeToString(deterministic=True) == before
    return action


def update_faults(session: Session, *mask: str) -> list[str]:
    return faults("UpdateSession", sessions.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=mask)))


MUTABLE = "agent_id team_id workflow_id agent_mode name labels ttl expire_time metadata state agent_data summary config"
CONFIG = "max_messages max_attachments max_attachment_bytes allowed_tools blocked_tools system_prompt"


@pytest.mark.parametrize("path", [*MUTABLE.split(), *(f"config.{name}" for name in CONFIG.split())])
def test_update_of_every_field_that_can_be_updated(path: str) -> None:
    assert list(update(Session(session_id="s"), path).paths) == [path]


@pytest.mark.parametrize(
    "path",
    [
        *requests.OUTPUT_ONLY,
        *("status", "session_id", "type", "user_id", "usage.input_tokens"),
        *("", "*", "nope", "max_messages", "metadata.x", "labels.a", "agentId", "Name", "name "),
        *("config.", "config.nope", "config.config", "config.max_messages.x"),
    ],
)
def test_update_refuses_other_paths(path: str) -> None:
    assert update_faults(Session(session_id="s"), "name", "state", path) == ["update_mask.paths[2]"]


def test_update_says_why_a_path_is_refused() -> None:
    with pytest.raises(InvalidFields) as refused:
        update(Session(session_id="s"), "user_id", "status", "nope")
    assert [violation.description for violation in refused.value.violations] == [
        "is immutable",
        "is output only",
        "must be a field that an update may write",
    ]


def test_update_without_a_mask_writes_what_is_set() -> None:
    session = Session(session_id="s", name="n", user_id="u", version=7, config=SessionConfig(), labels={"a": "b"})
    session.metadata.CopyFrom(Struct())
    assert sorted(update(session).paths) == ["config", "labels", "metadata", "name"]


@pytest.mark.parametrize("session", [Session(session_id="s"), Session(session_id="s", user_id="u", version=3)])
def test_update_of_nothing_is_refused(session: Session) -> None:
    assert update_faults(session) == ["update_mask"]


def test_update_paths_are_unique_and_a_whole_config_stands_for_its_fields() -> None:
    session = Session(session_id="s")
    assert list(update(session, "state", "name", "state").paths) == ["state", "name"]
    assert list(update(session, "config.max_messages", "config", "name").paths) == ["config", "name"]


def test_update_checks_only_what_it_writes() -> None:
    bad = Session(
        session_id="s", agent_id="\n", name="a" * 201, config=SessionConfig(max_messages=-1, max_attachments=-1)
    )
    assert update_faults(bad, "summary") == []
    assert update_faults(bad, "name") == ["session.name"]
    assert update_faults(bad, "config.max_messages") == ["session.config.max_messages"]
    assert update_faults(bad, "config.system_prompt", "agent_id") == ["session.agent_id"]
    assert sorted(update_faults(bad)) == [
        "session.agent_id",
        "session.config.max_attachments",
        "session.config.max_messages",
        "session.name",
    ]


def test_update_of_ttl_and_expire_time() -> None:
    both = Session(session_id="s", ttl=Duration(seconds=1), expire_time=Timestamp(seconds=1))
    assert update_faults(both, "ttl", "expire_time") == ["session.expire_time"]
    assert update_faults(both) == ["session.expire_time"]
    assert update_faults(both, "ttl") == []
    assert update_faults(both, "expire_time") == []
    neither = Session(session_id="s")
    assert list(update(neither, "ttl", "expire_time").paths) == ["ttl", "expire_time"]
    one = Session(session_id="s", ttl=Duration(seconds=1))
    assert update_faults(one, "ttl", "expire_time") == []


def test_update_needs_a_session_and_its_id() -> None:
    assert faults("UpdateSession", sessions.UpdateSessionRequest(update_mask=FieldMask(paths=["name"]))) == ["session"]
    assert update_faults(Session(), "name") == ["session.session_id"]


def test_update_defaults() -> None:
    session = Session(session_id="s", name="n")
    assert update(session).struct_update == StructUpdate.STRUCT_UPDATE_REPLACE
    assert update(session, struct_update=2).struct_update == StructUpdate.STRUCT_UPDATE_MERGE
    assert update(session, "agent_mode").session.agent_mode == AgentMode.AGENT_MODE_GENERAL
    session.agent_mode = AgentMode.AGENT_MODE_BUILD
    assert update(session, "agent_mode").session.agent_mode == AgentMode.AGENT_MODE_BUILD


# The other mutations.


def test_end_session() -> None:
    assert requests.end_session(minimal("EndSession")).reason == EndReason.END_REASON_CLIENT
    failed = changed("EndSession", reason=EndReason.END_REASON_FAILED)
    assert requests.end_session(failed).reason == EndReason.END_REASON_FAILED
    assert faults("EndSession", changed("EndSession", reason=EndReason.END_REASON_EXPIRED)) == ["reason"]


def test_touch_session() -> None:
    assert requests.touch_session(minimal("TouchSession")) == commands.TouchSession(0)
    extended = changed("TouchSession", extend=Duration(seconds=2, nanos=1_999))
    assert requests.touch_session(extended) == commands.TouchSession(2_000_001)
    for extend in (Duration(), Duration(seconds=-1), Duration(seconds=3650 * DAY + 1)):
        assert faults("TouchSession", changed("TouchSession", extend=extend)) == ["extend"]
    assert faults("TouchSession", changed("TouchSession", extend=Duration(seconds=3650 * DAY))) == []


def test_actions_without_content() -> None:
    assert requests.activate_session(minimal("ActivateSession")) == commands.ActivateSession()
    assert requests.suspend_session(minimal("SuspendSession")) == commands.SuspendSession()
    assert requests.resume_session(minimal("ResumeSession")) == commands.ResumeSession()
    assert requests.delete_session(minimal("DeleteSession")) == commands.DeleteSession()
    assert requests.batch_delete_sessions(minimal("BatchDeleteSessions")) == commands.DeleteSession()


MESSAGE_FILTERS: list[tuple[MessageFilter, list[str]]] = [
    (MessageFilter(labels={f"k{i}": "x" * 255 for i in range(16)}), []),
    (MessageFilter(labels={f"k{i}": "" for i in range(17)}), ["filter.labels"]),
    (MessageFilter(labels={"a b": ""}), ["filter.labels[...]"]),
    (MessageFilter(labels={"a": "x" * 256}), ["filter.labels[a]"]),
    (MessageFilter(roles=[1, 2, 3, 4]), []),  # type: ignore[list-item]
    (MessageFilter(roles=[1, 2, 3, 4, 4]), ["filter.roles"]),  # type: ignore[list-item]
    (MessageFilter(roles=[1, 0]), ["filter.roles[1]"]),  # type: ignore[list-item]
    (MessageFilter(roles=[5]), ["filter.roles[0]"]),  # type: ignore[list-item]
    (MessageFilter(name="é" * 128, run_id="r"), []),
    (MessageFilter(name="é" * 129), ["filter.name"]),
    (MessageFilter(name="a\n"), ["filter.name"]),
    (MessageFilter(run_id="r\n"), ["filter.run_id"]),
    (MessageFilter(client_time_from=Timestamp(seconds=5), client_time_until=Timestamp(seconds=5, nanos=1)), []),
    (MessageFilter(client_time_from=Timestamp(seconds=5), client_time_until=Timestamp(seconds=5)),
     ["filter.client_time_until"]),
    (MessageFilter(client_time_from=Timestamp(seconds=253_402_300_800)), ["filter.client_time_from"]),
    (MessageFilter(client_time_until=Timestamp(nanos=-1)), ["filter.client_time_until"]),
]  # fmt: skip


@pytest.mark.parametrize(("where", "paths"), MESSAGE_FILTERS)
def test_filter_of_messages(where: MessageFilter, paths: list[str]) -> None:
    found = faults("ListMessages", changed("ListMessages", filter=where))
    assert [path.partition("[")[0] for path in found] == [path.partition("[")[0] for path in paths]


def test_an_empty_filter_of_messages_is_none() -> None:
    assert message_requests.list_messages(changed("ListMessages", filter=MessageFilter())).selection is None
    read = message_requests.list_messages(changed("ListMessages", filter=MessageFilter(name="n")))
    assert read.selection is not None
    assert read.filter != b""


@pytest.mark.parametrize(("fields", "paths"), [
    ({"labels": {f"k{i}": "x" * 240 for i in range(64)}}, []),
    ({"labels": {f"k{i}": "" for i in range(65)}}, ["messages[0].labels"]),
    ({"labels": {f"k{i}": "x" * 255 for i in range(64)}}, ["messages[0].labels"]),
    ({"client_time": Timestamp(seconds=-62_135_596_800)}, []),
    ({"client_time": Timestamp(seconds=253_402_300_799, nanos=999_999_999)}, []),
    ({"client_time": Timestamp(seconds=253_402_300_800)}, ["messages[0].client_time"]),
    ({"client_time": Timestamp(seconds=-62_135_596_801)}, ["messages[0].client_time"]),
    ({"client_time": Timestamp(nanos=1_000_000_000)}, ["messages[0].client_time"]),
])  # fmt: skip
def test_labels_and_client_time_of_a_message(fields: dict[str, Any], paths: list[str]) -> None:
    request = messages.AppendMessagesRequest(session_id="s", messages=[Message(role=Role.ROLE_USER, **fields)])
    assert faults("AppendMessages", request) == paths


def test_client_time_of_a_session() -> None:
    good = Session(client_time=Timestamp(seconds=253_402_300_799))
    bad = Session(client_time=Timestamp(seconds=253_402_300_800))
    assert faults("CreateSession", sessions.CreateSessionRequest(session=good)) == []
    assert faults("CreateSession", sessions.CreateSessionRequest(session=bad)) == ["session.client_time"]


def test_delete_messages() -> None:
    many = tuple(f"m{i}" for i in range(1000))
    for request, action in [
        (changed("DeleteMessages", last_n=1000, return_messages=True), commands.DeleteMessages((), 0, 0, 1000, True)),
        (changed("DeleteMessages", ids=messages.MessageIds(message_ids=many)), commands.DeleteMessages(many)),
        (changed("DeleteMessages", range=messages.SeqRange(from_seq=1, to_seq=1)), commands.DeleteMessages((), 1, 1)),
    ]:
        assert message_requests.delete_messages(request) == action
        assert 4 * 1024 <= message_requests.weight(action) <= 4 * 1024 * 1024
    for last_n in (0, -1, 1001):
        assert faults("DeleteMessages", changed("DeleteMessages", last_n=last_n)) == ["last_n"]


@pytest.mark.parametrize(
    ("keys", "paths"),
    [
        ([f"state.{n}" for n in range(1000)], []),
        ([f"state.{n}" for n in range(1001)], ["remove_keys"]),
        (["state." + "x" * 1018], []),
        (["state." + "x" * 1019], ["remove_keys[0]"]),
        (["state." + "é" * 509], []),
        (["state." + "é" * 509 + "x"], ["remove_keys[0]"]),
    ],
)
def test_keys_to_remove_have_bounds(keys: list[str], paths: list[str]) -> None:
    how = StructUpdate.STRUCT_UPDATE_SET_KEYS
    update = sessions.UpdateSessionRequest(session=Session(session_id="s"), struct_update=how, remove_keys=keys)
    assert faults("UpdateSession", update) == paths


def test_batches_of_updates_and_deletions_have_bounds() -> None:
    def batch(count: int) -> sessions.BatchUpdateSessionsRequest:
        named = (Session(session_id=f"s{n}", name="n") for n in range(count))
        return sessions.BatchUpdateSessionsRequest(updates=[sessions.SessionUpdate(session=one) for one in named])

    assert faults("BatchUpdateSessions", batch(100)) == []
    assert faults("BatchUpdateSessions", batch(101)) == ["updates"]
    for count, paths in ((1000, []), (1001, ["ids.message_ids"])):
        ids = messages.MessageIds(message_ids=[f"m{n}" for n in range(count)])
        assert faults("DeleteMessages", changed("DeleteMessages", ids=ids)) == paths


def test_redact_message() -> None:
    request = changed("RedactMessage", reason="é" * 200)
    assert message_requests.redact_message(request) == commands.RedactMessage("m", "é" * 200)
    assert faults("RedactMessage", changed("RedactMessage", reason="a" * 201)) == ["reason"]
    assert faults("RedactMessage", changed("RedactMessage", reason="\0")) == ["reason"]


# AppendMessages.


def user(text: str = "", message_id: str = "") -> Message:
    return Message(role=Role.ROLE_USER, message_id=message_id, parts=[Part(text=text)])


def append_faults(*items: Message) -> list[str]:
    return faults("AppendMessages", changed("AppendMessages", messages=items))


def test_append_takes_1_to_256_messages() -> None:
    assert append_faults(*[user()] * 256) == []
    assert append_faults() == ["messages"]
    assert append_faults(*[user()] * 257) == ["messages"]
    assert append_faults(*[Message()] * 300) == ["messages"]


def test_append_passes_the_messages_on() -> None:
    request = changed("AppendMessages", messages=[user("a", "x"), user("b")])
    assert list(message_requests.append_messages(request, TENANT).messages) == [user("a", "x"), user("b")]


def test_append_names_the_message_and_the_field() -> None:
    assert append_faults(user(), user(), user(), Message(role=Role.ROLE_USER, parts=[Part(text="a\0")])) == [
        "messages[3].parts[0].text"
    ]
    bad_call = user()
    bad_call.parts.add().tool_call.name = ""
    assert append_faults(user(), bad_call) == ["messages[1].parts[1].tool_call.name"]


def test_append_refuses_an_id_twice() -> None:
    assert append_faults(user("", "a"), user("", "b"), user("", "")) == []
    assert append_faults(user("", "a"), user("", ""), user("", "a")) == ["messages[2].message_id"]


def test_append_takes_3_mib_together() -> None:
    nearly = [user("x" * (MIB - 100)) for _ in range(3)]
    exact = [*nearly, user("x" * 200)]
    exact[-1].parts[0].text += "x" * (3 * MIB - sum(message.ByteSize() for message in exact))
    assert sum(message.ByteSize() for message in exact) == 3 * MIB
    assert append_faults(*exact) == []
    exact[-1].parts[0].text += "x"
    assert append_faults(*exact) == ["messages"]


def test_append_ignores_output_only_fields() -> None:
    request = changed("AppendMessages", messages=[user("a")])
    request.messages[0].redact_time.seconds = 5
    request.messages[0].redact_reason = "\0"
    request.messages[0].seq = -1
    request.messages[0].session_id = "/"
    request.messages[0].create_time.nanos = -1
    assert faults("AppendMessages", request) == []


def test_append_reports_the_first_violations_only() -> None:
    paths = append_faults(*[Message()] * 100)
    assert paths == [f"messages[{n}].role" for n in range(InvalidFields.MOST)]


# Whatever arrives.

STRINGS = st.sampled_from(
    ["", "a", "s", "\0", "é\n", "语", "a" * 129, "x" * 300, "name", "config.max_messages", "status"]
)
INTEGERS = st.sampled_from([0, 1, -1, 2, 5, 999, 2**31 - 1, -(2**31)])
LONGS = INTEGERS | st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, -(2**63), 253_402_300_800])
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: STRINGS,
    FieldDescriptor.TYPE_INT32: INTEGERS,
    FieldDescriptor.TYPE_INT64: LONGS,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_ENUM: INTEGERS,
}


ABSENCE = st.integers(0, 2)
SOME_STRINGS = st.lists(STRINGS, max_size=3)
SOME_SCALARS = {kind: st.lists(value, max_size=3) for kind, value in SCALARS.items()}


@st.composite
def any_message(draw: st.DrawFn, descriptor: Descriptor) -> Any:
    """Any message of a type, valid or not: each field absent or with one of the values worth trying."""
    return drawn(draw, descriptor, 6)


def drawn(draw: st.DrawFn, descriptor: Descriptor, depth: int) -> Any:
    message: Any = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if draw(ABSENCE) == 0:
            fill(draw, message, field, depth)
    return message


def fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    if field.message_type is None:
        if field.is_repeated:
            getattr(message, field.name).extend(draw(SOME_SCALARS[field.type]))
        else:
            setattr(message, field.name, draw(SCALARS[field.type]))
    elif depth == 0:
        return
    elif field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        for key in draw(SOME_STRINGS):
            if entry.message_type is None:
                getattr(message, field.name)[key] = draw(STRINGS)
            else:
                getattr(message, field.name)[key].CopyFrom(drawn(draw, entry.message_type, depth - 1))
    elif field.is_repeated:
        some = draw(st.integers(0, 3))
        getattr(message, field.name).extend(drawn(draw, field.message_type, depth - 1) for _ in range(some))
    else:
        getattr(message, field.name).CopyFrom(drawn(draw, field.message_type, depth - 1))


@pytest.mark.parametrize("rpc", METHODS)
@settings(max_examples=examples(15, 40), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_any_request_is_accepted_or_its_fields_are_named(rpc: str, data: st.DataObject) -> None:
    request = data.draw(any_message(METHODS[rpc].input_type))
    for path in faults(rpc, request):
        assert path.split(".")[0].split("[")[0] in request.DESCRIPTOR.fields_by_name
        assert path.isascii()


@pytest.mark.parametrize("rpc", METHODS)
@settings(max_examples=examples(15, 40))
@given(data=st.data())
def test_any_change_of_bytes_is_accepted_or_its_fields_are_named(rpc: str, data: st.DataObject) -> None:
    raw = bytearray(minimal(rpc).SerializeToString() or b"\x08\x01")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    request = request_class(rpc)()
    try:
        request.ParseFromString(bytes(raw))
    except Exception:
        return  # not a request at all: MALFORMED_REQUEST, which the wire answers
    faults(rpc, request)


def test_a_bound_scope_chooses_ids_of_its_users_own_only() -> None:
    odd = "ünal / 7"
    users = ["ada", "ada.b", "a-b_c", "x" * 64, "x" * 65, "ada~b", "-a", odd, odd.lower() + " "]
    prefixes = [own_prefix(user_id) for user_id in users]
    assert prefixes[:4] == ["ada~", "ada.b~", "a-b_c~", f"{'x' * 64}~"]
    for number, prefix in enumerate(prefixes):
        assert not any(other.startswith(prefix) for place, other in enumerate(prefixes) if place != number)
        create(Session(session_id=f"{prefix}1"), Scope("tenant", users[number]))
        for other in prefixes[:number]:
            with pytest.raises(InvalidFields) as caught:
                create(Session(session_id=f"{other}1"), Scope("tenant", users[number]))
            assert [v.field for v in caught.value.violations] == ["session.session_id"]
    assert create(Session(), BOUND).session_id
