"""Writes the requests of the HTTP interface for Postman, Bruno and others that read its form (collection, version 2.1),
from the OpenAPI document.

    python -m deploy.postman FILE
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from deploy.openapi import document

FORM: Final = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"

Json = dict[str, Any]

VARIABLES: Final[Mapping[str, str]] = {
    "base_url": "http://localhost:50080",
    "key": "",
    "session_id": "first",
    "message_id": "m1",
    "run_id": "r1",
    "tool_call_id": "c1",
    "attachment_id": "report",
    "document_key": "notes",
    "template_id": "support",
    "hold_id": "h1",
    "scope_id": "ada",
    "user_id": "ada",
    "fence": "4",
}
"""Values to begin with. The key is empty: the bundled service on this machine needs none."""
ALIASES: Final[Mapping[str, str]] = {"key": "document_key"}
"""Names of path variables -> ours, where the last part of their name would say little."""

_DOCUMENT: Final = {"json": '{"likes": "trains"}'}
BODIES: Final[Mapping[str, Any]] = {
    "CreateSession": {"session_id": "{{session_id}}", "user_id": "{{user_id}}", "status": "SESSION_STATUS_ACTIVE"},
    "UpdateSession": {"name": "Trains"},
    "AppendMessages": {
        "messages": [{"message_id": "{{message_id}}", "role": "ROLE_USER", "parts": [{"text": "Hello"}]}]
    },
    "BeginRun": {"run": {"run_id": "{{run_id}}", "lease": "60s"}},
    "HeartbeatRun": {"run": {"fence": "{{fence}}"}},
    "FinishRun": {"run": {"fence": "{{fence}}"}, "status": "RUN_STATUS_COMPLETED"},
    "RequestToolCall": {"tool_call": {"tool_call_id": "{{tool_call_id}}", "name": "search", "requires_approval": True}},
    **{f"PutDocumentOf{owner}": _DOCUMENT for owner in ("Tenant", "Agent", "User", "Session")},
    "PutTemplate": {"session": {"labels": {"team": "support"}, "config": {"max_messages": 200}}},
    "SearchMessages": {"query": "hello"},
    "SearchSessions": {"query": "trains"},
}
"""Bodies that work as they are. Others have the names of their fields."""


def collection() -> str:
    """The text of the collection."""
    found = json.loads(document())
    folders: dict[str, list[Json]] = {}
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            folder = operation.get("tags", ["Service"])[0]
            folders.setdefault(folder, []).append(_item(path, method, operation, found["components"]["schemas"]))
    whole = {
        "info": {"name": "sessiond", "schema": FORM, "description": found["info"]["description"]},
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{key}}", "type": "string"}]},
        "variable": [{"key": name, "value": value} for name, value in VARIABLES.items()],
        "item": [{"name": folder, "item": items} for folder, items in folders.items()],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _item(path: str, method: str, operation: Json, schemas: Json) -> Json:
    parameters = operation.get("parameters", [])
    headers = [
        {"key": each["name"], "value": "", "disabled": True, "description": _first(each)}
        for each in parameters
        if each["in"] == "header"
    ]
    request: Json = {"method": method.upper(), "url": _url(path, parameters), "header": headers}
    if body := operation.get("requestBody"):
        content = body["content"]
        if "application/json" in content:
            headers.insert(0, {"key": "Content-Type", "value": "application/json"})
            example = BODIES.get(operation["operationId"])
            if example is None:
                example = _skeleton(content["application/json"]["schema"], schemas)
            request["body"] = {"mode": "raw", "raw": json.dumps(example, indent=2, ensure_ascii=False)}
        else:
            request["body"] = {"mode": "file", "file": {"src": ""}}
    if operation.get("security") == [{}]:
        request["auth"] = {"type": "noauth"}
    return {"name": operation["operationId"], "request": {**request, "description": operation["summary"]}}


def _url(path: str, parameters: list[Json]) -> Json:
    query = [
        {"key": each["name"], "value": "", "disabled": True, "description": _first(each)}
        for each in parameters
        if each["in"] == "query"
    ]
    # Not as `:name`, which ends at the next slash only: in sessiond a colon and a verb may follow.
    named = re.sub(r"\{([a-z_.]+)\}", lambda found: "{{" + _variable(found[1]) + "}}", path)
    return {
        "raw": "{{base_url}}" + named,
        "host": ["{{base_url}}"],
        "path": named.removeprefix("/").split("/"),
        **({"query": query} if query else {}),
    }


def _variable(name: str) -> str:
    last = name.rpartition(".")[2]
    return ALIASES.get(last, last)


def _first(parameter: Json) -> str:
    """The first sentence of a description."""
    return str(parameter.get("description", "")).partition("\n")[0].partition(". ")[0]


def _skeleton(schema: Json, schemas: Json) -> Json:
    """The names of a body's fields, each with nothing."""
    resolved = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return dict(_fields(resolved, schemas))


def _fields(schema: Json, schemas: Json) -> Iterator[tuple[str, Any]]:
    empty = {"string": "", "integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}
    for each in schema.get("allOf", ()):
        yield from _skeleton(each, schemas).items()
    for name, field in schema.get("properties", {}).items():
        if not field.get("readOnly"):
            yield name, empty.get(field.get("type", ""), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("file", type=Path, help="where to write the collection")
    written: Path = parser.parse_args().file
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(collection(), "utf-8")


if __name__ == "__main__":
    main()
