"""Errors as the platform words them, and as the Go service does."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sessiond_server.http.problems import Problem

Form = Literal["agentos", "go"]
"""Whose answers to give where the two differ."""

SESSION_TYPES: Final = ("agent", "team", "workflow")

Json = dict[str, Any]

FIELDS: Final[Mapping[str, str]] = {
    "session.name": "session_name",
    "session.state": "session_state",
    "session.summary": "summary",
    "session.agent_data": "agent_data",
}
"""Fields of our requests -> the platform's names; of others, `session.` is left out."""

_GO_CODES: Final[Mapping[int, str]] = {
    400: "BAD_REQUEST",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "SESSION_ALREADY_EXISTS",
    413: "REQUEST_TOO_LARGE",
    503: "UNAVAILABLE",
}


@dataclass
class Refused(Exception):
    """A refusal in the platform's own words."""

    status: int
    detail: str
    code: str = ""
    """The Go service's name of the error; empty: that of the status."""
    headers: Sequence[tuple[str, str]] = ()


class Missing(Refused):
    """There is no such session."""


@dataclass
class Invalid(Exception):
    """Values that break their rules, each with type, place and message, as FastAPI names them. No value is quoted."""

    faults: list[Json] = field(default_factory=list)


def fault(kind: str, place: Sequence[str | int], message: str, **context: Any) -> Json:
    """One broken rule."""
    found: Json = {"type": kind, "loc": list(place), "msg": message}
    if context:
        found["ctx"] = context
    return found


def not_one_of(place: Sequence[str | int], choices: Sequence[str]) -> Json:
    *most, last = [f"'{each}'" for each in choices]
    expected = f"{', '.join(most)} or {last}"
    return fault("enum", place, f"Input should be {expected}", expected=expected)


def refusal_of(problem: Problem) -> "Refused | Invalid":
    """What a refusal of the gRPC port, or of this one, is here."""
    if problem.reason == "INVALID_FIELD" and problem.fields:
        return Invalid([
            fault("value_error", ("body", _name(each.field)), each.description) for each in problem.fields
        ])  # fmt: skip
    headers = [each for each in problem.all_headers() if each[0] not in ("content-type", "cache-control")]
    return Refused(problem.status, problem.detail, problem.reason, headers)


def _name(path: str) -> str:
    return FIELDS.get(path, path.removeprefix("session."))


def answer(refusal: "Refused | Invalid", form: Form) -> tuple[int, list[tuple[str, str]], Json]:
    """Status, headers and body."""
    if isinstance(refusal, Refused):
        if form == "go":
            return refusal.status, list(refusal.headers), _envelope(refusal.status, refusal.code, refusal.detail)
        body: Json = {"detail": refusal.detail}
        if refusal.code:
            body["error_id"] = refusal.code
        return refusal.status, list(refusal.headers), body
    if form == "go":
        code = "INVALID_SESSION_TYPE" if any(each["loc"][-1] == "type" for each in refusal.faults) else ""
        return 400, [], _envelope(400, code, _sentence(refusal.faults))
    return 422, [], {"detail": refusal.faults}


def _sentence(faults: Iterable[Json]) -> str:
    return "; ".join(f"{'.'.join(str(each) for each in fault['loc'][1:])}: {fault['msg']}" for fault in faults)


def _envelope(status: int, code: str, message: str) -> Json:
    return {"status": "error", "code": code or _GO_CODES.get(status, "INTERNAL_SERVER_ERROR"), "message": message}
