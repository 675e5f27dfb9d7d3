"""Session tokens by HTTP: how they are made, and where an address may have one."""

import logging
from collections.abc import Mapping

import pytest

from sessiond_server.auth import Authenticator, digest_of
from tests.support.rows import table
from tests.support.web import Web, opened_web
from tests.support.wire import PRINCIPALS, TENANT


async def made(web: Web, session_id: str = "s", **fields: str) -> str:
    answer = await web.post(f"/v1/sessions/{session_id}:createToken", fields)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()["token"]
    assert isinstance(found, str)
    return found


async def test_browser_reads_and_appends_with_a_token(web: Web) -> None:
    await web.wire.create("s")
    token = await made(web, access="SESSION_ACCESS_APPEND", ttl="60s")
    bearer = {"authorization": f"Bearer {token}"}
    said = {"messages": [{"role": "ROLE_USER", "parts": [{"text": "Hi"}]}]}
    for count in (1, 2):
        answer = await web.post("/v1/sessions/s/messages", said, idempotency_key="one", **bearer)
        assert (answer.status_code, answer.json()["first_seq"]) == (200, "2"), count
    async with web.events(
        f"/v1/sessions/s/events?start=FEED_START_BEGINNING&access_token={token}", authorization=""
    ) as reader:
        assert reader.response.status_code == 400  # an empty header is one
    web.client.headers.pop("authorization")
    async with web.events(f"/v1/sessions/s/events?access_token={token}&start=FEED_START_BEGINNING") as reader:
        batch = await reader.until("events")
        assert [event["seq"] for event in batch.data["events"]] == ["1", "2"]
    # As an EventSource comes back.
    async with web.events(f"/v1/sessions/s/events?access_token={token}", last_event_id=batch.id) as reader:
        assert (await reader.read()).event == "resumed"  # type: ignore[union-attr]


async def test_address_has_a_token_for_the_events_of_its_session_only(
    web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    await web.wire.create("s")
    await web.wire.create("t")
    token = await made(web)
    web.client.headers.pop("authorization")
    forbidden, invalid = (403, "TOKEN_FORBIDS"), (400, "INVALID_FIELD")
    rows: list[tuple[str, Mapping[str, str], tuple[int, str]]] = [
        (f"/v1/sessions/t/events?access_token={token}", {}, forbidden),
        (f"/v1/sessions/none/events?access_token={token}", {}, forbidden),
        (f"/v1/sessions/s/events?access_token={token}&access_token={token}", {}, invalid),
        (f"/v1/sessions/s/events?access_token={token}", {"authorization": f"Bearer {TENANT}"}, invalid),
        (f"/v1/sessions/s/events?access_token={TENANT}", {}, invalid),
        ("/v1/sessions/s/events?access_token=", {}, invalid),
        ("/v1/sessions/s/events?access_token", {}, invalid),
        (f"/v1/sessions/s/events?access_token={token[:-1]}", {}, (401, "UNAUTHENTICATED")),
        (f"/v1/sessions/s/events?access_token={token}%0d%0ax", {}, (401, "UNAUTHENTICATED")),
        (f"/v1/sessions/s/events?access%5Ftoken={token}", {}, (401, "UNAUTHENTICATED")),
        (f"/v1/events?access_token={token}", {}, (401, "UNAUTHENTICATED")),
        (f"/v1/sessions/s?access_token={token}", {}, (401, "UNAUTHENTICATED")),
        (f"/v1/sessions/s?access_token={token}", {"authorization": f"Bearer {token}"}, invalid),
        ("/v1/sessions", {"authorization": f"Bearer {token}"}, forbidden),
        ("/v1/events", {"authorization": f"Bearer {token}"}, forbidden),
        ("/v1/sessions/t", {"authorization": f"Bearer {token}"}, forbidden),
        ("/v1/sessions/s", {"authorization": f"Bearer {token}", "db-id": "other"}, forbidden),
    ]
    with caplog.at_level(logging.DEBUG), table() as cases:
        for url, headers, expected in rows:
            with cases.row(url.replace(token, "TOKEN")):
                answer = await web.client.get(url, headers=headers)
                assert (answer.status_code, answer.json()["reason"]) == expected
                assert token[4:40] not in answer.text
                assert "www-authenticate" not in answer.headers or answer.status_code == 401
        async with web.events(f"/v1/sessions/s/events?access_token={token}") as reader:
            await reader.until("snapshot")
        own = [record for record in caplog.records if record.name.startswith(("sessiond", "uvicorn"))]
        assert own
        assert not any(token[4:40] in str(vars(record)) for record in own)


async def test_stream_ends_with_the_key_that_made_its_token() -> None:
    keys = {digest_of(key): who for key, who in PRINCIPALS.items()}
    authenticator = Authenticator(keys)
    async with opened_web(authenticator=authenticator) as web:
        await web.wire.create("s")
        token = await made(web)
        web.client.headers.pop("authorization")
        async with web.events(f"/v1/sessions/s/events?access_token={token}") as reader:
            await reader.until("snapshot")
            authenticator.use({digest: who for digest, who in keys.items() if digest != digest_of(TENANT)})
            web.wire.server.revoke(authenticator.holds)
            await reader.until("going_away")
            end = await reader.until("end")
            assert (end.data["reason"], end.data["come_back"]) == ("UNAUTHENTICATED", False)
            assert end.data["position"] == end.id != ""
        async with web.events(f"/v1/sessions/s/events?access_token={token}") as reader:
            assert reader.response.status_code == 401


async def test_token_before_the_service_is_ready_is_no_wrong_one() -> None:
    async with opened_web() as web:
        await web.wire.create("s")
        token = await made(web)
        async with opened_web(wire_options={"ready": False}) as starting:
            answer = await starting.get("/v1/sessions/s", authorization=f"Bearer {token}")
            assert (answer.status_code, answer.json()["reason"]) == (503, "STARTING")
