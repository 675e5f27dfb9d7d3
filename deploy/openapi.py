"""Writes server/sessiond_server/http/openapi.json: the OpenAPI document of the HTTP interface, from its table of rules
and the comments of the protos.

    python -m deploy.openapi [--check]

Exit status 1 with --check: the file is not what would be written.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet

from sessiond_server.http import access_tokens, problems, queries
from sessiond_server.http.json_objects import is_map, is_repeated
from sessiond_server.http.paths import VARIABLE
from sessiond_server.http.rules import AG_UI, AI_SDK, RPCS, RULES, SERVICES, WHOLE, Rule

ROOT = Path(__file__).parents[1]
WRITTEN = ROOT / "server" / "sessiond_server" / "http" / "openapi.json"

Schema = dict[str, Any]

_F = FieldDescriptor
INTEGERS = (_F.TYPE_INT32, _F.TYPE_UINT32, _F.TYPE_SINT32, _F.TYPE_FIXED32, _F.TYPE_SFIXED32)
FLOATS = (_F.TYPE_DOUBLE, _F.TYPE_FLOAT)
WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["3.5s"]},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Struct": {"type": "object"},
}
LONG: Schema = {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}

INTRODUCTION = """\
JSON over HTTP for sessiond. Each operation is an RPC of the gRPC API, of which these descriptions speak; docs/http.md
says how the two correspond. Names are those of the protos; lowerCamelCase is taken too. 64-bit integers are strings in
answers; requests may have numbers. Fields with their default are left out of answers. Errors are
application/problem+json."""

HEADERS: Mapping[str, Schema] = {
    "request_id": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A retry with the same key and the same content has one effect.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:~-]{1,128}$"},
    },
    "expected_version": {
        "name": "If-Match",
        "in": "header",
        "description": 'The version to write to, as the ETag of answers has it: `"12"`.',
        "schema": {"type": "string", "pattern": r'^("[0-9]{1,19}"|\*)$'},
    },
    "position": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The `id` of the last event that was received: where to go on, before `position`.",
        "schema": {"type": "string", "maxLength": 4096},
    },
}
"""Headers, by the fields of requests that they carry."""

BINARY: Schema = {"type": "string", "format": "binary"}
DIGEST_HEADER: Schema = {
    "description": "`sha-256=:BASE64:`, of the whole file.",
    "schema": {"type": "string", "pattern": "^sha-256=:[A-Za-z0-9+/]{43}=:$"},
}
FILES: Mapping[str, str] = {
    "UploadAttachment": (
        "Uploads a file, whole or in parts: the body is its bytes, `Content-Type` its media type. Parts come in order, "
        "each with `Content-Range`; 202 says how much is stored, and so does `upload` beside this path, for a client "
        "that was cut off. The file is an attachment once its last byte is there and the digest is right."
    ),
    "DownloadAttachment": (
        "Sends the bytes of an attachment, or the part that `Range` names. Browsers save it, and never show it as a "
        "page."
    ),
}
RUN_STREAM = (
    "all of it from its beginning, and what happens until it ends. A stream without its last event was broken off: "
    "call again."
)
RUN_STREAMS: Mapping[str, tuple[str, str, str]] = {
    AI_SDK: (
        "streamRunForAiSdk",
        "Sends a run as the data stream of Vercel's AI SDK",
        "Server-sent events, each a chunk of the AI SDK's UI message stream (version 1); the last is `[DONE]`.",
    ),
    AG_UI: (
        "streamRunForAgUi",
        "Sends a run as events of the AG-UI protocol",
        "Server-sent events, each an event of AG-UI; the last is RUN_FINISHED or RUN_ERROR.",
    ),
}
"""Of each form: the operation's id, what it does, and its answer."""
UPLOAD_HEADERS: list[Schema] = [
    {"name": "Repr-Digest", "in": "header", "required": True, **DIGEST_HEADER},
    {
        "name": "Content-Range",
        "in": "header",
        "description": "Which part the body is: `bytes FIRST-LAST/SIZE`. Without it, the body is the whole file.",
        "schema": {"type": "string", "pattern": "^bytes [0-9]{1,16}-[0-9]{1,16}/[0-9]{1,16}$"},
    },
    HEADERS["request_id"],
]
DOWNLOAD_HEADERS: list[Schema] = [
    {
        "name": name,
        "in": "header",
        "description": text,
        "schema": {"type": "string"},
    }
    for name, text in (
        ("Range", "Which part to send: `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LENGTH`."),
        ("If-Range", "The `ETag` of the file that the part is of; another file is sent whole."),
        ("If-None-Match", "Answers 304 where the file has this `ETag`."),
    )
]

ACCESS_TOKEN: Schema = {
    "name": access_tokens.NAME,
    "in": "query",
    "description": "A session token (CreateSessionToken), for an EventSource, which can send no headers. No key.",
    "schema": {"type": "string", "maxLength": 1024},
}


def comments() -> dict[str, str]:
    """The comments of the protos, by full names of messages, fields, enums, values, services and RPCs."""
    buf = Path(sys.executable).parent / "buf"
    built = subprocess.run(
        [buf, "build", "protos", "--output", "-#format=binpb"],
        cwd=ROOT,
        env={**os.environ, "BUF_CACHE_DIR": "build/buf"},
        check=True,
        stdout=subprocess.PIPE,
    )
    found: dict[str, str] = {}
    for file in FileDescriptorSet.FromString(built.stdout).file:
        if file.package != "sessiond.v1":
            continue
        names: dict[tuple[int, ...], str] = {}
        for number, message in enumerate(file.message_type):
            names.update(_names((4, number), f"{file.package}.{message.name}", message))
        for number, enum in enumerate(file.enum_type):
            names[(5, number)] = f"{file.package}.{enum.name}"
            for place, value in enumerate(enum.value):
                names[(5, number, 2, place)] = f"{file.package}.{enum.name}.{value.name}"
        for number, service in enumerate(file.service):
            names[(6, number)] = f"{file.package}.{service.name}"
            for place, method in enumerate(service.method):
                names[(6, number, 2, place)] = f"{file.package}.{service.name}.{method.name}"
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name is not None and location.leading_comments:
                found[name] = _prose(location.leading_comments)
    return found


def _names(path: tuple[int, ...], name: str, message: DescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    for number, field in enumerate(message.field):
        yield (*path, 2, number), f"{name}.{field.name}"
    for number, inner in enumerate(message.nested_type):
        yield from _names((*path, 3, number), f"{name}.{inner.name}", inner)


def _prose(comment: str) -> str:
    """Lines joined to paragraphs; what is indented stays as it is."""
    paragraphs: list[list[str]] = [[]]
    for line in comment.splitlines():
        text = line.removeprefix(" ").rstrip()
        if not text:
            paragraphs.append([])
        else:
            paragraphs[-1].append(text)
    return "\n\n".join(
        "\n".join(each) if any(line.startswith(" ") for line in each) else " ".join(each) for each in paragraphs if each
    )


class Document:
    """The document in the making."""

    def __init__(self, said: Mapping[str, str], version: str) -> None:
        self._said = said
        self._version = version
        self._schemas: dict[str, Schema] = {"Problem": _problem()}

    def whole(self) -> Schema:
        paths: dict[str, dict[str, Schema]] = {}
        for rule in RULES:
            path = VARIABLE.sub(lambda found: "{" + _variable(found[1]) + "}", rule.path)
            paths.setdefault(path, {})[rule.method.lower()] = self._operation(rule)
        paths["/healthz"] = {"get": _health()}
        tags = [{"name": each.name, "description": self._said[each.full_name]} for each in SERVICES]
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "sessiond",
                "version": self._version,
                "description": INTRODUCTION.replace("\n", " "),
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "security": [{"key": []}, {}],
            "tags": tags,
            "paths": paths,
            "components": {
                "schemas": dict(sorted(self._schemas.items())),
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }

    def _operation(self, rule: Rule) -> Schema:
        rpc = RPCS[rule.rpc]
        assert rpc.containing_service is not None
        if rule.form:
            return self._of_run(rule, rpc)
        if rule.elsewhere:
            return self._of_file(rule, rpc)
        said = self._said[rpc.full_name]
        made: Schema = {
            "operationId": _operation_id(rule),
            "tags": [rpc.containing_service.name],
            "summary": re.split(r"(?<=[.:]) ", said, maxsplit=1)[0].rstrip("."),
            "description": said,
            "parameters": [*self._parameters(rule, rpc)],
            "responses": {**self._success(rule, rpc), "default": _refusal()},
        }
        if rule.body:
            made["requestBody"] = self._body(rule, rpc)
        return made

    def _of_file(self, rule: Rule, rpc: MethodDescriptor) -> Schema:
        """An operation whose body, or answer, is the bytes of a file."""
        assert rpc.containing_service is not None
        up = rpc.client_streaming
        said = FILES[rule.rpc]
        made: Schema = {
            "operationId": _operation_id(rule),
            "tags": [rpc.containing_service.name],
            "summary": re.split(r"(?<=[.:]) ", said, maxsplit=1)[0].rstrip("."),
            "description": said,
            "parameters": [*self._parameters(rule, rpc), *(UPLOAD_HEADERS if up else DOWNLOAD_HEADERS)],
        }
        tag = {"ETag": {"description": "Names the content.", "schema": {"type": "string"}}}
        if up:
            made["requestBody"] = {"required": True, "content": {"*/*": {"schema": BINARY}}}
            parts = {"description": "How much of the file is stored.", "content": self._json("UploadStatus")}
            whole = {"description": "The attachment.", "content": self._json("Attachment"), "headers": tag}
            made["responses"] = {"200": whole, "202": parts, "default": _refusal()}
        else:
            file = {"content": {"*/*": {"schema": BINARY}}, "headers": {**tag, "Repr-Digest": DIGEST_HEADER}}
            made["responses"] = {
                "200": {"description": "The whole file.", **file},
                "206": {"description": "The part that `Range` names; `Content-Range` says which it is.", **file},
                "304": {"description": "The client has it.", "headers": tag},
                "default": _refusal(),
            }
        return made

    def _of_run(self, rule: Rule, rpc: MethodDescriptor) -> Schema:
        assert rpc.containing_service is not None
        name, what, text = RUN_STREAMS[rule.form]
        stream = {"description": text, "content": {"text/event-stream": {"schema": {"type": "string"}}}}
        made: Schema = {
            "operationId": name,
            "tags": [rpc.containing_service.name],
            "summary": what,
            "description": f"{what}: {RUN_STREAM}",
            "parameters": [*self._parameters(rule, rpc)],
            "responses": {"200": stream, "default": _refusal()},
        }
        if rule.method == "POST":
            made["operationId"] += "ByPost"
            made["description"] += " The body, AG-UI's RunAgentInput, changes nothing: no run begins."
            made["requestBody"] = {"required": False, "content": {"application/json": {"schema": {"type": "object"}}}}
        return made

    def _json(self, name: str) -> Schema:
        messages = RPCS["GetUploadStatus"].output_type.file.message_types_by_name
        message = messages.get(name) or RPCS["GetAttachment"].output_type
        assert message.name == name
        return {"application/json": {"schema": self._known(message)}}

    def _parameters(self, rule: Rule, rpc: MethodDescriptor) -> Iterator[Schema]:
        for path in VARIABLE.findall(rule.path):
            field = _field(rpc.input_type, path)
            name = _variable(path)
            schema = {"type": "string", "minLength": 1}
            yield {"name": name, "in": "path", "required": True, "schema": schema, **self._described(field)}
        for parameter in queries.parameters(rule).values():
            found: Schema = {"name": parameter.name, "in": "query", **self._described(parameter.field)}
            if parameter.is_json:
                found["content"] = {"application/json": {"schema": {"type": "object"}}}
            else:
                found["schema"] = self._of_field(parameter.field)
                if parameter.is_map:
                    found |= {"style": "deepObject", "explode": True}
            yield found
        if rule.rpc == access_tokens.TAKEN_BY:
            yield ACCESS_TOKEN
        names = rpc.input_type.fields_by_name
        yield from (header for name, header in HEADERS.items() if name in names and _carries(rule, name))

    def _body(self, rule: Rule, rpc: MethodDescriptor) -> Schema:
        if rule.body != WHOLE:
            schema = self._of_field(rpc.input_type.fields_by_name[rule.body])
        else:
            taken = {*VARIABLE.findall(rule.path), *queries.HEADERS}
            name = rpc.input_type.name
            self._schemas[name] = self._message(rpc.input_type, taken)
            schema = _reference(name)
        return {"required": rule.body != WHOLE, "content": {"application/json": {"schema": schema}}}

    def _success(self, rule: Rule, rpc: MethodDescriptor) -> Schema:
        if rpc.server_streaming:
            self._known(rpc.output_type)
            events = [field.name for field in rpc.output_type.oneofs_by_name["frame"].fields]
            text = (
                f"Server-sent events named {', '.join(events)}, whose data is that field of {rpc.output_type.name} and "
                "whose id is the position after it; the last one is `end`."
            )
            return {"200": {"description": text, "content": {"text/event-stream": {"schema": {"type": "string"}}}}}
        answer: Schema = {
            "description": self._said.get(rpc.output_type.full_name, "The answer.").partition("\n")[0],
            "content": {"application/json": {"schema": self._known(rpc.output_type)}},
        }
        headers: Schema = {}
        if "version" in rpc.output_type.fields_by_name:
            headers["ETag"] = {"description": "The version.", "schema": {"type": "string"}}
        if rule.made:
            headers["Location"] = {"description": "Where what was made is.", "schema": {"type": "string"}}
        if headers:
            answer["headers"] = headers
        return {"201" if rule.made else "200": answer}

    def _known(self, message: Descriptor) -> Schema:
        """A reference to the schema of a message."""
        if message.name not in self._schemas:
            self._schemas[message.name] = {}  # messages may contain themselves
            self._schemas[message.name] = self._message(message, set())
        return _reference(message.name)

    def _message(self, message: Descriptor, left_out: set[str]) -> Schema:
        properties = {}
        for field in message.fields:
            if field.name not in left_out:
                properties[field.name] = {**self._of_field(field), **self._described(field)}
        said = self._said.get(message.full_name, "")
        for oneof in message.oneofs:
            if len(oneof.fields) > 1:
                said += f"\n\nAt most one of {', '.join(field.name for field in oneof.fields)}."
        return {"type": "object", "description": said.strip(), "properties": properties}

    def _of_field(self, field: FieldDescriptor) -> Schema:
        if is_map(field):
            assert field.message_type is not None
            return {"type": "object", "additionalProperties": self._of_one(field.message_type.fields_by_name["value"])}
        if is_repeated(field):
            return {"type": "array", "items": self._of_one(field)}
        return self._of_one(field)

    def _of_one(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            known = WELL_KNOWN.get(field.message_type.full_name)
            return dict(known) if known is not None else self._known(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if field.type == _F.TYPE_BOOL:
            return {"type": "boolean"}
        if field.type == _F.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        if field.type in INTEGERS:
            return {"type": "integer", "format": "int32"}
        if field.type in FLOATS:
            return {"type": "number", "format": "double"}
        return {"type": "string"} if field.type == _F.TYPE_STRING else dict(LONG)

    def _enum(self, enum: EnumDescriptor) -> Schema:
        if enum.name not in self._schemas:
            values = [f"- {each.name}: {self._said.get(f'{enum.full_name}.{each.name}', '')}" for each in enum.values]
            text = "\n".join([self._said.get(enum.full_name, ""), "", *values])
            names = [each.name for each in enum.values]
            self._schemas[enum.name] = {"type": "string", "description": text.strip(), "enum": names}
        return _reference(enum.name)

    def _described(self, field: FieldDescriptor) -> Schema:
        assert field.containing_type is not None
        said = self._said.get(f"{field.containing_type.full_name}.{field.name}")
        return {} if said is None else {"description": said}


def _field(message: Descriptor | None, path: str) -> FieldDescriptor:
    name, _, rest = path.partition(".")
    assert message is not None
    field = message.fields_by_name[name]
    return _field(field.message_type, rest) if rest else field


def _carries(rule: Rule, name: str) -> bool:
    """Whether a header carries the field."""
    return RPCS[rule.rpc].server_streaming == (name == "position")


def _variable(path: str) -> str:
    """The name of a path's variable: that of the last field."""
    return path.rpartition(".")[2]


def _operation_id(rule: Rule) -> str:
    owner = next((value for name, value in rule.fixed if name.endswith("scope")), "")
    return f"{rule.rpc}Of{owner.rpartition('_')[2].title()}" if owner else rule.rpc


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _refusal() -> Schema:
    return {
        "description": f"Refused: {', '.join(str(each) for each in sorted({*problems.CODES.values()}))} and others.",
        "content": {"application/problem+json": {"schema": _reference("Problem")}},
    }


def _problem() -> Schema:
    text = {"type": "string"}
    broken = {
        "type": "object",
        "required": ["field", "description"],
        "properties": {"field": text, "description": text},
    }
    return {
        "type": "object",
        "description": "Why a request is refused (RFC 9457).",
        "required": ["type", "title", "status", "detail", "reason", "request_id"],
        "properties": {
            "type": {"const": "about:blank"},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "reason": {"type": "string", "description": "A name of ErrorReason without its prefix, or one of HTTP."},
            "request_id": {"type": "string", "description": "The id of the call, which logs have too."},
            "metadata": {"type": "object", "additionalProperties": text},
            "fields": {"type": "array", "items": broken},
            "retry_after_ms": {"type": "integer", "description": "When a retry may help."},
        },
    }


def _health() -> Schema:
    schema = {"type": "object", "required": ["status"], "properties": {"status": {"enum": ["SERVING", "NOT_SERVING"]}}}
    content = {"application/json": {"schema": schema}}
    return {
        "operationId": "Health",
        "summary": "Whether the service answers calls",
        "security": [{}],
        "responses": {
            "200": {"description": "It does.", "content": content},
            "503": {"description": "It starts, stops, or has lost its database.", "content": content},
            "default": _refusal(),
        },
    }


def document() -> str:
    """The text of the document."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return json.dumps(Document(comments(), version).whole(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    text = document()
    if parser.parse_args().check:
        if not WRITTEN.exists() or WRITTEN.read_text("utf-8") != text:
            print(f"{WRITTEN.relative_to(ROOT)} is not what the rules and the protos say: run make openapi")
            return 1
        return 0
    WRITTEN.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
