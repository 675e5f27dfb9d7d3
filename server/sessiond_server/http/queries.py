"""From query parameters to fields of a request: which parameters a rule has follows from the request's message."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from sessiond_server.http import json_texts
from sessiond_server.http.json_objects import is_map, is_repeated
from sessiond_server.http.paths import VARIABLE
from sessiond_server.http.problems import Problem, invalid, malformed
from sessiond_server.http.rules import RPCS, WHOLE, Rule

MOST_PARAMETERS: Final = 1000
HEADERS: Final = ("request_id", "expected_version")
"""Fields that headers carry: Idempotency-Key and If-Match."""

TEXTS: Final = ("google.protobuf.Timestamp", "google.protobuf.Duration")
MASK: Final = "google.protobuf.FieldMask"
STRUCT: Final = "google.protobuf.Struct"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query parameter."""

    name: str
    path: tuple[str, ...]
    """Names of fields, from the request inwards."""
    field: FieldDescriptor

    @property
    def is_map(self) -> bool:
        """Whether it is given as `name[key]=value`, any number of times."""
        return is_map(self.field)

    @property
    def is_repeated(self) -> bool:
        return is_repeated(self.field) and not self.is_map

    @property
    def is_json(self) -> bool:
        """Whether the value is a JSON text."""
        return kind(self.field) == STRUCT


def kind(field: FieldDescriptor) -> str:
    """The full name of a field's message; "" for a scalar."""
    return "" if field.message_type is None else field.message_type.full_name


@cache
def parameters(rule: Rule) -> Mapping[str, Parameter]:
    """The query parameters of a rule, by name."""
    if rule.body == WHOLE:
        return {}
    taken = {*VARIABLE.findall(rule.path), *dict(rule.fixed), rule.body, *HEADERS, *rule.elsewhere}
    return {each.name: each for each in _parameters(RPCS[rule.rpc].input_type, rule.flat, taken, (), "")}


def _parameters(
    message: Descriptor | None, flat: Sequence[str], taken: set[str], path: tuple[str, ...], prefix: str
) -> Iterator[Parameter]:
    assert message is not None
    for field in message.fields:
        here = (*path, field.name)
        if ".".join(here) in taken:
            continue
        if not kind(field) or is_map(field) or kind(field) in (*TEXTS, MASK, STRUCT):
            yield Parameter(prefix + field.name, here, field)
        elif not is_repeated(field):
            inner = prefix if field.name in flat else f"{prefix}{field.name}."
            yield from _parameters(field.message_type, flat, taken, here, inner)


def fields(rule: Rule, query: bytes) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The fields that a query string sets, each with its value in JSON. Raises Problem."""
    known = parameters(rule)
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS
        )
    except ValueError:
        raise malformed("the query is not percent-encoded UTF-8, or has too many parameters") from None
    found: dict[str, Any] = {}
    for given, value in pairs:
        name, bracket, rest = given.partition("[")
        parameter = known.get(name)
        if parameter is None or bool(bracket) != parameter.is_map or (bracket and not rest.endswith("]")):
            raise invalid(given[:200], "there is no such parameter")
        if parameter.is_map:
            entries = found.setdefault(name, {})
            if rest[:-1] in entries:
                raise invalid(name, "has a key twice")
            entries[rest[:-1]] = value
        elif parameter.is_repeated:
            found.setdefault(name, []).append(_value(parameter, value))
        elif name in found:
            raise invalid(name, "may be given once")
        else:
            found[name] = _value(parameter, value)
    for name, value in found.items():
        yield known[name].path, value


def _value(parameter: Parameter, text: str) -> Any:
    """The value in protobuf's JSON mapping, which takes numbers as texts too."""
    if parameter.field.type == FieldDescriptor.TYPE_BOOL:
        if text not in ("true", "false"):
            raise invalid(parameter.name, "must be true or false")
        return text == "true"
    if parameter.is_json:
        try:
            return json_texts.load(text.encode())
        except Problem:
            raise invalid(parameter.name, "must be a JSON object, without a key twice") from None
    if kind(parameter.field) == MASK:
        return camel_paths(text)
    return text


def camel_paths(mask: str) -> str:
    """A field mask as protobuf's JSON mapping has it, from one with the names of the protos, or from itself."""
    first, *others = mask.split("_")
    return first + "".join(each[:1].upper() + each[1:] for each in others)
