"""What each operation of the contract does, by calls of the gRPC port."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask

from sessiond.v1.session_pb2 import Consistency, Session, SessionView
from sessiond.v1.session_service_pb2 import (
    BatchDeleteSessionsRequest,
    BatchGetSessionsRequest,
    CreateSessionRequest,
    DeleteSessionRequest,
    SessionFilter,
    SessionOrder,
    StructUpdate,
    UpdateSessionRequest,
)
from sessiond_server.http.agentos import bodies, history, pages, run_views, sessions
from sessiond_server.http.agentos.calls import Calls
from sessiond_server.http.agentos.messages import KEPT, is_id
from sessiond_server.http.agentos.parameters import Parameters
from sessiond_server.http.agentos.refusals import SESSION_TYPES, Invalid, Json, Missing, Refused, fault
from sessiond_server.http.agentos.run_views import without_nulls
from sessiond_server.http.agentos.runs import STATUSES, Taken
from sessiond_server.http.agentos.sessions import TYPES
from sessiond_server.http.problems import Problem
from sessiond_server.http.requests import expected_version, idempotency_key

BASIC: Final = SessionView.SESSION_VIEW_BASIC
FULL: Final = SessionView.SESSION_VIEW_FULL
STRONG: Final = Consistency.CONSISTENCY_STRONG

_ORDERS: Final[Mapping[tuple[str, bool], "SessionOrder.ValueType"]] = {
    ("created_at", True): SessionOrder.SESSION_ORDER_CREATE_TIME_ASC,
    ("created_at", False): SessionOrder.SESSION_ORDER_CREATE_TIME_DESC,
    ("updated_at", True): SessionOrder.SESSION_ORDER_UPDATE_TIME_ASC,
    ("updated_at", False): SessionOrder.SESSION_ORDER_UPDATE_TIME_DESC,
    ("session_name", True): SessionOrder.SESSION_ORDER_NAME_ASC,
    ("session_name", False): SessionOrder.SESSION_ORDER_NAME_DESC,
}
_UNSORTED: Final = (
    *("session_id", "session_type", "agent_id", "team_id", "workflow_id", "user_id", "session_data", "agent_data"),
    *("team_data", "workflow_data", "metadata", "runs", "summary"),
)
"""Columns by which the platform sorts and sessiond has no list. By what is no column, neither sorts."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    calls: Calls
    parameters: Parameters
    session_id: str
    run_id: str
    headers: Mapping[str, str]
    body: Callable[..., Awaitable[Any]]
    """(work, *arguments): receives the body, and returns the result of `work(value of the body, *arguments)`; the value
    is None where there is none. Raises what `work` does, Invalid and Problem."""

    async def given(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """As `body`, but raises what is wrong with parameters and body together."""
        try:
            found = await self.body(work, *arguments)
        except Invalid as invalid:
            if invalid.faults[0]["type"] != "json_invalid":
                invalid.faults[:0] = self.parameters.faults
            raise
        self.parameters.check()
        return found

    @property
    def of_go(self) -> bool:
        return self.calls.form == "go"

    @property
    def request_id(self) -> str:
        return idempotency_key(self.headers) or ""

    def type(self) -> str | None:
        """Of the sessions that are meant; None: of any."""
        if not self.of_go:
            return self.parameters.choice("type", SESSION_TYPES)
        given = (self.parameters.text("type") or "agent").lower()
        if given not in SESSION_TYPES:
            raise Refused(400, "the type must be agent, team or workflow", "INVALID_SESSION_TYPE")
        return given

    async def session(self, kind: str | None, view: "SessionView.ValueType", missing: str = "") -> Session:
        """The session of the path, of the user whom the query names. Raises Refused."""
        text = missing or f"Session with id '{self.session_id}' not found"
        return await self.calls.session(self.session_id, kind, self.parameters.text("user_id"), view, text)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation answers."""

    status: int
    body: Json | list[Json] | None = None
    version: int = 0
    """Of the session in it; 0: it has none."""
    weight: int = 0
    """About how many bytes the body has: what decides where it is written as JSON."""


async def list_sessions(call: Call) -> Answer:
    parameters = call.parameters
    kind = call.type()
    limit = parameters.integer("limit", None if call.of_go else 1, pages.LARGEST_PAGE)
    number = parameters.integer("page", None if call.of_go else 1)
    limit, number = (20 if limit is None else limit), (1 if number is None else number)
    if call.of_go:
        limit, number = (limit if limit > 0 else 20), max(1, number)
    order = _order(parameters)
    parameters.check()
    if number * limit > pages.FARTHEST:
        message = f"page x limit should be at most {pages.FARTHEST}: narrow the filter"
        parameters.add(fault("less_than_equal", ("query", "page"), message, le=pages.FARTHEST // limit))
        parameters.check()
    selected = _selected(parameters, kind)
    found, count = ((), 0) if selected is None else await pages.page(call.calls, selected, order, number, limit)
    meta = {"page": number, "limit": limit, "total_pages": -(-count // limit), "total_count": count}
    weight = sum(each.ByteSize() for each in found)
    data = await call.calls.run(weight, _listed, found)
    return Answer(200, {"data": data, "meta": {**meta, "search_time_ms": 0.0}}, weight=weight)


def _listed(found: Sequence[Session]) -> list[Json]:
    return [without_nulls(sessions.listed(each)) for each in found]


def _order(parameters: Parameters) -> "SessionOrder.ValueType":
    ascending = parameters.choice("sort_order", ("asc", "desc")) == "asc"
    by = parameters.text("sort_by") or "created_at"
    if by in _UNSORTED:
        message = "Sessions are sorted by created_at, updated_at or session_name"
        parameters.add(fault("value_error", ("query", "sort_by"), message))
    return _ORDERS.get((by, ascending), SessionOrder.SESSION_ORDER_CREATE_TIME_DESC)


def _selected(parameters: Parameters, kind: str | None) -> SessionFilter | None:
    """The filter; None: no session fits. An id that is given and empty is that of none."""
    user_id, component_id = parameters.text("user_id"), parameters.text("component_id")
    if "" in (user_id, component_id):
        return None
    selected = SessionFilter(user_id=user_id or "", name_contains=parameters.text("session_name") or "")
    if kind is not None:
        selected.type = TYPES[kind]
    if component_id:
        setattr(selected, f"{kind}_id" if kind else "component_id", component_id)
    return selected


async def create_session(call: Call) -> Answer:
    kind = call.type() or "agent"
    session, made = await call.given(_new_session, kind)
    asked = CreateSessionRequest(
        session=session, runs=[each.run for each in made], no_expiry=True, request_id=call.request_id
    )
    try:
        created: Session = await call.calls("CreateSession", asked)
    except Problem as problem:
        if problem.reason != "SESSION_ALREADY_EXISTS":
            raise
        taken = session.session_id
        text = f"Session with id '{taken}' already exists. Use PATCH /sessions/{taken} to update it."
        raise Refused(409, text) from None
    if made:
        try:
            await history.write(call.calls, created, made, call.request_id)
        except Problem as problem:
            # A retry with the same key goes on where this broke off; without one, or after a refusal, none is to come.
            if not call.request_id or problem.status < 500:
                with suppress(Problem, Refused):
                    await call.calls("DeleteSession", DeleteSessionRequest(session_id=created.session_id))
            raise
        created = await call.calls.session(created.session_id, None, None, FULL, "the session was deleted")
    return await _detail(call, created, 201, nulls=False)


def _new_session(body: Any, kind: str) -> tuple[Session, list[Taken]]:
    given = bodies.new_session(body)
    kind = kind if kind in SESSION_TYPES else "agent"  # which is refused, with the rest
    session = sessions.made(given, kind)
    return session, history.taken(given.get("runs", ()), session)


async def get_session(call: Call) -> Answer:
    kind = call.type()
    call.parameters.check()
    title = "" if kind is None else f"{kind.title()} "
    session = await call.session(kind, FULL, f"{title}Session with id '{call.session_id}' not found")
    return await _detail(call, session, 200, nulls=False)


async def _detail(call: Call, session: Session, status: int, *, nulls: bool) -> Answer:
    of_workflow = sessions.type_of(session) == "workflow"
    said, weight = ([], 0) if of_workflow else await history.conversation(call.calls, session)
    weight += session.ByteSize()
    found = await call.calls.run(weight, sessions.detail, session, said)
    return Answer(status, found if nulls or call.of_go else without_nulls(found), session.version, weight)


async def rename_session(call: Call) -> Answer:
    kind = call.type()
    name: str = await call.given(bodies.name)
    if call.of_go and not name:
        raise Refused(400, "session_name is required")
    await call.session(kind, BASIC)
    session = await _update(call, Session(name=name), ["name"], None, call.request_id)
    return await _detail(call, session, 200, nulls=True)


async def update_session(call: Call) -> Answer:
    kind = call.type()
    given: Json = await call.given(bodies.update)
    session = await call.session(kind, FULL)
    changed = Session()
    fields = sessions.put(changed, given)
    if not fields:
        return await _detail(call, session, 200, nulls=True)
    summary = given.get("summary")
    # One request replaces objects whole or sets members of them, not both.
    objects = "session_state" in given or "metadata" in given
    session = await _update(call, changed, fields, None if objects else summary, call.request_id)
    if summary is not None and objects and not sessions.has_summary(session, summary):
        # The text is there. What the platform says beside it follows; a retry sends the same requests again.
        session = await _update(call, Session(), [], summary, history.part(call.request_id, 1))
    return await _detail(call, session, 200, nulls=True)


async def _update(
    call: Call, changed: Session, fields: Sequence[str], summary: Json | None, request_id: str
) -> Session:
    """The session after an update of the fields, and of what is kept of a summary beside its text; None: of nothing."""
    changed.session_id = call.session_id
    asked = UpdateSessionRequest(
        session=changed,
        update_mask=FieldMask(paths=fields),
        request_id=request_id,
        expected_version=(expected_version(call.headers) or 0) if fields else 0,
    )
    if summary is not None:
        asked.struct_update = StructUpdate.STRUCT_UPDATE_SET_KEYS
        if sessions.keep_summary(asked.session, summary):
            asked.update_mask.paths.append("agent_data")
        else:
            asked.remove_keys.append(f"agent_data.{KEPT}")
    try:
        session: Session = await call.calls("UpdateSession", asked)
    except Problem as problem:
        if problem.reason != "SESSION_NOT_FOUND":
            raise
        raise Refused(404, f"Session with id '{call.session_id}' not found") from None
    return session


async def list_runs(call: Call) -> Answer:
    found, version, weight = await _views(call)
    if call.of_go:
        return Answer(200, {"runs": found}, version, weight)
    return Answer(200, [without_nulls(each) for each in found], version, weight)


async def list_run_previews(call: Call) -> Answer:
    found, version, weight = await _views(call)
    return Answer(200, [without_nulls(run_views.preview(each)) for each in found], version, weight)


async def _views(call: Call) -> tuple[list[Json], int, int]:
    """The runs that the query selects, with nulls, for the Go service as they are stored; the session's version; their
    weight."""
    kind = call.type()
    after, before = call.parameters.integer("created_after"), call.parameters.integer("created_before")
    call.parameters.check()
    statuses = {each.upper() for each in call.parameters.texts("status")}
    if unknown := sorted(statuses - set(STATUSES)):
        raise Refused(400, f"Invalid status value(s) {unknown}; expected one of {list(STATUSES)}")
    session = await call.session(kind, FULL, f"Session with ID {call.session_id} not found")
    stored, weight = await history.stored_runs(call.calls, session)
    chosen = [each for each in stored if _within(each.get("created_at"), after, before)]
    if call.of_go:
        return chosen, session.version, weight
    data = sessions.component_data(session)
    viewed = [view for each in chosen if (view := run_views.view(each, session, data)) is not None]
    wanted = [each for each in viewed if not statuses or str(each.get("status")).upper() in statuses]
    return wanted, session.version, weight


def _within(created: Any, after: int | None, before: int | None) -> bool:
    """Runs without a time are always chosen, as the platform does it."""
    if not isinstance(created, int | float):
        return True
    return (after is None or created >= after) and (before is None or created <= before)


async def get_run(call: Call) -> Answer:
    kind = call.type()
    call.parameters.check()
    session = await call.session(kind, FULL, f"Session with ID {call.session_id} not found")
    stored, weight = await history.stored_runs(call.calls, session)
    if not stored:
        raise Refused(404, f"Session with ID {call.session_id} has no runs")
    found = next((each for each in stored if each.get("run_id") == call.run_id), None)
    if found is None:
        raise Refused(404, f"Run with ID {call.run_id} not found in session {call.session_id}")
    view = found if call.of_go else run_views.single(found, session, sessions.component_data(session))
    return Answer(200, view, session.version, weight)


async def delete_session(call: Call) -> Answer:
    kind = call.type() if call.of_go else None
    wanted = call.parameters.switch("delete_media")
    call.parameters.check()
    _refuse_media(wanted)
    try:
        if call.of_go or call.parameters.text("user_id") is not None:
            await call.session(kind, BASIC)
        asked = DeleteSessionRequest(
            session_id=call.session_id, request_id=call.request_id, expected_version=expected_version(call.headers) or 0
        )
        await call.calls("DeleteSession", asked)
    except Missing:
        if call.of_go:
            raise
    except Problem as problem:
        # An id that no session can have is that of none.
        of_id = problem.reason == "INVALID_FIELD" and all(each.field == "session_id" for each in problem.fields)
        if not of_id and problem.reason != "SESSION_NOT_FOUND":
            raise
        if call.of_go:
            raise Refused(404, f"Session with id '{call.session_id}' not found") from None
    return Answer(204)


async def delete_sessions(call: Call) -> Answer:
    wanted = call.parameters.switch("delete_media")
    ids, types = await call.given(bodies.deleted)
    if len(ids) != len(types):
        raise Refused(400, "Session IDs and session types must have the same length")
    _refuse_media(wanted)
    user_id = call.parameters.text("user_id")
    # An id that no session can have is that of none.
    chosen = list(dict.fromkeys(filter(is_id, ids)))
    if user_id is not None:
        chosen = await _of_user(call.calls, chosen, user_id)
    for place in range(0, len(chosen), pages.STEP):
        request_id = history.part(call.request_id, place)
        asked = BatchDeleteSessionsRequest(session_ids=chosen[place : place + pages.STEP], request_id=request_id)
        await call.calls("BatchDeleteSessions", asked)
    return Answer(204)


async def _of_user(calls: Calls, ids: Sequence[str], user_id: str) -> list[str]:
    found, waiting = list[str](), list(ids)
    while waiting:
        asked = BatchGetSessionsRequest(session_ids=waiting[: pages.STEP], view=BASIC, consistency=STRONG)
        got = await calls("BatchGetSessions", asked)
        found += (each.session_id for each in got.sessions if each.user_id == user_id)
        waiting = [*got.omitted, *waiting[pages.STEP :]]
    return found


def _refuse_media(wanted: bool) -> None:
    if wanted:
        raise Refused(503, "Media storage is not configured on AgentOS")
