"""The OpenAPI document: valid, current, and true of what is answered."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from deploy import openapi
from openapi_spec_validator import OpenAPIV31SpecValidator

from sessiond_server.auth import new_key
from sessiond_server.http.rules import RPCS, RULES
from tests.support.requests import VALID, stock
from tests.support.rows import table
from tests.support.serve_process import serving
from tests.support.waiting import PATIENCE
from tests.support.web import MEMORY, Web, http_request, opened_web, rule_of, url_of

DOCUMENT: dict[str, Any] = json.loads(openapi.WRITTEN.read_text("utf-8"))


def test_document_is_what_the_rules_and_the_protos_say() -> None:
    """Else: make openapi."""
    assert openapi.document() == openapi.WRITTEN.read_text("utf-8")


def test_document_is_valid() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_rule_has_an_operation_with_a_description() -> None:
    operations = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) == len(RULES) + 1
    assert all(operation["summary"] for operation in operations)
    with table() as rows:
        for name, schema in DOCUMENT["components"]["schemas"].items():
            with rows.row(name):
                for field, inner in schema.get("properties", {}).items():
                    assert inner, field
                    assert name == "Problem" or inner.get("description") or "$ref" in inner, field


async def test_document_is_served_without_a_key(web: Web) -> None:
    answer = await web.client.get("/v1/openapi.json", headers={"authorization": ""})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DOCUMENT


async def test_answers_are_as_the_document_says() -> None:
    closed = _closed(DOCUMENT["components"])
    with table() as rows:
        for rpc in ("CreateSession", "GetSession", "ListMessages", "GetToolCall", "GetDocument", "BatchUpdateSessions"):
            with rows.row(rpc):
                async with opened_web() as web:
                    await stock(web.wire)
                    sent = http_request(rule_of(rpc, VALID[rpc]), VALID[rpc])
                    answer = await web.client.request(sent.method, sent.url, json=sent.body, headers=sent.headers)
                    reference = {"$ref": f"#/components/schemas/{RPCS[rpc].output_type.name}"}
                    jsonschema.validate(answer.json(), {**reference, "components": closed})
                    refused = await web.get("/v1/sessions/none")
                    problem = {"$ref": "#/components/schemas/Problem", "components": closed}
                    jsonschema.validate(refused.json(), problem)


def _closed(schema: Any) -> Any:
    """The schema without room for members that it does not name."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(inner) for name, inner in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found["additionalProperties"] = False
    return found


@pytest.mark.long
async def test_made_up_requests_get_documented_answers_and_none_is_a_defect(tmp_path: Path) -> None:
    key, entry = new_key("tester", "default")
    keys = tmp_path / "keys.toml"
    keys.write_text(entry)
    async with serving(*MEMORY, "--keys-file", keys) as server:
        url = url_of(server)
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        program = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).parent / "schemathesis", "run", f"{url}/v1/openapi.json"),
            *("--checks", checks, "--max-examples", "5", "--header", f"Authorization: Bearer {key}"),
            *("--exclude-path-regex", "/events$", "--phases", "fuzzing", "--seed", "17"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(4 * PATIENCE):
            said, _ = await program.communicate()
        assert program.returncode == 0, said.decode()[-20_000:]


async def test_document_takes_its_own_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers need no key, and may receive slowly."""
    monkeypatch.setattr("sessiond_server.http.door.MOST_OPEN_UNSENT", 1000)
    async with opened_web() as web:
        assert b"openapi" not in await web.raw(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await web.wire.create("s")
        await web.wire.append("s", "x" * 20_000)
        assert len((await web.get("/v1/sessions/s/messages")).content) > 20_000
