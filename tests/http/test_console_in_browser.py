"""The console as its reader uses it, in a real Chromium."""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sessiond_server.http.assets import assets
from tests.support.browser import Opened, needs_chromium, opened_page
from tests.support.serve_process import serving
from tests.support.waiting import PATIENCE
from tests.support.web import Web, opened_web, url_of
from tests.support.wire import TENANT

pytestmark = [pytest.mark.long, needs_chromium]

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\u202eevil\u2066</div>'


@pytest.fixture
async def local() -> AsyncIterator[Web]:
    """A service without keys."""
    async with opened_web(keys=False, assets=assets()) as web:
        yield web


@pytest.fixture
async def reader(local: Web) -> AsyncIterator[Opened]:
    async with opened_page(f"http://127.0.0.1:{local.port}") as opened:
        yield opened


async def create(web: Web, session_id: str, **session: Any) -> None:
    made = {"session_id": session_id, "status": "SESSION_STATUS_ACTIVE", **session}
    assert (await web.post("/v1/sessions", made)).status_code == 201


async def append(web: Web, session_id: str, *messages: dict[str, Any], **more: Any) -> list[str]:
    answer = await web.post(f"/v1/sessions/{session_id}/messages", {"messages": list(messages), **more})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["message_ids"])


def said(text: str, role: str = "USER", **more: Any) -> dict[str, Any]:
    return {"role": f"ROLE_{role}", "parts": [{"text": text}], **more}


async def test_sessions_are_found_by_filters_names_ids_and_opened(local: Web, reader: Opened) -> None:
    for index in range(60):
        await create(local, f"s{index}", name=f"practice {index}", user_id="ada")
    await create(local, "both", name="both")
    await create(local, "a/b?#é", name="the odd one", user_id="bob", labels={"team": "red"})
    page = reader.page
    await reader.go()
    await reader.until("document.querySelectorAll('.session').length >= 50")
    await page.locator(".list-scroller").evaluate("each => each.scrollTop = each.scrollHeight")
    await reader.until("document.querySelectorAll('.session').length === 62")
    await page.keyboard.press("/")
    assert await page.evaluate("document.activeElement.id") == "search"
    await page.keyboard.type("the odd")
    await page.get_by_label("Search in").select_option("names")
    await page.keyboard.press("Tab")
    await page.get_by_role("button", name="Find").click()
    await reader.until("document.querySelectorAll('.session').length === 1")
    await page.get_by_label("Search", exact=True).fill("s7")
    await page.keyboard.press("Enter")
    await reader.until("document.querySelector('.session .name')?.textContent === 'practice 7'")
    await page.get_by_label("Search", exact=True).fill("both")
    await page.keyboard.press("Enter")
    await reader.until("document.querySelector('.session .name')?.textContent === 'both'")
    assert await page.locator(".session").count() == 1
    await page.get_by_label("Search", exact=True).fill("")
    await page.get_by_text("Filters").click()
    await page.get_by_label("Labels").fill("team=red")
    await page.get_by_label("User").fill("bob")
    await page.keyboard.press("Enter")
    await reader.until("document.querySelectorAll('.session').length === 1")
    await page.locator(".session").click()
    await reader.until("document.querySelector('#main h1')?.textContent.startsWith('the odd one')")
    await page.get_by_label("Labels").fill("no pair")
    await page.keyboard.press("Enter")
    await page.get_by_role("alert").get_by_text("key=value").wait_for()


async def test_conversation_is_live_with_drafts_redactions_and_deletions(local: Web, reader: Opened) -> None:
    await create(local, "s")
    call = {"tool_call": {"tool_call_id": "c", "name": "search", "arguments_struct": {"q": "tea"}}}
    result = {"tool_result": {"tool_call_id": "c", "text": "three found"}}
    first, *_ = await append(
        local,
        "s",
        said("my card is 1234"),
        {"role": "ROLE_ASSISTANT", "parts": [{"thinking": "where to look"}, call]},
        {"role": "ROLE_TOOL", "parts": [result]},
    )
    page = reader.page
    await reader.go("/#/sessions/s")
    await page.locator(".connection.live").wait_for()
    assert len(await reader.texts(".message")) == 3
    await page.get_by_text("Calls search").click()
    await page.get_by_text('"q": "tea"').wait_for()
    await page.get_by_text("Thinking").click()
    await page.get_by_text("where to look").wait_for()
    deltas = [{"message_id": "m", "text": "Once "}, {"message_id": "m", "text": "upon", "offset": 5}]
    assert (await local.post("/v1/sessions/s/deltas", {"deltas": deltas})).status_code == 200
    await page.locator(".draft").get_by_text("Once upon").wait_for()
    await append(local, "s", said("Once upon a time", "ASSISTANT", message_id="m"))
    await page.locator("article[data-id=m]").get_by_text("Once upon a time").wait_for()
    assert await page.locator(".draft").count() == 0
    await reader.until("document.getElementById('spoken').textContent === 'assistant: Once upon a time'")
    await local.post(f"/v1/sessions/s/messages/{first}:redact", {"reason": "a card"})
    await page.locator(".gone").get_by_text("a card").wait_for()
    await reader.until("!document.body.innerText.includes('1234')")
    assert (await local.post("/v1/sessions/s/messages:delete", {"ids": {"message_ids": ["m"]}})).status_code == 200
    await page.locator("article[data-id=m]").get_by_text("Deleted").wait_for()
    await page.get_by_role("link", name="Events").click()
    await page.get_by_text("messages deleted").wait_for()
    await append(local, "s", said("one more"))
    await reader.until("document.querySelectorAll('.event').length === 8")


async def test_long_session_is_read_by_pages_and_the_page_stays_small(local: Web, reader: Opened) -> None:
    await create(local, "s", name="long")
    for start in range(0, 2000, 250):
        await append(local, "s", *(said(f"message {index}") for index in range(start, start + 250)))
    page = reader.page
    await reader.go("/#/sessions/s")
    await page.get_by_text("message 1999", exact=True).wait_for()
    scroller = page.locator(".scroller")
    asked = len([url for url in reader.asked if "/messages?" in url])
    assert asked <= 3
    for _ in range(200):
        await scroller.evaluate("each => { each.scrollTop = 0 }")
        if await page.get_by_text("The beginning of the session.").is_visible():
            break
        first = await page.locator(".message").first.get_attribute("data-seq")
        await reader.until(
            "seq => document.querySelector('.message').dataset.seq !== seq || !document.querySelector('.empty').hidden",
            first,
        )
        assert await page.locator(".message").count() <= 300
    await page.get_by_text("message 0", exact=True).wait_for()
    await append(local, "s", said("the very last"))
    await page.get_by_role("button", name="To the newest").click()
    await page.get_by_text("the very last", exact=True).wait_for()
    assert await page.locator(".message").count() <= 300
    await reader.go("/#/sessions/s/conversation/1000")
    await page.locator("article[data-seq='1000']").wait_for()
    seqs = [
        int(each) for each in await page.locator(".message").evaluate_all("all => all.map(each => each.dataset.seq)")
    ]
    assert seqs == list(range(seqs[0], seqs[-1] + 1))


async def test_approvals_are_decided_with_a_reason(local: Web, reader: Opened) -> None:
    await create(local, "s")
    for name in ("book", "pay"):
        asked = {
            "tool_call": {"tool_call_id": name, "name": name, "requires_approval": True, "arguments": {"text": "50"}}
        }
        assert (await local.post("/v1/sessions/s/toolCalls", asked)).status_code == 201
    page = reader.page
    await reader.go()
    await reader.until("document.getElementById('approval-count').textContent === '2'")
    await page.get_by_role("link", name="Approvals").click()
    book, pay = (page.get_by_role("article", name=f"Approval of {name}") for name in ("book", "pay"))
    await book.get_by_role("button", name="Approve").click()
    await book.get_by_text("Approved.").wait_for()
    await pay.get_by_label("Reason").fill("too much")
    await pay.get_by_label("Your name").fill("Ada")
    await pay.get_by_role("button", name="Reject").click()
    await pay.get_by_text("Rejected.").wait_for()
    await reader.until("document.getElementById('approval-count').hidden")
    decided = (await local.get("/v1/sessions/s/toolCalls/pay")).json()
    assert decided["status"] == "TOOL_CALL_STATUS_REJECTED"
    assert (decided["approval"]["reason"], decided["approval"]["approver"]) == ("too much", "Ada")
    assert (await local.get("/v1/sessions/s/toolCalls/book")).json()["status"] == "TOOL_CALL_STATUS_APPROVED"


async def test_inbox_shows_what_comes_by_itself(local: Web, reader: Opened) -> None:
    await create(local, "s")
    page = reader.page
    await page.clock.install()
    await reader.go("/#/approvals")
    await page.get_by_text("Nothing waits for an approval.").wait_for()
    asked = {"tool_call": {"tool_call_id": "c", "name": "pay", "requires_approval": True}}
    assert (await local.post("/v1/sessions/s/toolCalls", asked)).status_code == 201
    await page.clock.fast_forward("00:11")
    await page.get_by_role("article", name="Approval of pay").wait_for()


async def test_decision_that_comes_too_late_is_told_with_its_reason(local: Web, reader: Opened) -> None:
    await create(local, "s")
    asked = {"tool_call": {"tool_call_id": "c", "name": "pay", "requires_approval": True}}
    assert (await local.post("/v1/sessions/s/toolCalls", asked)).status_code == 201
    await reader.go("/#/approvals")
    await reader.page.locator(".approval").wait_for()
    assert (await local.post("/v1/sessions/s/toolCalls/c:reject", {})).status_code == 200
    await reader.page.get_by_role("button", name="Approve").click()
    await reader.page.get_by_role("alert").get_by_text("ILLEGAL_TOOL_CALL_TRANSITION").wait_for()


async def test_runs_usage_and_files_are_shown(local: Web, reader: Opened) -> None:
    await create(local, "s")
    run = (await local.post("/v1/sessions/s/runs", {"run": {"run_id": "r", "agent_id": "guide"}})).json()
    fence = {"run_id": "r", "fence": run["fence"]}
    spent = said("done", "ASSISTANT", usage={"input_tokens": 1200, "output_tokens": 34, "total_tokens": 1234})
    await append(local, "s", spent, run=fence)
    failed = {"run": fence, "status": "RUN_STATUS_FAILED", "error": {"code": "tool", "message": "no answer"}}
    assert (await local.post("/v1/sessions/s/runs/r:finish", failed)).status_code == 200
    page = reader.page
    await reader.go("/#/sessions/s/runs")
    await page.locator(".run").get_by_text("no answer").wait_for()
    assert await page.locator(".run rect.failed").count() == 1
    await page.get_by_role("link", name="Usage").click()
    await page.get_by_role("cell", name="1,234").wait_for()
    assert await page.locator(".columns rect.failed").count() == 1
    await page.get_by_role("link", name="Files").click()
    await page.get_by_text("No files.").wait_for()
    content = b"<script>window.hacked=1</script>"
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    headers = {"content-type": "text/html", "repr-digest": f"sha-256=:{digest}:"}
    sent = await local.client.put(
        "/v1/sessions/s/attachments/f/content?name=<b>.html", content=content, headers=headers
    )
    assert sent.is_success, sent.text
    async with page.expect_download() as downloading:
        await page.get_by_role("button", name="Save <b>.html").click()
    saved = await (await downloading.value).path()
    assert saved.read_bytes() == content


async def test_hostile_texts_stay_texts(local: Web, reader: Opened) -> None:
    await create(
        local, "s", name=HOSTILE[:200], user_id="<b>u</b>", agent_id="<i>a</i>",
        labels={"a": "<script>window.hacked=1</script>"}, metadata={"a": HOSTILE},
    )  # fmt: skip
    parts = [
        {"text": HOSTILE},
        {"thinking": HOSTILE},
        {"json": json.dumps({"a": f"{HOSTILE}\0"})},
        {"data": {"a": HOSTILE}},
        {"tool_call": {"tool_call_id": HOSTILE, "name": "<script>", "arguments_json": HOSTILE}},
        {"tool_result": {"tool_call_id": HOSTILE, "text": HOSTILE}},
        {"file": {"uri": "javascript:window.hacked=1", "name": HOSTILE, "media_type": "<b>"}},
        {"file": {"uri": "data:text/html,<script>1</script>", "name": "page"}},
        {"blob": {"data": "PHN2ZyBvbmxvYWQ9IndpbmRvdy5oYWNrZWQ9MSIvPg==", "media_type": "image/svg+xml"}},
    ]
    await append(local, "s", {"role": "ROLE_USER", "name": HOSTILE[:120], "parts": parts}, said("w" * 1_000_000))
    call = {"tool_call_id": "c", "name": "<script>x", "requires_approval": True, "arguments": {"text": HOSTILE}}
    assert (await local.post("/v1/sessions/s/toolCalls", {"tool_call": call})).status_code == 201
    page = reader.page
    for address in ("/#/sessions/s/runs", "/#/sessions/s/events", "/#/approvals", "/#/sessions/s"):
        await reader.go(address)
        await page.locator("#main details").first.wait_for()
        await page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    await page.locator(".message").get_by_text(HOSTILE, exact=True).first.wait_for()
    assert await page.evaluate("window.hacked") is None
    assert await page.locator("#main script, #main iframe, #main img, a[href^=javascript], a[href^=data]").count() == 0
    await page.get_by_role("button", name="Show all 1,000,000 characters").click()
    await reader.until("[...document.querySelectorAll('.text')].some((each) => each.textContent.length === 1000000)")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_key_is_asked_for_and_kept_in_memory_only() -> None:
    async with opened_web(assets=assets()) as web:
        await create(web, "s", name="secret talk")
        await append(web, "s", said("hello"))
        async with opened_page(f"http://127.0.0.1:{web.port}") as reader:
            page = reader.page
            await reader.go("/#/sessions/s")
            await page.get_by_label("Key", exact=True).fill("wrong")
            await page.keyboard.press("Enter")
            await page.get_by_role("alert").get_by_text("does not accept this key").wait_for()
            await page.get_by_label("Key", exact=True).fill(TENANT)
            await page.keyboard.press("Enter")
            await page.locator(".message").get_by_text("hello").wait_for()
            await page.locator(".connection.live").wait_for()
            kept = "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href, history.state])"
            assert TENANT not in await page.evaluate(kept)
            assert TENANT not in await page.content()
            assert not any(TENANT in url for url in reader.asked)
            await page.reload()
            await page.get_by_label("Key", exact=True).wait_for()
            assert "secret talk" not in await page.locator("body").inner_text()


async def test_page_goes_on_after_a_restart_of_the_server(postgres_dsn: str) -> None:
    async with serving("--postgres-dsn", postgres_dsn, "--http-listen", "127.0.0.1:0") as first:
        url = url_of(first)
        async with opened_page(url) as reader:
            page = reader.page
            async with _caller(url) as call:
                await call("/v1/sessions", {"session_id": "s", "status": "SESSION_STATUS_ACTIVE"})
                await call("/v1/sessions/s/messages", {"messages": [said("before")]})
                await reader.go("/#/sessions/s")
                await page.locator(".connection.live").wait_for()
                await first.stop()
                await page.locator(".connection.waiting").wait_for()
                again = ("--postgres-dsn", postgres_dsn, "--http-listen", url.removeprefix("http://"))
                async with serving(*again) as second:
                    for index in range(5):
                        await call("/v1/sessions/s/messages", {"messages": [said(f"after {index}")]})
                    await page.get_by_text("after 4", exact=True).wait_for()
                    await page.locator(".connection.live").wait_for()
                    texts = await reader.texts(".message .text")
                    assert texts == ["before", *(f"after {index}" for index in range(5))]
                    await second.stop()
                await reader.go("/#/sessions/s/runs")
                await page.get_by_text("This cannot be shown: the server cannot be reached").wait_for()
                async with serving(*again):
                    await page.get_by_text("No runs.").wait_for()


@asynccontextmanager
async def _caller(url: str) -> AsyncIterator[Callable[[str, Any], Awaitable[None]]]:
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:

        async def call(path: str, body: Any) -> None:
            answer = await client.post(path, json=body)
            assert answer.is_success, answer.text

        yield call


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_narrow_page_reads_without_a_mouse_and_never_scrolls_sideways(local: Web, scheme: str) -> None:
    await create(local, "s", name="مرحبا")
    await append(local, "s", said("مرحبا بالعالم"), said("w" * 5000))
    async with opened_page(
        f"http://127.0.0.1:{local.port}", viewport={"width": 360, "height": 640}, color_scheme=scheme
    ) as reader:
        page = reader.page
        await reader.go()
        await page.locator(".session").focus()
        await page.keyboard.press("Enter")
        await page.locator(".message").first.wait_for()
        assert not await page.locator("#list").is_visible()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        arabic = page.locator(".message .text").first
        assert await arabic.evaluate("each => getComputedStyle(each).direction") == "rtl"
        back = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, re.findall(r"\d+", back))) > 3 * 128
        assert light == (scheme == "light")
        unnamed = (
            "all => all.filter(each => !(each.textContent.trim() || each.ariaLabel || each.labels?.length)).length"
        )
        assert await page.locator("button, a, input, select").evaluate_all(unnamed) == 0
        await page.get_by_role("link", name="All sessions").click()
        await page.locator("#list").wait_for()
