"""The collection for Postman: complete, and its requests work as they are."""

import json
import re
from typing import Any

import httpx
from deploy import openapi, postman

from tests.support.rows import table
from tests.support.web import Web

COLLECTION: dict[str, Any] = json.loads(postman.collection())
ITEMS = {item["name"]: item["request"] for folder in COLLECTION["item"] for item in folder["item"]}
VARIABLES = {each["key"]: each["value"] for each in COLLECTION["variable"]}

WORKING = (
    *("CreateSession", "UpdateSession", "AppendMessages", "BeginRun", "HeartbeatRun", "RequestToolCall"),
    *("ListMessages", "ListToolCalls", "ListPendingApprovals", "FinishRun", "GetRun", "ListSessions", "CountSessions"),
    *("PutDocumentOfUser", "GetDocumentOfUser", "ListDocumentsOfUser", "GetSession", "DeleteSession"),
    *("PutTemplate", "GetTemplate", "ListTemplates", "DeleteTemplate"),
)
"""Requests that a new service answers well, one after the other, as they are."""


def test_collection_has_every_operation() -> None:
    document = json.loads(openapi.document())
    operations = {each["operationId"] for methods in document["paths"].values() for each in methods.values()}
    assert operations == set(ITEMS)
    assert set(re.findall(r"\{\{(\w+)\}\}", json.dumps(COLLECTION))) == set(VARIABLES)


async def test_requests_work_as_they_are(web: Web) -> None:
    with table() as rows:
        for name in WORKING:
            answer = await send(web.client, ITEMS[name])
            with rows.row(name):
                assert answer.status_code in (200, 201), answer.text


async def send(client: httpx.AsyncClient, item: dict[str, Any]) -> httpx.Response:
    """Sends a request as Postman does: variables filled in, and what is disabled left out."""
    asked = json.loads(re.sub(r"\{\{(\w+)\}\}", lambda found: VARIABLES[found[1]], json.dumps(item)))
    headers = {each["key"]: each["value"] for each in asked["header"] if not each.get("disabled")}
    path = asked["url"]["raw"].removeprefix(VARIABLES["base_url"])
    content = asked["body"]["raw"] if "body" in asked else None
    return await client.request(asked["method"], path, content=content, headers=headers)
