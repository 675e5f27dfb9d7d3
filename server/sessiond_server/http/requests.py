"""From an HTTP request to the message of an RPC."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from sessiond_server.http import json_texts, queries
from sessiond_server.http.json_objects import is_repeated
from sessiond_server.http.problems import invalid, malformed
from sessiond_server.http.rules import RPCS, WHOLE, Rule

_ETAG: Final = re.compile(r'"(\d{1,19})"')


def message(rule: Rule, captured: Mapping[str, str], query: bytes, body: bytes, headers: Mapping[str, str]) -> Message:
    """The request message. `headers`: by names in small letters. Raises Problem."""
    descriptor = RPCS[rule.rpc].input_type
    fields: dict[str, Any] = {}
    if body:
        value = json_texts.load(body)
        if not rule.body:
            raise malformed("this request has no body")
        if not isinstance(value, dict):
            raise malformed("the body must be a JSON object")
        fields = value if rule.body == WHOLE else {rule.body: value}
    elif rule.body and rule.body != WHOLE:
        raise malformed("the body must be a JSON object")
    for path, text in (*rule.fixed, *captured.items()):
        _put(fields, descriptor, path.split("."), text)
    for names, value in queries.fields(rule, query):
        _put(fields, descriptor, names, value)
    for name, value in _by_header(rule, descriptor, headers):
        _put(fields, descriptor, [name], value)
    made = GetMessageClass(descriptor)()
    if not body and all(_is_text(descriptor, name, value) for name, value in fields.items()):
        for name, value in fields.items():
            setattr(made, name, value)
    else:
        json_texts.fill(made, fields)
    return made


def _is_text(descriptor: Descriptor, name: str, value: Any) -> bool:
    """Whether the value is that of a text field, which needs no conversion."""
    field = descriptor.fields_by_name.get(name)
    return isinstance(value, str) and field is not None and field.type == field.TYPE_STRING and not is_repeated(field)


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The request id that a header gives; None: none."""
    key = headers.get("idempotency-key")
    # The draft of the header's standard has it in quotes; most callers send it bare.
    return key[1:-1] if key is not None and len(key) > 1 and key[0] == key[-1] == '"' else key


def expected_version(headers: Mapping[str, str]) -> int | None:
    """The version that a header demands; None: any. Raises Problem."""
    match = headers.get("if-match", "*").strip()
    if match == "*":
        return None
    if (version := _ETAG.fullmatch(match)) is None:
        raise invalid("if-match", 'must be one version in quotes, such as "12", or *')
    return int(version[1])


def _by_header(rule: Rule, descriptor: Descriptor, headers: Mapping[str, str]) -> Sequence[tuple[str, Any]]:
    """Fields that headers carry."""
    found: list[tuple[str, Any]] = []
    names = descriptor.fields_by_name
    if (key := idempotency_key(headers)) is not None and "request_id" in names:
        found.append(("request_id", key))
    if (version := expected_version(headers)) is not None:
        if "expected_version" not in names:
            raise invalid("if-match", "this request has no version to match")
        if not version and not names["expected_version"].has_presence:
            # It would stand for "any version".
            raise invalid("if-match", "must be a version, which begin at 1")
        found.append(("expected_version", str(version)))
    if (none := headers.get("if-none-match")) is not None and rule.method != "GET":
        if none.strip() != "*" or "expected_version" not in names or not names["expected_version"].has_presence:
            raise invalid("if-none-match", "only a document can be put where there is none, with *")
        found.append(("expected_version", "0"))
    if (last := headers.get("last-event-id")) and RPCS[rule.rpc].server_streaming:
        found.append(("position", last))
    return found


def _put(target: Any, descriptor: Descriptor, path: Sequence[str], value: Any) -> None:
    """Sets a field of a JSON object. One that is there must be the same; of a position, the later one counts."""
    for place, name in enumerate(path):
        if not isinstance(target, dict):
            raise invalid(".".join(path[:place]), "must be an object")
        field = descriptor.fields_by_name[name]
        key = field.json_name if field.json_name in target else name
        if place < len(path) - 1:
            target = target.setdefault(key, {})
            assert field.message_type is not None
            descriptor = field.message_type
        elif name != "position" and key in target and str(target[key]) != str(value):
            raise invalid(".".join(path), "differs from what the path or a header says")
        else:
            target[key] = value
