"""Bodies, checked as the platform checks them: unknown members are ignored, and all that is wrong is named at once."""

from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sessiond_server.http import json_texts
from sessiond_server.http.agentos.refusals import SESSION_TYPES, Invalid, Json, fault, not_one_of
from sessiond_server.http.problems import Problem

Check = Callable[[Any, Sequence[str | int]], list[Json]]

MOST_RUNS: Final = 1000
"""Of a session that is created."""
MOST_DELETED: Final = 1000
"""Sessions of one request."""
RESERVED: Final = frozenset(("agno_component_version", "agno_dispatch_chain", "agno_dispatch_depth"))
"""Members of metadata that the platform's runtime owns, and takes from no caller."""


def parse(text: bytes) -> Any:
    """The value of a body; None for an empty one. Raises Invalid."""
    if not text:
        return None
    try:
        value = json_texts.load(text)
    except Problem as problem:
        if problem.status != 400:
            raise
        raise Invalid([fault("json_invalid", ("body",), "JSON decode error", error=problem.detail)]) from None
    try:
        # Half of a surrogate pair, which JSON can write, is in no text.
        json_texts.dump_dict({"": value})
    except UnicodeEncodeError:
        raise Invalid([fault("json_invalid", ("body",), "JSON decode error", error="half of a character")]) from None
    return value


def new_session(value: Any) -> Json:
    """The members of a request to create a session. Raises Invalid."""
    return _members({} if value is None else value, _NEW)


def update(value: Any) -> Json:
    """The members of a request to change a session. Raises Invalid."""
    return _members(_required(value), _UPDATE)


def name(value: Any) -> str:
    """The new name of a session. Raises Invalid."""
    if not isinstance(value, dict) or "session_name" not in value:
        raise Invalid([fault("missing", ("body", "session_name"), "Field required")])
    if faults := _text(value["session_name"], ("body", "session_name")):
        raise Invalid(faults)
    return str(value["session_name"])


def deleted(value: Any) -> tuple[list[str], list[str]]:
    """Ids and types of sessions to delete, not checked to be of one length. Raises Invalid."""
    checks = {"session_ids": _list(_text, 1, MOST_DELETED), "session_types": _list(_type, 1, MOST_DELETED)}
    found = _members(_required(value), checks, checks)
    return found["session_ids"], found["session_types"]


def _required(value: Any) -> Any:
    if value is None:
        raise Invalid([fault("missing", ("body",), "Field required")])
    return value


def _members(value: Any, checks: Mapping[str, Check], required: Container[str] = ()) -> Json:
    """The members that `checks` names, without nulls where they are not required."""
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise Invalid([fault("model_attributes_type", ("body",), message)])
    given: Json = {}
    faults: list[Json] = []
    for name, check in checks.items():
        if name in required and name not in value:
            faults.append(fault("missing", ("body", name), "Field required"))
        elif name in required or value.get(name) is not None:
            given[name] = value[name]
            faults += check(value[name], ("body", name))
    if faults:
        raise Invalid(faults)
    if isinstance(metadata := given.get("metadata"), dict) and RESERVED & metadata.keys():
        given["metadata"] = {key: each for key, each in metadata.items() if key not in RESERVED} or None
    return given


def _text(value: Any, place: Sequence[str | int]) -> list[Json]:
    return [] if isinstance(value, str) else [fault("string_type", place, "Input should be a valid string")]


def _object(value: Any, place: Sequence[str | int]) -> list[Json]:
    return [] if isinstance(value, dict) else [fault("dict_type", place, "Input should be a valid dictionary")]


def _type(value: Any, place: Sequence[str | int]) -> list[Json]:
    return [] if value in SESSION_TYPES else [not_one_of(place, SESSION_TYPES)]


def _list(check: Check, least: int, most: int) -> Check:
    def checked(value: Any, place: Sequence[str | int]) -> list[Json]:
        if not isinstance(value, list):
            return [fault("list_type", place, "Input should be a valid list")]
        if len(value) < least:
            plural = "s" if least != 1 else ""
            message = f"List should have at least {least} item{plural} after validation, not {len(value)}"
            return [fault("too_short", place, message, field_type="List", min_length=least, actual_length=len(value))]
        if len(value) > most:
            message = f"List should have at most {most} items after validation, not {len(value)}"
            return [fault("too_long", place, message, field_type="List", max_length=most, actual_length=len(value))]
        return [found for index, each in enumerate(value) for found in check(each, (*place, index))]

    return checked


def _moment(value: Any, place: Sequence[str | int]) -> list[Json]:
    if found := _text(value, place):
        return found
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return [fault("datetime_from_date_parsing", place, "Input should be a valid datetime")]
    return []


def _summary(value: Any, place: Sequence[str | int]) -> list[Json]:
    if found := _object(value, place):
        return found
    if "summary" not in value:
        return [fault("missing", (*place, "summary"), "Field required")]
    found = _text(value["summary"], (*place, "summary"))
    if value.get("topics") is not None:
        found += _list(_text, 0, 1000)(value["topics"], (*place, "topics"))
    if value.get("updated_at") is not None:
        found += _moment(value["updated_at"], (*place, "updated_at"))
    unknown = value.keys() - {"summary", "topics", "updated_at"}
    return found + [
        fault("extra_forbidden", (*place, each), "Extra inputs are not permitted") for each in sorted(unknown)
    ]


_UPDATE: Final[Mapping[str, Check]] = {
    "session_name": _text,
    "session_state": _object,
    "metadata": _object,
    "summary": _summary,
}
_NEW: Final[Mapping[str, Check]] = {
    "session_id": _text,
    **_UPDATE,
    "user_id": _text,
    "agent_id": _text,
    "team_id": _text,
    "workflow_id": _text,
    "agent_data": _object,
    "team_data": _object,
    "workflow_data": _object,
    "runs": _list(_object, 0, MOST_RUNS),
}
