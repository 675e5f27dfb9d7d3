"""TemplateService over the wire, and sessions that are created from templates."""

from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict

from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import template_service_pb2 as tp
from sessiond.v1.session_pb2 import Session, SessionConfig, SessionStatus, SessionType
from tests.support.rows import table
from tests.support.wire import ALICE, OTHER_TENANT, READER, Wire

DEFAULTS = {
    "type": "SESSION_TYPE_TEAM",
    "agentId": "writer",
    "name": "Draft",
    "summary": "none yet",
    "labels": {"kind": "draft", "team": "x"},
    "metadata": {"a": 1, "b": {"c": [1, 2]}},
    "state": {"step": 1},
    "config": {"maxMessages": 50, "allowedTools": ["search", "read"], "systemPrompt": "Be brief."},
    "ttl": "3600s",
}


def defaults(**changes: Any) -> Session:
    return ParseDict({**DEFAULTS, **changes}, Session())


async def put(wire: Wire, session: Session | None = None, **more: Any) -> Any:
    template = tp.Template(template_id="t", description="Drafts", session=session or defaults())
    return await wire.call("PutTemplate", tp.PutTemplateRequest(template=template, **more))


async def create(wire: Wire, session: Session, *, key: str = "", template_id: str = "t", **more: Any) -> Session:
    request = s.CreateSessionRequest(session=session, template_id=template_id, **more)
    made: Session = await wire.call("CreateSession", request, **({"key": key} if key else {}))
    return made


async def test_a_session_has_what_its_template_says(wire: Wire) -> None:
    await put(wire)
    made = await create(wire, Session(session_id="s"))
    wanted = defaults()
    for name in ("type", "agent_id", "name", "summary", "labels", "metadata", "state", "config", "ttl"):
        assert getattr(made, name) == getattr(wanted, name), name
    assert (made.template.template_id, made.template.version) == ("t", 1)
    got: Session = await wire.call("GetSession", s.GetSessionRequest(session_id="s"))
    assert got.template == made.template
    forked: Session = await wire.call("ForkSession", s.ForkSessionRequest(session_id="s", fork_session_id="f"))
    assert forked.template == made.template
    assert (await wire.create("plain", template={"template_id": "x", "version": 5})).HasField("template") is False


async def test_what_the_request_sets_wins(wire: Wire) -> None:
    await put(wire)
    given = ParseDict(
        {
            "sessionId": "s",
            "type": "SESSION_TYPE_AGENT",
            "name": "Mine",
            "labels": {"kind": "mine"},
            "metadata": {"b": {"d": None}, "e": []},
            "config": {"allowedTools": ["write"]},
        },
        Session(),
    )
    made = await create(wire, given, no_expiry=True)
    assert (made.type, made.name, made.agent_id) == (SessionType.SESSION_TYPE_AGENT, "Mine", "writer")
    assert dict(made.labels) == {"kind": "mine", "team": "x"}
    assert made.metadata == ParseDict({"a": 1, "b": {"d": None}, "e": []}, Session().metadata)
    assert made.config == SessionConfig(max_messages=50, allowed_tools=["write"], system_prompt="Be brief.")
    assert not made.HasField("ttl")
    assert (await create(wire, Session(session_id="u", ttl=Duration(seconds=60)))).ttl.seconds == 60


async def test_a_retry_finds_its_session_whatever_became_of_the_template(wire: Wire) -> None:
    await put(wire)
    made = await create(wire, Session(), request_id="r")
    await put(wire, defaults(name="Later"))
    assert await create(wire, Session(), request_id="r") == made
    await wire.call("DeleteTemplate", tp.DeleteTemplateRequest(template_id="t"))
    assert await create(wire, Session(), request_id="r") == made
    for more in ({}, {"key": OTHER_TENANT}):
        request = s.CreateSessionRequest(session=Session(session_id="n"), template_id="t")
        failure = await wire.failure("CreateSession", request, **more)
        assert (failure.reason, failure.metadata["template_id"]) == ("TEMPLATE_NOT_FOUND", "t")
    failure = await wire.failure("GetSession", s.GetSessionRequest(session_id="n"))
    assert failure.reason == "SESSION_NOT_FOUND"


async def test_keys_of_users_use_templates_and_write_none(wire: Wire) -> None:
    await put(wire)
    assert (await create(wire, Session(), key=ALICE)).user_id == "alice"
    got = await wire.call("GetTemplate", tp.GetTemplateRequest(template_id="t"), key=ALICE)
    assert got.session == defaults()
    for rpc, request in (
        ("PutTemplate", tp.PutTemplateRequest(template=tp.Template(template_id="u"))),
        ("DeleteTemplate", tp.DeleteTemplateRequest(template_id="t")),
    ):
        assert (await wire.failure(rpc, request, key=ALICE)).reason == "TEMPLATE_READ_ONLY"
        assert (await wire.failure(rpc, request, key=READER)).reason == "SCOPE_MISSING"
    assert (await wire.failure("GetTemplate", tp.GetTemplateRequest(template_id="t"), key=OTHER_TENANT)).reason == (
        "TEMPLATE_NOT_FOUND"
    )
    assert not (await wire.call("ListTemplates", tp.ListTemplatesRequest(), key=OTHER_TENANT)).templates


async def test_a_field_beyond_its_bounds_is_named(wire: Wire) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("template.template_id", {"template_id": ""}),
        ("template.template_id", {"template_id": "a\0"}),
        ("template.template_id", {"template_id": "x" * 256}),
        ("template.description", {"description": "x" * 1001}),
        ("template.session.session_id", {"session": Session(session_id="s")}),
        ("template.session.user_id", {"session": Session(user_id="u")}),
        ("template.session.status", {"session": Session(status=SessionStatus.SESSION_STATUS_ACTIVE)}),
        ("template.session.version", {"session": Session(version=2)}),
        ("template.session.name", {"session": Session(name="x" * 201)}),
        ("template.session.ttl", {"session": Session(ttl=Duration(nanos=1))}),
        ("template.session", {"session": Session(config=SessionConfig(system_prompt="\u00fc" * 131_073))}),
    ]
    with table() as rows:
        for field, fields in wrong:
            with rows.row(field, str(fields)[:60]):
                template = tp.Template(**{"template_id": "t", **fields})
                failure = await wire.failure("PutTemplate", tp.PutTemplateRequest(template=template))
                assert (failure.reason, list(failure.violations)) == ("INVALID_FIELD", [field])
    longest = "\U0001f600" * 63 + "abc"
    template = tp.Template(template_id=longest, description="\U0001f600" * 1000)
    made = await wire.call("PutTemplate", tp.PutTemplateRequest(template=template))
    assert (made.template_id, made.version) == (longest, 1)


async def test_a_retry_of_a_write_gets_the_first_outcome(wire: Wire) -> None:
    for rpc, request in (
        ("PutTemplate", tp.PutTemplateRequest(template=tp.Template(template_id="t"), request_id="r1")),
        ("DeleteTemplate", tp.DeleteTemplateRequest(template_id="t", request_id="r2")),
    ):
        first = await wire.call(rpc, request)
        assert await wire.call(rpc, request) == first
        request.expected_version = 7
        failure = await wire.failure(rpc, request)
        assert (failure.reason, list(failure.violations)) == ("REQUEST_ID_REUSED", ["request_id"])
