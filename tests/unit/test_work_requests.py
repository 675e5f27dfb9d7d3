"""What the RPCs on runs and tool calls accept: both sides of each rule, and the defaults."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.run_pb2 import Failure, Run, RunFence, RunStatus
from sessiond.v1.session_pb2 import Session, TokenUsage
from sessiond.v1.tool_call_pb2 import ToolCall, ToolData
from sessiond_server.domain import commands as c
from sessiond_server.domain.commands import Scope
from sessiond_server.errors import InvalidFields
from sessiond_server.rpc import fields
from sessiond_server.rpc.messages import checks as message_requests
from sessiond_server.rpc.runs import checks as run_requests
from sessiond_server.rpc.sessions import checks as requests
from sessiond_server.rpc.tool_calls import checks as tool_call_requests

KIB = 1024
COMPLETED, FAILED = RunStatus.RUN_STATUS_COMPLETED, RunStatus.RUN_STATUS_FAILED
FENCE = RunFence(run_id="r", fence=2)
WAITING: dict[str, Any] = {"requires_approval": True}


def struct(size: int) -> Struct:
    """Of about so many bytes serialised; a little less."""
    made = Struct()
    made.update({"k": "x" * (size - 40)})
    return made


def faults(check: Callable[[Any], object], request: Any) -> list[str]:
    """Paths of the violations; checks that the request is left as it was."""
    before = request.SerializeToString(deterministic=True)
    try:
        check(request)
    except InvalidFields as error:
        return [violation.field for violation in error.violations]
    finally:
        assert request.SerializeToString(deterministic=True) == before
    return []


def begin(**run: Any) -> list[str]:
    return faults(run_requests.begin_run, r.BeginRunRequest(session_id="s", run=Run(**run)))


def finish(**changes: Any) -> list[str]:
    request = {"session_id": "s", "run": FENCE, "status": FAILED} | changes
    return faults(run_requests.finish_run, r.FinishRunRequest(**request))  # type: ignore[arg-type]


def call(**call: Any) -> list[str]:
    asked = ToolCall(**({"name": "search"} | call))
    return faults(tool_call_requests.request_tool_call, t.RequestToolCallRequest(session_id="s", tool_call=asked))


def preset(*runs: Run) -> list[str]:
    request = s.CreateSessionRequest(session=Session(), runs=runs)
    return faults(lambda request: requests.create_session(request, Scope("tenant")), request)


def at(seconds: int, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=seconds, nanos=nanos)


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("run.run_id", {"run_id": "a" * 255}, {"run_id": "a "}),
        ("run.agent_id", {"agent_id": "a b" * 42}, {"agent_id": "a" * 256}),
        ("run.agent_id", {"agent_id": ""}, {"agent_id": "a\n"}),
        ("run.model", {"model": "m" * 128}, {"model": "m" * 129}),
        ("run.metadata", {"metadata": struct(16 * KIB)}, {"metadata": struct(17 * KIB)}),
        ("run.lease", {"lease": Duration(seconds=5)}, {"lease": Duration(seconds=4, nanos=999_999_999)}),
        ("run.lease", {"lease": Duration(seconds=3600)}, {"lease": Duration(seconds=3600, nanos=1)}),
        ("run.lease", {"lease": Duration(seconds=30, nanos=1)}, {"lease": Duration(seconds=30, nanos=-1)}),
    ],
)
def test_a_run_to_begin(path: str, good: dict[str, Any], bad: dict[str, Any]) -> None:
    assert begin(**good) == []
    assert begin(**bad) == [path]


def test_a_run_has_defaults() -> None:
    action = run_requests.begin_run(r.BeginRunRequest(session_id="s"))
    assert (action.run.lease.seconds, action.policy) == (30, r.RUN_POLICY_REJECT)
    asked = r.BeginRunRequest(session_id="s", policy=r.RUN_POLICY_ENQUEUE, run=Run(lease=Duration(seconds=60)))
    action = run_requests.begin_run(asked)
    assert (action.run.lease.seconds, action.policy) == (60, r.RUN_POLICY_ENQUEUE)
    assert faults(run_requests.begin_run, r.BeginRunRequest(session_id="s", policy=4)) == ["policy"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("run", {}, {"run": None}),
        ("run.run_id", {}, {"run": RunFence(fence=1)}),
        ("run.fence", {"run": RunFence(run_id="r", fence=1)}, {"run": RunFence(run_id="r")}),
        ("status", {"status": COMPLETED}, {"status": RunStatus.RUN_STATUS_CANCELLED}),
        ("status", {"status": FAILED}, {"status": 0}),
        ("error", {"error": Failure()}, {"status": COMPLETED, "error": Failure()}),
        ("error.code", {"error": Failure(code="c" * 128)}, {"error": Failure(code="c" * 129)}),
        ("error.message", {"error": Failure(message="\n" * 4096)}, {"error": Failure(message="m" * 4097)}),
        ("usage.input_tokens", {"usage": TokenUsage(input_tokens=2**53 - 1)}, {"usage": TokenUsage(input_tokens=-1)}),
        ("model", {"model": "m"}, {"model": "m\t"}),
    ],
)
def test_a_run_to_finish(path: str, good: dict[str, Any], bad: dict[str, Any]) -> None:
    assert finish(**good) == []
    assert finish(**bad) == [path]


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("tool_call.tool_call_id", {"tool_call_id": "call_1"}, {"tool_call_id": "call 1 "}),
        ("tool_call.message_id", {"message_id": "m"}, {"message_id": "m" * 256}),
        ("tool_call.model_call_id", {"model_call_id": "call 1" * 42}, {"model_call_id": "x" * 257}),
        ("tool_call.name", {"name": "n" * 128}, {"name": ""}),
        ("tool_call.name", {"name": "a tool"}, {"name": "a\0"}),
        ("tool_call.arguments", {"arguments": ToolData(text="")}, {"arguments": ToolData()}),
        (
            "tool_call.arguments",
            {"arguments": ToolData(binary=bytes(256 * KIB - 5))},
            {"arguments": ToolData(binary=bytes(256 * KIB))},
        ),
        ("tool_call.arguments.text", {"arguments": ToolData(text="{")}, {"arguments": ToolData(text="\0")}),
        ("tool_call.expire_time", WAITING | {"expire_time": at(0)}, {"expire_time": at(0)}),
        ("tool_call.expire_time", WAITING | {"expire_time": at(0)}, WAITING | {"expire_time": at(0, -1)}),
        (
            "tool_call.expire_action",
            WAITING | {"expire_time": at(0), "expire_action": 2},
            WAITING | {"expire_action": 1},
        ),
        (
            "tool_call.expire_action",
            WAITING | {"expire_time": at(0), "expire_action": 1},
            WAITING | {"expire_time": at(0), "expire_action": 3},
        ),
    ],
)
def test_a_call_to_request(path: str, good: dict[str, Any], bad: dict[str, Any]) -> None:
    assert call(**good) == []
    assert call(**bad) == [path]


@pytest.mark.parametrize(
    ("paths", "call", "ttl"),
    [
        ([], WAITING, Duration(seconds=1)),
        ([], WAITING | {"expire_action": 2}, Duration(seconds=3650 * 86_400)),
        (["approval_ttl"], WAITING, Duration(nanos=999_999_999)),
        (["approval_ttl"], WAITING, Duration(seconds=3650 * 86_400, nanos=1)),
        (["approval_ttl"], {}, Duration(seconds=1)),
        (["tool_call.expire_time"], WAITING | {"expire_time": at(0)}, Duration(seconds=1)),
    ],
)
def test_time_that_an_approval_may_take(paths: list[str], call: dict[str, Any], ttl: Duration) -> None:
    asked = t.RequestToolCallRequest(session_id="s", tool_call=ToolCall(name="search", **call), approval_ttl=ttl)
    assert faults(tool_call_requests.request_tool_call, asked) == paths


def test_arguments_are_json_objects_like_any_other() -> None:
    data = Struct()
    data.fields["n"].number_value = float("nan")
    assert call(arguments=ToolData(data=data)) == ['tool_call.arguments.data.fields["n"]']
    assert call(arguments=ToolData(data=Struct())) == []


def test_a_call_is_required() -> None:
    request = t.RequestToolCallRequest(session_id="s")
    assert faults(tool_call_requests.request_tool_call, request) == ["tool_call"]


@pytest.mark.parametrize("check", [tool_call_requests.approve_tool_call, tool_call_requests.reject_tool_call])
def test_a_decision(check: Callable[[Any], c.DecideToolCall]) -> None:
    kind = t.ApproveToolCallRequest if check is tool_call_requests.approve_tool_call else t.RejectToolCallRequest

    def asked(**changes: Any) -> Any:
        return kind(**({"session_id": "s", "tool_call_id": "t"} | changes))

    assert faults(check, asked(approver="a" * 255, reason="\n" * 1000)) == []
    assert faults(check, asked(approver="a" * 256)) == ["approver"]
    assert faults(check, asked(reason="r" * 1001)) == ["reason"]
    assert faults(check, asked(tool_call_id="")) == ["tool_call_id"]
    action = check(asked(approver="Ada", reason="why"))
    assert action == c.DecideToolCall("t", kind is t.ApproveToolCallRequest, "Ada", "why")


def test_a_result() -> None:
    complete, fail = tool_call_requests.complete_tool_call, tool_call_requests.fail_tool_call
    whole = ToolData(binary=bytes(1024 * KIB - 6))
    over = ToolData(binary=bytes(1024 * KIB))
    for result, expected in ((whole, []), (over, ["result"]), (ToolData(), ["result"])):
        request = t.CompleteToolCallRequest(session_id="s", tool_call_id="t", result=result)
        assert faults(complete, request) == expected
    assert complete(t.CompleteToolCallRequest(session_id="s", tool_call_id="t")) == c.EndToolCall("t", None, None)
    assert faults(fail, t.FailToolCallRequest(session_id="s", tool_call_id="t")) == ["error"]
    failed = fail(t.FailToolCallRequest(session_id="s", tool_call_id="t", error=Failure()))
    assert failed == c.EndToolCall("t", None, Failure())


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [([], [1, 2, 3, 4, 5]), ([3, 1, 3], [1, 3])],
)
def test_statuses_are_selected_once_each(statuses: list[Any], expected: list[int]) -> None:
    assert run_requests.list_runs(r.ListRunsRequest(session_id="s", statuses=statuses)).statuses == expected


@pytest.mark.parametrize(("statuses", "path"), [([0], "statuses[0]"), ([1, 6], "statuses[1]"), ([1] * 6, "statuses")])
def test_statuses_that_are_none(statuses: list[Any], path: str) -> None:
    assert faults(run_requests.list_runs, r.ListRunsRequest(session_id="s", statuses=statuses)) == [path]


def test_page_sizes() -> None:
    assert run_requests.list_runs(r.ListRunsRequest(session_id="s")).limit == 20
    assert tool_call_requests.list_tool_calls(t.ListToolCallsRequest(session_id="s", page_size=101)).limit == 100
    assert tool_call_requests.list_pending_approvals(t.ListPendingApprovalsRequest(page_size=7)) == 7
    assert faults(tool_call_requests.list_pending_approvals, t.ListPendingApprovalsRequest(user_id="u\n")) == [
        "user_id"
    ]


def test_runs_of_a_new_session() -> None:
    done = Run(run_id="a", status=COMPLETED, create_time=at(1), start_time=at(1), end_time=at(1, 1))
    assert preset(done, Run(status=RunStatus.RUN_STATUS_CANCELLED)) == []
    assert preset(*(Run(status=FAILED) for _ in range(1000))) == []
    assert preset(*(Run(status=FAILED) for _ in range(1001))) == ["runs"]
    assert preset(*(Run(status=FAILED, metadata=struct(16 * KIB)) for _ in range(66))) == ["runs"]
    assert preset(done, done) == ["runs[1].run_id"]


@pytest.mark.parametrize(
    ("path", "run"),
    [
        ("status", Run()),
        ("status", Run(status=RunStatus.RUN_STATUS_RUNNING)),
        ("run_id", Run(status=FAILED, run_id="a ")),
        ("usage.output_tokens", Run(status=FAILED, usage=TokenUsage(output_tokens=-1))),
        ("error.code", Run(status=FAILED, error=Failure(code="\n"))),
        ("start_time", Run(status=FAILED, create_time=at(2), start_time=at(1), end_time=at(3))),
        ("end_time", Run(status=FAILED, create_time=at(2), end_time=at(1))),
        ("end_time", Run(status=FAILED, start_time=at(1))),
        ("end_time", Run(status=FAILED, end_time=at(0, -1))),
    ],
)
def test_a_run_that_cannot_have_been(path: str, run: Run) -> None:
    assert preset(run) == [f"runs[0].{path}"]


def append_messages(request: m.AppendMessagesRequest) -> c.AppendMessages:
    return message_requests.append_messages(request, Scope("tenant"))


def test_the_run_that_writes() -> None:
    request = m.AppendMessagesRequest(session_id="s", messages=[Message(role=Role.ROLE_USER)])
    assert fields.fence_of(request) is None
    request.run.CopyFrom(FENCE)
    assert faults(append_messages, request) == []
    assert fields.fence_of(request) == c.Fence("r", 2)
    request.messages[0].run_id = "r"
    assert faults(append_messages, request) == []
    request.messages[0].run_id = "another"
    assert faults(append_messages, request) == ["messages[0].run_id"]
    request.ClearField("run")
    assert faults(append_messages, request) == []
    request.messages[0].run_id = "a "
    assert faults(append_messages, request) == ["messages[0].run_id"]
    request.messages[0].ClearField("run_id")
    request.run.SetInParent()
    assert faults(append_messages, request) == ["run.run_id", "run.fence"]
