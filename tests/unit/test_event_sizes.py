"""No event exceeds 3.5 MiB, so that clients with gRPC's default limit of 4 MiB can read every log and feed."""

import pytest
from google.protobuf.struct_pb2 import Struct, Value

from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond.v1.session_service_pb2 import CreateSessionRequest
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding
from sessiond_server.domain.sessions.validation import CONTENT_BYTES
from sessiond_server.errors import InvalidFields
from sessiond_server.rpc.sessions import checks
from tests.support.session_log import KEY, REPLACE, Log, new_session

LARGEST_EVENT = 7 * 512 * 1024
SCOPE = c.Scope("tenant")


def text(size: int) -> Struct:
    """An object of `size` bytes serialised."""
    overhead = Struct(fields={"t": Value(string_value="x" * (size - 100))}).ByteSize() - (size - 100)
    return Struct(fields={"t": Value(string_value="x" * (size - overhead))})


def largest(**fields: object) -> Session:
    """A session whose fields are as large as each may be, but for the summary."""
    return Session(
        session_id="s" * 255,
        labels={f"{n:063}": "x" * 190 for n in range(64)},
        metadata=text(64 * 1024),
        state=text(1024 * 1024),
        agent_data=text(1024 * 1024),
        config=SessionConfig(system_prompt="\N{CAT}" * 262_144),
        **fields,  # type: ignore[arg-type]
    )


def events_of(log: Log) -> list[int]:
    return [len(encoding.event(e.type, e.head, e.body, e.content)) for rows in log.events.values() for e in rows]


def test_largest_session_with_a_thousand_runs_makes_an_event_that_clients_take() -> None:
    runs = [Run(run_id=f"{n}", status=RunStatus.RUN_STATUS_COMPLETED, model="m" * 80) for n in range(1000)]
    session = largest()
    session.config.system_prompt = session.config.system_prompt[:260_000]
    request = CreateSessionRequest(session=session, runs=runs)
    action = checks.create_session(request, SCOPE)
    log = Log()
    log.ok(action, session_id=action.session.session_id)
    (size,) = events_of(log)
    assert CONTENT_BYTES < size < LARGEST_EVENT


def test_creation_above_the_bound_is_refused_and_names_the_session() -> None:
    runs = [Run(status=RunStatus.RUN_STATUS_COMPLETED, model="m" * 128) for _ in range(1000)]
    with pytest.raises(InvalidFields) as refused:
        checks.create_session(CreateSessionRequest(session=largest(summary="x" * 65_536), runs=runs), SCOPE)
    assert [violation.field for violation in refused.value.violations] == ["session"]


def test_update_above_the_bound_is_refused_whatever_it_writes() -> None:
    log = Log()
    session = largest()
    log.create(**{name: getattr(session, name) for name in ("metadata", "state", "agent_data", "config")})
    before = log.heads[KEY]
    refusal = log.do(c.UpdateSession(new_session(summary="\N{CAT}" * 65_536), ["summary"], REPLACE))
    assert isinstance(refusal, InvalidFields)
    assert refusal.violations[0].field == "session"
    assert log.heads[KEY] == before
    log.ok(c.UpdateSession(new_session(summary="short"), ["summary"], REPLACE))
    assert max(events_of(log)) < LARGEST_EVENT
