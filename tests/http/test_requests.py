"""What a request may look like, what is refused, and with which status."""

import asyncio
import json
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import pytest

from sessiond_server.http import problems
from sessiond_server.http.door import LARGEST_HEAD
from sessiond_server.rpc import status
from sessiond_server.rpc.loopback import CallFailed
from tests.support.held_store import Holding
from tests.support.rows import table
from tests.support.waiting import PATIENCE, until
from tests.support.web import Web, opened_web
from tests.support.wire import ALICE, OTHER_TENANT, READER

ODD_IDS = [
    "a/b",
    "a%2Fb",
    "..",
    "a:end",
    "会议",
    "🦊🦊",
    "a b",
    "a?b#c",
    "ann@example.com",
    "a+b",
    "%",
    "a\\b",
    '"',
    "x" * 255,
    "\U0001f980" * 63 + "abc",
]
"""Any text of 255 bytes is an id."""


async def test_ids_of_any_text_are_found_by_their_paths(web: Web) -> None:
    with table() as rows:
        for session_id in ODD_IDS:
            with rows.row(session_id):
                made = await web.post("/v1/sessions", {"session_id": session_id})
                assert made.status_code == 201, made.text
                path = f"/v1/sessions/{quote(session_id, safe='')}"
                assert made.headers["location"] == path
                got = await web.raw(
                    f"GET {path} HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer acme-key\r\n\r\n".encode()
                )
                assert json.loads(got.partition(b"\r\n\r\n")[2])["session_id"] == session_id
                assert (await web.post(f"{path}:end")).json()["status"] == "SESSION_STATUS_ENDED"


async def test_version_is_the_etag_and_if_match_the_expected_version(web: Web) -> None:
    made = await web.post("/v1/sessions", {"session_id": "s"})
    assert made.headers["etag"] == '"1"'
    renamed = await web.client.patch("/v1/sessions/s", json={"name": "n"}, headers={"if-match": '"1"'})
    assert (renamed.json()["name"], renamed.headers["etag"]) == ("n", '"2"')
    stale = await web.client.patch("/v1/sessions/s", json={"name": "o"}, headers={"if-match": '"1"'})
    assert stale.status_code == 412
    assert stale.json()["reason"] == "VERSION_MISMATCH"
    assert stale.json()["metadata"]["current_version"] == "2"
    assert (await web.client.patch("/v1/sessions/s", json={"name": "p"}, headers={"if-match": "*"})).status_code == 200
    for wrong in ("2", 'W/"2"', '"2", "3"', '""', '"x"'):
        refused = await web.client.patch("/v1/sessions/s", json={"name": "q"}, headers={"if-match": wrong})
        assert (refused.status_code, refused.json()["fields"][0]["field"]) == (400, "if-match"), wrong
    # A precondition that cannot be kept is not ignored.
    assert (await web.get("/v1/sessions/s", if_match='"1"')).status_code == 400


async def test_a_retry_with_an_idempotency_key_has_one_effect(web: Web) -> None:
    await web.post("/v1/sessions", {"session_id": "s", "status": "SESSION_STATUS_ACTIVE"})
    body = {"messages": [{"role": "ROLE_USER", "parts": [{"text": "once"}]}]}
    first = await web.post("/v1/sessions/s/messages", body, idempotency_key="k1")
    again = await web.post("/v1/sessions/s/messages", body, idempotency_key='"k1"')
    assert first.json() == again.json()
    assert (await web.get("/v1/sessions/s")).json()["message_count"] == "1"
    body["messages"][0]["parts"] = [{"text": "other"}]
    reused = await web.post("/v1/sessions/s/messages", body, idempotency_key="k1")
    assert (reused.status_code, reused.json()["reason"]) == (422, "REQUEST_ID_REUSED")
    differing = await web.post("/v1/sessions/s/messages", {**body, "request_id": "k2"}, idempotency_key="k1")
    assert differing.json()["fields"][0]["field"] == "request_id"


async def test_document_can_be_put_only_where_there_is_none(web: Web) -> None:
    put = {"json": "{}"}
    first = await web.client.put("/v1/users/ann%2Fb/documents/likes%2Ftea", json=put, headers={"if-none-match": "*"})
    assert (first.status_code, first.json()["scope_id"], first.json()["key"]) == (200, "ann/b", "likes/tea")
    second = await web.client.put("/v1/users/ann%2Fb/documents/likes%2Ftea", json=put, headers={"if-none-match": "*"})
    assert (second.status_code, second.json()["reason"]) == (412, "DOCUMENT_VERSION_MISMATCH")
    listed = await web.get("/v1/users/ann%2Fb/documents?key_prefix=likes")
    assert [each["key"] for each in listed.json()["documents"]] == ["likes/tea"]
    assert (await web.client.put("/v1/documents/k", json=put)).json()["scope"] == "DOCUMENT_SCOPE_TENANT"
    not_for_sessions = await web.client.patch("/v1/sessions/s", json={}, headers={"if-none-match": "*"})
    assert not_for_sessions.json()["fields"][0]["field"] == "if-none-match"


async def test_lists_are_filtered_by_query_parameters(web: Web) -> None:
    for number in range(3):
        labels = {"team": "red" if number else "blue", "x.y": "1"}
        session = {"session_id": f"s{number}", "user_id": "ann", "labels": labels, "metadata": {"n": number}}
        await web.post("/v1/sessions", session)

    async def listed(query: str) -> list[str]:
        answer = await web.get(f"/v1/sessions?{query}")
        assert answer.status_code == 200, answer.text
        return sorted(each["session_id"] for each in answer.json().get("sessions", []))

    assert await listed("labels[team]=red&labels[x.y]=1") == ["s1", "s2"]
    assert await listed('metadata={"n":2}') == ["s2"]
    assert await listed("user_id=ann&statuses=SESSION_STATUS_CREATED&statuses=SESSION_STATUS_ENDED") == [
        "s0",
        "s1",
        "s2",
    ]
    assert await listed("create_time_from=2999-01-01T00:00:00Z") == []
    page = (await web.get("/v1/sessions?page_size=2")).json()
    rest = (await web.get(f"/v1/sessions?page_size=2&page_token={quote(page['next_page_token'], safe='')}")).json()
    assert len(page["sessions"]) == 2
    assert len(rest["sessions"]) == 1
    assert (await web.get("/v1/sessions:count?labels[team]=blue")).json() == {"count": "1"}


async def test_update_mask_has_the_names_of_the_protos_or_those_of_json(web: Web) -> None:
    await web.post("/v1/sessions", {"session_id": "s", "agent_id": "a", "config": {"max_messages": 5}})
    path = "/v1/sessions/s?update_mask=agent_id,config.max_messages"
    cleared = (await web.client.patch(path, json={"config": {"max_messages": "7"}})).json()
    assert "agent_id" not in cleared
    assert cleared["config"] == {"max_messages": "7"}
    again = await web.client.patch("/v1/sessions/s?update_mask=config.maxMessages", json={"config": {"maxMessages": 8}})
    assert again.json()["config"] == {"max_messages": "8"}


async def test_request_id_is_echoed_and_made_where_none_is_given(web: Web) -> None:
    assert (await web.get("/v1/sessions/none", x_request_id="mine.1")).headers["x-request-id"] == "mine.1"
    refused = await web.get("/v1/sessions/none", x_request_id="not one\x7f")
    assert len(refused.headers["x-request-id"]) == 32
    assert refused.json()["request_id"] == refused.headers["x-request-id"]


async def test_keys_and_tenants_are_those_of_grpc(web: Web) -> None:
    await web.post("/v1/sessions", {"session_id": "s", "user_id": "bob"})
    for key in (OTHER_TENANT, ALICE):
        foreign = await web.get("/v1/sessions/s", authorization=f"Bearer {key}")
        assert (foreign.status_code, foreign.json()["reason"]) == (404, "SESSION_NOT_FOUND")
    scope = await web.post("/v1/sessions", {}, authorization=f"Bearer {READER}")
    assert (scope.status_code, scope.json()["reason"]) == (403, "SCOPE_MISSING")
    with table() as rows:
        for wrong in ("Bearer nobody", "acme-key", "", "Basic YTpi", "Bearer ä", "Bearer " + "x" * 9000):
            for url in ("/v1/sessions", "/v1/events"):
                with rows.row(wrong, url):
                    headers = [(b"authorization", wrong.encode("latin-1"))]
                    answer = await web.client.get(url, headers=headers)
                    assert (answer.status_code, answer.json()["reason"]) == (401, "UNAUTHENTICATED")
                    assert answer.headers["www-authenticate"] == "Bearer"


REFUSED: list[tuple[str, str, bytes, int, str, str]] = [
    # method, path, body, status, reason, field
    ("POST", "/v1/sessions", b"", 400, "MALFORMED_REQUEST", ""),
    ("POST", "/v1/sessions", b"{", 400, "MALFORMED_REQUEST", ""),
    ("POST", "/v1/sessions", b"[]", 400, "MALFORMED_REQUEST", ""),
    ("POST", "/v1/sessions", b"null", 400, "MALFORMED_REQUEST", ""),
    ("POST", "/v1/sessions", b'{"name":"\xff"}', 400, "MALFORMED_REQUEST", ""),
    ("POST", "/v1/sessions", b'\xef\xbb\xbf{"name":"a"}', 400, "MALFORMED_REQUEST", ""),
    ("POST", "/v1/sessions", '{"name":"a"}'.encode("utf-16"), 400, "MALFORMED_REQUEST", ""),
    ("POST", "/v1/sessions", b'{"name":"a","name":"b"}', 400, "MALFORMED_REQUEST", ""),
    ("POST", "/v1/sessions", b'{"metadata":{"a":1,"a":2}}', 400, "MALFORMED_REQUEST", ""),
    ("POST", "/v1/sessions", b'{"metadata":{"a":NaN}}', 400, "MALFORMED_REQUEST", ""),
    ("POST", "/v1/sessions", b'{"name":"\\ud800"}', 400, "INVALID_FIELD", "session.name"),
    ("POST", "/v1/sessions", b'{"version":' + b"9" * 5000 + b"}", 400, "MALFORMED_REQUEST", ""),
    # How deep a text may be is up to the parser of Python, and then to that of messages.
    ("POST", "/v1/sessions", b'{"metadata":' + b'{"a":' * 5000 + b"1" + b"}" * 5001, 400, "", ""),
    ("POST", "/v1/sessions", b'{"name":"a\\u0000"}', 400, "INVALID_FIELD", "session.name"),
    ("POST", "/v1/sessions", b'{"nome":"a"}', 400, "INVALID_FIELD", "nome"),
    ("POST", "/v1/sessions", b'{"metadata":[1]}', 400, "", ""),
    ("POST", "/v1/sessions", b'{"create_time":{"seconds":1}}', 400, "", ""),
    ("POST", "/v1/sessions", b'{"version":"x"}', 400, "INVALID_FIELD", "session.version"),
    ("POST", "/v1/sessions", b'{"status":"ON"}', 400, "INVALID_FIELD", "session.status"),
    ("POST", "/v1/sessions", b'{"session_id":" "}', 400, "INVALID_FIELD", "session.session_id"),
    ("POST", "/v1/sessions?nome=1", b"{}", 400, "INVALID_FIELD", "nome"),
    ("POST", "/v1/sessions?no_expiry=1", b"{}", 400, "INVALID_FIELD", "no_expiry"),
    ("POST", "/v1/sessions/a:touch", b'{"session_id":"b"}', 400, "INVALID_FIELD", "session_id"),
    ("POST", "/v1/sessions/a/runs/r:finish", b'{"run":5}', 400, "INVALID_FIELD", "run"),
    ("PATCH", "/v1/sessions/a", b'{"sessionId":"b","name":"x"}', 400, "INVALID_FIELD", "session.session_id"),
    ("GET", "/v1/sessions/a", b"{}", 400, "MALFORMED_REQUEST", ""),
    ("GET", "/v1/sessions/a%00", b"", 400, "INVALID_FIELD", "session_id"),
    ("GET", "/v1/sessions/%ff", b"", 400, "MALFORMED_REQUEST", ""),
    ("GET", "/v1/sessions/" + "x" * 256, b"", 400, "INVALID_FIELD", "session_id"),
    ("GET", "/v1/sessions?page_size=1&page_size=2", b"", 400, "INVALID_FIELD", "page_size"),
    ("GET", "/v1/sessions?page_size=many", b"", 400, "INVALID_FIELD", "page_size"),
    ("GET", "/v1/sessions?page_size=-1", b"", 400, "INVALID_FIELD", "page_size"),
    ("GET", "/v1/sessions?labels=a", b"", 400, "INVALID_FIELD", "labels"),
    ("GET", "/v1/sessions?labels[a=b", b"", 400, "INVALID_FIELD", "labels[a"),
    ("GET", "/v1/sessions?labels[a]=b&labels[a]=c", b"", 400, "INVALID_FIELD", "labels"),
    ("GET", "/v1/sessions?metadata=[1", b"", 400, "INVALID_FIELD", "metadata"),
    ("GET", '/v1/sessions?metadata={"a":1,"a":2}', b"", 400, "INVALID_FIELD", "metadata"),
    ("GET", '/v1/sessions?metadata={"a":NaN}', b"", 400, "INVALID_FIELD", "metadata"),
    ("GET", "/v1/sessions?user_id=%ff", b"", 400, "MALFORMED_REQUEST", ""),
    ("GET", "/v1/sessions?" + "&".join(["a=b"] * 1001), b"", 400, "MALFORMED_REQUEST", ""),
    ("GET", "/v1/sessions?page_token=x", b"", 400, "INVALID_PAGE_TOKEN", "page_token"),
    ("GET", "/v1/sessions/", b"", 404, "NO_SUCH_PATH", ""),
    ("GET", "/", b"", 404, "NO_SUCH_PATH", ""),
    ("GET", "/v1/sessions/a/b/c/d/e/f", b"", 404, "NO_SUCH_PATH", ""),
    ("PUT", "/v1/sessions/a", b"{}", 405, "METHOD_NOT_ALLOWED", ""),
    ("POST", "/healthz", b"", 405, "METHOD_NOT_ALLOWED", ""),
    ("BREW", "/v1/sessions", b"", 405, "METHOD_NOT_ALLOWED", ""),
    ("GET", "/v1/sessions/none", b"", 404, "SESSION_NOT_FOUND", ""),
    ("POST", "/v1/sessions/none:end", b"", 404, "SESSION_NOT_FOUND", ""),
]


async def test_what_is_wrong_with_a_request_is_named(web: Web) -> None:
    with table() as rows:
        for method, path, body, code, reason, name in REFUSED:
            with rows.row(method, path[:60], body[:40]):
                headers = {"content-type": "application/json"} if body else {}
                answer = await web.client.request(method, path, content=body, headers=headers)
                found = answer.json()
                assert (answer.status_code, found["status"]) == (code, code), found
                assert answer.headers["content-type"] == "application/problem+json"
                assert found["reason"] == reason or not reason, found
                if reason:
                    assert [each["field"] for each in found.get("fields", [])] == ([name] if name else [])


async def test_values_are_not_quoted_in_refusals(web: Web) -> None:
    for body in ({"version": "secret-value"}, {"create_time": "secret-value"}, {"metadata": "secret-value"}):
        answer = await web.post("/v1/sessions", body)
        assert answer.status_code == 400
        assert "secret" not in answer.text


async def test_body_that_is_no_json_by_its_type_is_refused(web: Web) -> None:
    """A web page can send a plain text anywhere; this one may not be taken for a request."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await web.client.post("/v1/sessions", content=b"{}", headers={"content-type": kind})
        assert (answer.status_code, answer.json()["reason"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    given = {"content-type": "Application/JSON; charset=utf-8"}
    assert (await web.client.post("/v1/sessions", content=b"{}", headers=given)).status_code == 201


async def test_largest_message_passes_and_a_larger_body_is_refused_unread(web: Web) -> None:
    await web.post("/v1/sessions", {"session_id": "s", "status": "SESSION_STATUS_ACTIVE"})

    def body(text: str) -> dict[str, Any]:
        return {"messages": [{"role": "ROLE_USER", "parts": [{"text": text}]}]}

    text = "\u0001" * (1024 * 1024 - 512)  # six bytes each in JSON
    assert (await web.post("/v1/sessions/s/messages", body(text))).status_code == 200
    got = (await web.get("/v1/sessions/s/messages")).json()
    assert got["messages"][0]["parts"][0]["text"] == text
    large = await web.post("/v1/sessions/s/messages", body("x" * (4 * 1024 * 1024)))
    assert large.status_code in (400, 413)
    huge = await web.client.post(
        "/v1/sessions/s/messages", content=b"x" * (64 * 1024 * 1024), headers={"content-type": "application/json"}
    )
    assert (huge.status_code, huge.json()["reason"]) == (413, "REQUEST_TOO_LARGE")

    async def pieces() -> Any:
        for _ in range(144):
            yield b" " * 65536

    chunked = await web.client.post(
        "/v1/sessions/s/messages", content=pieces(), headers={"content-type": "application/json"}
    )
    assert (chunked.status_code, chunked.json()["reason"]) == (413, "REQUEST_TOO_LARGE")


async def test_body_of_too_many_values_is_refused(web: Web) -> None:
    many = {"metadata": {"a": [0] * 250_001}}
    answer = await web.post("/v1/sessions", many)
    assert (answer.status_code, answer.json()["reason"]) == (413, "REQUEST_TOO_LARGE")
    # Commas within a text are none.
    await web.post("/v1/sessions", {"session_id": "s", "status": "SESSION_STATUS_ACTIVE"})
    text = {"messages": [{"role": "ROLE_USER", "parts": [{"text": '[,"{' * 200_000}]}]}
    assert (await web.post("/v1/sessions/s/messages", text)).status_code == 200


async def test_head_that_is_too_large_is_refused(web: Web) -> None:
    answer = await web.raw(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * (LARGEST_HEAD + 1))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    flood = b"".join(b"X-%d: y\r\n" % number for number in range(100_000))
    # Where the rest still comes when the connection closes, the refusal may be lost; it is never served.
    assert (await web.raw(b"GET / HTTP/1.1\r\nHost: x\r\n" + flood))[:13] in (b"HTTP/1.1 400 ", b"")
    assert (await web.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


async def test_head_of_the_largest_size_is_served_and_a_larger_one_refused_however_they_arrive(web: Web) -> None:
    head = "GET /v1/sessions?{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer acme-key\r\nconnection: close\r\n"
    room = LARGEST_HEAD - len(head.format("name_contains="))
    for size in (room, room + 1, 3 * room):
        whole = (head.format("name_contains=" + "x" * size) + "\r\n").encode()
        answer = await web.raw(whole)
        assert answer.startswith(b"HTTP/1.1 400 ")
        # The longest is answered by the RPC's own rule.
        assert (b"INVALID_FIELD" if size == room else b"the head is larger") in answer
    served = (head.format("user_id=" + "x" * 255) + "x-a: " + "y" * (room - 260)).encode() + b"\r\n\r\n"
    assert (await web.raw(served)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.long
async def test_head_and_body_that_do_not_arrive_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond_server.http.door.BODY_SECONDS", 0.05)
    async with opened_web(head_seconds=0.05) as web:
        for head in (b"", b"GET /healthz HTTP/1.1\r\nHost:"):
            assert await web.raw(head) == b""
        slow = b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\nContent-Length: 9\r\n\r\n{"
        answer = await web.raw(slow)
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_more_connections_than_allowed_are_closed_at_once() -> None:
    async with opened_web(most_connections=1) as web:
        assert (await web.get("/healthz")).status_code == 200
        assert await web.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert (await web.get("/healthz")).status_code == 200


async def test_requests_in_a_row_on_one_connection_are_answered_in_order(web: Web) -> None:
    one = b"GET /v1/sessions/none HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\nX-Request-Id: r%d\r\n%s\r\n"
    answer = await web.raw(b"".join(one % (n, b"Connection: close\r\n" if n == 4 else b"") for n in range(5)))
    places = [answer.index(b"x-request-id: r%d" % n) for n in range(5)]
    assert places == sorted(places)


async def test_pages_of_foreign_origins_may_not_call(web: Web) -> None:
    evil = await web.get("/v1/sessions", origin="https://evil.example")
    assert (evil.status_code, evil.json()["reason"]) == (403, "ORIGIN_REFUSED")
    assert "access-control-allow-origin" not in evil.headers
    own = f"http://127.0.0.1:{web.port}"
    assert (await web.get("/v1/sessions", origin=own)).status_code == 200
    asked = await web.client.options("/v1/sessions", headers={"origin": "https://evil.example"})
    assert asked.status_code == 403


async def test_pages_of_allowed_origins_may_call() -> None:
    async with opened_web(origins=frozenset(["https://app.example"])) as web:
        answer = await web.get("/v1/sessions", origin="https://app.example")
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "origin" in answer.headers["vary"]
        asked = await web.client.options(
            "/v1/sessions/a", headers={"origin": "https://app.example", "access-control-request-method": "PATCH"}
        )
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-methods"] == "DELETE, GET, PATCH"
        assert "idempotency-key" in asked.headers["access-control-allow-headers"]
        assert (await web.get("/v1/sessions", origin="https://b.example")).status_code == 403
    async with opened_web(origins=frozenset("*")) as web:
        answer = await web.get("/v1/sessions", origin="https://app.example")
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_without_keys_only_names_of_this_machine_are_served() -> None:
    """A page can let its own name point to 127.0.0.1, and would then be of the same origin."""
    async with opened_web(keys=False) as web:
        for host in ("localhost:1", "127.0.0.1", "[::1]:80", "LOCALHOST"):
            assert (await web.get("/v1/sessions", host=host)).status_code == 200, host
        for host in ("evil.example", "evil.example:50080", "localhost.evil.example", "192.0.2.1"):
            answer = await web.get("/v1/sessions", host=host)
            assert (answer.status_code, answer.json()["reason"]) == (421, "HOST_REFUSED"), host


async def test_caller_may_limit_the_time(web: Web) -> None:
    for wrong in ("0", "-1", "1.5", "x"):
        assert (await web.get("/v1/sessions", x_timeout_ms=wrong)).status_code == 400
    assert (await web.get("/v1/sessions", x_timeout_ms="60000")).status_code == 200


async def test_health_says_whether_the_server_serves() -> None:
    async with opened_web(wire_options={"ready": False}) as web:
        starting = await web.get("/healthz")
        assert (starting.status_code, starting.json()) == (503, {"status": "NOT_SERVING"})
        refused = await web.get("/v1/sessions")
        assert (refused.status_code, refused.json()["reason"]) == (503, "STARTING")
        assert int(refused.headers["retry-after"]) >= 1
        await web.wire.server.open(await web.wire.store.token_key())
        assert (await web.client.get("/healthz", headers={"authorization": ""})).json() == {"status": "SERVING"}
        head = await web.client.head("/healthz")
        assert (head.status_code, head.content) == (200, b"")


def test_every_reason_has_a_status_that_fits() -> None:
    """What the caller can mend is 4xx; what another attempt may mend is 429 or 503."""
    for row in status.TABLE.values():
        code = problems.REASONS.get(row.name) or problems.CODES.get(row.code.name, 500)
        if row.code.name == "UNAVAILABLE":
            assert code == 503, row.name
        elif row.code.name not in ("INTERNAL", "DATA_LOSS", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"):
            assert 400 <= code < 500, row.name
    assert set(problems.REASONS) <= {row.name for row in status.TABLE.values()}


async def test_requests_without_a_valid_key_are_counted_whatever_they_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened_web(wire_options={"call_metrics": True}) as web:
        for most in (1000, 0):  # refused by the server, and at once
            monkeypatch.setattr("sessiond_server.http.door.MOST_REFUSED", most)
            for url in ("/v1/sessions", "/v1/events", "/v1/sessions/s/events"):
                assert (await web.get(url, authorization="Bearer wrong")).status_code == 401
            async with httpx.AsyncClient(base_url=web.client.base_url, trust_env=False) as anonymous:
                assert (await anonymous.get("/v1/events")).json()["reason"] == "UNAUTHENTICATED"
        refused = web.wire.server.refused_calls
        await until(lambda: (refused["wrong_key"], refused["no_key"]) == (6, 2))


async def test_small_answers_are_sent_at_once(web: Web) -> None:
    """Else each waits up to 40 ms until the one before it is acknowledged."""
    await web.get("/healthz")
    (connection,) = web.server.connections
    assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_refusal_of_a_request_that_was_read_keeps_the_connection(web: Web) -> None:
    await web.post("/v1/sessions", {"session_id": "s"})
    refused = await web.post("/v1/sessions", {"session_id": "s"})
    assert (refused.status_code, "connection" in refused.headers) == (409, False)
    no_body = await web.client.request("GET", "/v1/none", headers={"content-length": "0"})
    assert (no_body.status_code, "connection" in no_body.headers) == (404, False)
    unread = await web.post("/v1/none", {"session_id": "s"})
    assert (unread.status_code, unread.headers["connection"]) == (404, "close")


async def test_version_that_stands_for_any_is_refused(web: Web) -> None:
    await web.post("/v1/sessions", {"session_id": "s"})
    for none in ('"0"', '"00"'):
        refused = await web.client.patch("/v1/sessions/s", json={"name": "n"}, headers={"if-match": none})
        assert (refused.status_code, refused.json()["fields"][0]["field"]) == (400, "if-match")
    assert "name" not in (await web.get("/v1/sessions/s")).json()
    put = await web.client.put("/v1/documents/k", json={"json": "1"}, headers={"if-match": '"0"'})
    assert put.status_code == 200  # only where there is none
    again = await web.client.put("/v1/documents/k", json={"json": "2"}, headers={"if-match": '"0"'})
    assert again.status_code == 412


def test_reasons_are_those_that_the_documentation_names() -> None:
    """A code without a reason comes from grpc's core."""
    documented = re.findall(r"[A-Z]+_?[A-Z_]*[A-Z](?= \(\d\d\d)", Path("docs/http.md").read_text())
    allowed = {*documented, *(row.name for row in status.TABLE.values())}
    with table() as rows:
        for code in grpc.StatusCode:
            with rows.row(code.name):
                problem = problems.of(CallFailed(code.name, "ipv4:127.0.0.1:1: connection refused", b""))
                assert problem.reason in allowed
                assert problem.detail == "the service could not answer"
                assert (problem.reason == "INTERNAL") == (problem.status == 500)


async def test_deadline_that_the_caller_gave_is_forwarded() -> None:
    async with opened_web(wire_options={"store": (store := Holding())}) as web:
        async with asyncio.timeout(15):  # half of the longest deadline, which ends the call otherwise
            late = await web.get("/v1/sessions/s", x_timeout_ms="200")
        assert (late.status_code, late.json()["reason"]) == (504, "DEADLINE_EXCEEDED")
        assert store.entered.is_set()
        await asyncio.wait_for(store.abandoned.wait(), PATIENCE)
