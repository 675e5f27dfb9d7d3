"""Requests as the service receives them: every RPC has a method, and every argument has a field."""

import re
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import pytest
from google.protobuf.descriptor import EnumDescriptor

import sessiond
from sessiond import fields
from sessiond.channel import SERVICES
from sessiond.v1.attachment_pb2 import AttachmentType
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_pb2 import Role
from sessiond.v1.message_service_pb2 import MessageOrder
from sessiond.v1.run_pb2 import RunStatus
from sessiond.v1.run_service_pb2 import RunPolicy
from sessiond.v1.session_pb2 import (
    AgentMode,
    Consistency,
    EndReason,
    Session,
    SessionConfig,
    SessionStatus,
    SessionType,
    SessionView,
)
from sessiond.v1.session_service_pb2 import SessionAccess, SessionOrder, StructUpdate
from sessiond.v1.tool_call_pb2 import ToolCallStatus
from tests.support.client_calls import ALL, READS, STREAMS, TRANSFERS, WRITES, takes
from tests.support.scripted_server import METHODS, ScriptedServer

BOTH_CLIENTS = True


def test_every_rpc_has_a_method() -> None:
    streaming = {name for name, method in METHODS.items() if method.server_streaming or method.client_streaming}
    assert streaming == STREAMS.keys() | TRANSFERS.keys()
    assert ALL.keys() == METHODS.keys() - streaming
    for name in ALL:
        assert callable(getattr(sessiond.Client, re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()))


def test_every_service_is_retried() -> None:
    assert {method.containing_service.full_name for method in METHODS.values()} == set(SERVICES)


def test_writes_are_the_rpcs_with_a_request_id() -> None:
    assert {name for name in METHODS if takes(name, "request_id")} == WRITES.keys()


@pytest.mark.parametrize("rpc", WRITES)
async def test_write_generates_its_request_id(rpc: str, client: sessiond.Client, server: ScriptedServer) -> None:
    call = WRITES[rpc](client)
    await call()
    await call()
    await call(request_id="mine")
    assert [seen.method for seen in server.seen] == [rpc] * 3
    first, second, third = (seen.request.request_id for seen in server.seen)
    assert uuid.UUID(first).version == uuid.UUID(second).version == 7
    assert first != second
    assert third == "mine"


@pytest.mark.parametrize("rpc", [name for name in WRITES if takes(name, "expected_version")])
async def test_write_sends_the_expected_version(rpc: str, client: sessiond.Client, server: ScriptedServer) -> None:
    await WRITES[rpc](client)(expected_version=7)
    assert server.seen[0].request.expected_version == 7


@pytest.mark.parametrize("rpc", READS)
async def test_read_sends_its_freshness(rpc: str, client: sessiond.Client, server: ScriptedServer) -> None:
    versioned = {"min_version": 3} if takes(rpc, "min_version") else {}
    await READS[rpc](client)(consistency="strong", **versioned)
    request = server.seen[0].request
    assert request.consistency == Consistency.CONSISTENCY_STRONG
    assert not versioned or request.min_version == 3


@pytest.mark.parametrize("rpc", ALL)
async def test_every_call_has_a_deadline(rpc: str, client: sessiond.Client, server: ScriptedServer) -> None:
    await ALL[rpc](client)()
    await ALL[rpc](client)(timeout=100)
    default, given = (seen.time_remaining for seen in server.seen)
    # grpc rounds what it sends up, by a hundredth at most.
    assert 0 < default <= 10.1 < given <= 101


@pytest.mark.parametrize("rpc", ALL)
async def test_timeout_of_zero_or_less_is_refused(rpc: str, client: sessiond.Client, server: ScriptedServer) -> None:
    with pytest.raises(ValueError, match="timeout"):
        await ALL[rpc](client)(timeout=0)
    assert not server.seen


async def test_create_session_sends_every_argument(client: sessiond.Client, server: ScriptedServer) -> None:
    await client.create_session(
        "id",
        type="team",
        agent_id="a",
        team_id="t",
        workflow_id="w",
        user_id="u",
        agent_mode="plan",
        name="n",
        active=True,
        labels={"k": "v"},
        ttl=timedelta(hours=1),
        metadata={"a": [1, None]},
        state={},
        agent_data={"b": {"c": True}},
        summary="s",
        config=SessionConfig(max_messages=5),
    )
    session = Session(
        session_id="id",
        type=SessionType.SESSION_TYPE_TEAM,
        agent_id="a",
        team_id="t",
        workflow_id="w",
        user_id="u",
        agent_mode=AgentMode.AGENT_MODE_PLAN,
        name="n",
        status=SessionStatus.SESSION_STATUS_ACTIVE,
        labels={"k": "v"},
        metadata=sessiond.to_struct({"a": [1, None]}),
        state=sessiond.to_struct({}),
        agent_data=sessiond.to_struct({"b": {"c": True}}),
        summary="s",
        config=SessionConfig(max_messages=5),
    )
    session.ttl.seconds = 3600
    assert server.seen[0].request.session == session


async def test_create_session_sends_no_other_fields(client: sessiond.Client, server: ScriptedServer) -> None:
    await client.create_session()
    assert server.seen[0].request.session == Session(
        type=SessionType.SESSION_TYPE_AGENT,
        agent_mode=AgentMode.AGENT_MODE_GENERAL,
        status=SessionStatus.SESSION_STATUS_CREATED,
    )


async def test_times_keep_their_instant(client: sessiond.Client, server: ScriptedServer) -> None:
    noon = datetime(2030, 1, 2, 12, 0, 0, 123456, tzinfo=UTC)
    await client.create_session(expire_time=noon.astimezone(timezone(timedelta(hours=-5))))
    assert server.seen[0].request.session.expire_time.ToDatetime(UTC) == noon
    with pytest.raises(ValueError, match="time zone"):
        await client.create_session(expire_time=noon.replace(tzinfo=None))


async def test_durations_are_seconds_or_timedeltas(client: sessiond.Client, server: ScriptedServer) -> None:
    await client.touch_session("s", extend=1.5)
    await client.touch_session("s", extend=timedelta(milliseconds=1500))
    await client.touch_session("s")
    first, second, third = (seen.request for seen in server.seen)
    assert first.extend == second.extend
    assert first.extend.ToMilliseconds() == 1500
    assert not third.HasField("extend")


async def test_update_mask_names_the_given_fields(client: sessiond.Client, server: ScriptedServer) -> None:
    await client.update_session(
        "s", name="", metadata={"a": 1}, state=None, ttl=60, agent_mode="build", labels={}, struct_update="merge"
    )
    request = server.seen[0].request
    assert sorted(request.update_mask.paths) == ["agent_mode", "labels", "metadata", "name", "state", "ttl"]
    assert request.struct_update == StructUpdate.STRUCT_UPDATE_MERGE
    expected = Session(session_id="s", metadata=sessiond.to_struct({"a": 1}), agent_mode=AgentMode.AGENT_MODE_BUILD)
    expected.ttl.seconds = 60
    assert request.session == expected


async def test_update_can_name_every_field_of_the_contract(client: sessiond.Client, server: ScriptedServer) -> None:
    when = datetime(2030, 1, 1, tzinfo=UTC)
    await client.update_session(
        "s",
        agent_id="a",
        team_id="t",
        workflow_id="w",
        agent_mode="plan",
        name="n",
        labels={"k": "v"},
        ttl=None,
        expire_time=when,
        metadata={"m": 1},
        state={"s": 1},
        agent_data={"d": 1},
        summary="sum",
        config=SessionConfig(system_prompt="p"),
    )
    request = server.seen[0].request
    assert request.struct_update == StructUpdate.STRUCT_UPDATE_REPLACE
    assert set(request.update_mask.paths) == {
        *("agent_id", "team_id", "workflow_id", "agent_mode", "name", "labels", "ttl", "expire_time"),
        *("metadata", "state", "agent_data", "summary", "config"),
    }
    expected = Session(
        session_id="s",
        agent_id="a",
        team_id="t",
        workflow_id="w",
        agent_mode=AgentMode.AGENT_MODE_PLAN,
        name="n",
        labels={"k": "v"},
        metadata=sessiond.to_struct({"m": 1}),
        state=sessiond.to_struct({"s": 1}),
        agent_data=sessiond.to_struct({"d": 1}),
        summary="sum",
        config=SessionConfig(system_prompt="p"),
    )
    expected.expire_time.FromDatetime(when)
    assert request.session == expected


async def test_update_of_single_fields_of_the_config(client: sessiond.Client, server: ScriptedServer) -> None:
    await client.update_session("s", config={"max_messages": 3, "allowed_tools": ["a"]})
    request = server.seen[0].request
    assert sorted(request.update_mask.paths) == ["config.allowed_tools", "config.max_messages"]
    assert request.session.config == SessionConfig(max_messages=3, allowed_tools=["a"])
    with pytest.raises(ValueError, match="no such field: colour"):
        await client.update_session("s", config={"colour": 1})


async def test_update_without_fields_is_refused(client: sessiond.Client, server: ScriptedServer) -> None:
    with pytest.raises(ValueError, match="at least one field"):
        await client.update_session("s", struct_update="merge")
    assert not server.seen


async def test_every_filter_is_sent(client: sessiond.Client, server: ScriptedServer) -> None:
    since = datetime(2030, 1, 1, tzinfo=UTC)
    where: fields.SessionWhere = {
        "type": "workflow",
        "component_id": "c",
        "agent_id": "a",
        "team_id": "t",
        "workflow_id": "w",
        "user_id": "u",
        "statuses": ["active", SessionStatus.SESSION_STATUS_ENDED],
        "name_contains": "n",
        "labels": {"k": "v"},
        "metadata": {"m": 1},
        "create_time_from": since,
        "create_time_until": since + timedelta(1),
        "update_time_from": since + timedelta(2),
        "update_time_until": since + timedelta(3),
    }
    await client.count_sessions(**where)
    await client.list_sessions(order_by="name_asc", page_size=7, view="full", page_token="t", **where).page()
    count, listed = (seen.request for seen in server.seen)
    assert count.filter == listed.filter
    assert {field.name for field, _ in count.filter.ListFields()} == fields.SessionWhere.__annotations__.keys()
    assert list(count.filter.statuses) == [SessionStatus.SESSION_STATUS_ACTIVE, SessionStatus.SESSION_STATUS_ENDED]
    assert count.filter.type == SessionType.SESSION_TYPE_WORKFLOW
    assert count.filter.update_time_until.ToDatetime(UTC) == since + timedelta(3)
    assert (listed.order_by, listed.page_size, listed.page_token) == (SessionOrder.SESSION_ORDER_NAME_ASC, 7, "t")
    assert listed.view == SessionView.SESSION_VIEW_FULL


async def test_unknown_filter_is_refused(client: sessiond.Client, server: ScriptedServer) -> None:
    with pytest.raises(TypeError, match="no such filter: colour"):
        client.list_sessions(colour="red")  # type: ignore[call-arg]


def test_the_filter_has_all_fields_of_the_contract() -> None:
    filter_type = METHODS["CountSessions"].input_type.fields_by_name["filter"].message_type
    assert filter_type is not None
    assert set(filter_type.fields_by_name.keys()) == fields.SessionWhere.__annotations__.keys()


@pytest.mark.parametrize(
    ("alias", "enum"),
    [
        (fields.TypeLike, SessionType.DESCRIPTOR),
        (fields.ModeLike, AgentMode.DESCRIPTOR),
        (fields.StatusLike, SessionStatus.DESCRIPTOR),
        (fields.EndReasonLike, EndReason.DESCRIPTOR),
        (fields.ViewLike, SessionView.DESCRIPTOR),
        (fields.EventTypeLike, EventType.DESCRIPTOR),
        (fields.RoleLike, Role.DESCRIPTOR),
        (fields.ConsistencyLike, Consistency.DESCRIPTOR),
        (fields.SessionAccessLike, SessionAccess.DESCRIPTOR),
        (fields.MessageOrderLike, MessageOrder.DESCRIPTOR),
        (fields.SessionOrderLike, SessionOrder.DESCRIPTOR),
        (fields.RunStatusLike, RunStatus.DESCRIPTOR),
        (fields.RunPolicyLike, RunPolicy.DESCRIPTOR),
        (fields.ToolCallStatusLike, ToolCallStatus.DESCRIPTOR),
        (fields.AttachmentTypeLike, AttachmentType.DESCRIPTOR),
    ],
)
def test_names_of_enums_are_those_of_the_contract(alias: object, enum: EnumDescriptor) -> None:
    names = get_args(get_args(alias)[0])
    known = [value.number for value in enum.values if value.name not in ("SESSION_VIEW_PATCH",)]  # in events only
    assert [fields.enum_value(enum, name) for name in names] == known[1:]
    assert fields.enum_value(enum, None) == 0
    with pytest.raises(ValueError, match=names[0]):
        fields.enum_value(enum, "no such thing")
    with pytest.raises(ValueError, match=names[0]):
        fields.enum_value(enum, "unspecified")
