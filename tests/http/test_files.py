"""Files by HTTP: up whole or in parts, down whole or in parts, and what refuses or interrupts them."""

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from sessiond.v1.attachment_service_pb2 import ListAttachmentsRequest
from sessiond_server.http import files
from sessiond_server.http.ranges import disposition, shown_type
from sessiond_server.memory.blobs import MemoryBlobs
from tests.support.rows import table
from tests.support.waiting import until
from tests.support.web import Web, opened_web
from tests.support.wire import BOB, OTHER_TENANT, READER, TENANT

URL = "/v1/sessions/s/attachments/a/content"
UPLOAD = "/v1/sessions/s/attachments/a/upload"
FILE = Random(1).randbytes(300_000)


def digest(content: bytes) -> str:
    return f"sha-256=:{b64encode(hashlib.sha256(content).digest()).decode()}:"


async def put(
    web: Web, content: bytes = FILE, url: str = URL, *, whole: bytes | None = None, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("repr-digest", digest(content if whole is None else whole))
    return await web.client.put(url, content=content, headers=named)


async def put_part(web: Web, first: int, end: int, content: bytes = FILE, **headers: str) -> httpx.Response:
    span = f"bytes {first}-{end - 1}/{len(content)}"
    return await put(web, content[first:end], whole=content, content_range=span, **headers)


async def committed(web: Web) -> int:
    return int((await web.get(UPLOAD)).json().get("committed_bytes", "0"))


async def test_file_goes_up_and_comes_down(web: Web) -> None:
    await web.wire.create("s")
    large = Random(2).randbytes(9 * 1024 * 1024)  # beyond the bound of JSON bodies
    with table() as rows:
        for number, (name, media_type, content) in enumerate(
            [
                ("報告 \U0001f600.png", "image/png", FILE),
                ("", "", b"x"),
                ('a"/../b.txt', "text/plain", b""),
                ("l", "", large),
            ]
        ):
            with rows.row(name):
                url = f"/v1/sessions/s/attachments/{quote(f'日本/{number}', safe='')}/content"
                answer = await put(web, content, f"{url}?name={quote(name)}", content_type=media_type)
                assert answer.status_code == 200, answer.text
                made = answer.json()
                assert (made["attachment_id"], made.get("name", "")) == (f"日本/{number}", name)
                assert int(made.get("size_bytes", "0")) == len(content)
                got = await web.get(url)
                assert (got.status_code, got.content) == (200, content)
                tag = f'"{hashlib.sha256(content).hexdigest()}"'
                assert answer.headers["etag"] == got.headers["etag"] == tag
                assert got.headers["repr-digest"] == digest(content)
                assert got.headers["accept-ranges"] == "bytes"
                assert got.headers["content-length"] == str(len(content))
                assert got.headers["content-type"] == (media_type or "application/octet-stream")
                assert got.headers["x-content-type-options"] == "nosniff"
                assert got.headers["content-disposition"] == disposition(name)
                assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
                assert got.headers["cache-control"] == "private, no-cache"
                head = await web.client.head(url)
                assert (head.status_code, head.content) == (200, b"")
                assert head.headers["content-length"] == str(len(content))
                assert (await web.get(url, if_none_match=f'"other", W/{tag}')).status_code == 304
                assert (await web.get(url, if_match='"other"')).status_code == 412
    listed = await web.wire.call("ListAttachments", ListAttachmentsRequest(session_id="s"))
    assert len(listed.attachments) == 4


async def test_file_goes_up_in_parts_that_may_overlap(web: Web) -> None:
    await web.wire.create("s")
    first = await put_part(web, 0, 100_000)
    assert (first.status_code, first.headers["range"]) == (202, "bytes=0-99999")
    assert first.json()["committed_bytes"] == "100000"
    assert (await web.get(URL)).status_code == 404
    gap = await put_part(web, 100_001, 200_000)
    assert (gap.status_code, gap.json()["reason"]) == (409, "UPLOAD_OFFSET_MISMATCH")
    assert gap.json()["metadata"]["committed_bytes"] == "100000"
    again = await put_part(web, 50_000, 150_000)
    assert (again.status_code, again.headers["range"]) == (202, "bytes=0-149999")
    # What was stored after its beginning is replaced.
    shorter = await put_part(web, 50_000, 50_001)
    assert shorter.headers["range"] == "bytes=0-50000"
    assert await committed(web) == 50_001
    other = await put(web, b"x", content_range="bytes 0-0/2")
    assert (other.status_code, other.json()["reason"]) == (409, "UPLOAD_DECLARED_OTHERWISE")
    done = await put_part(web, 50_001, len(FILE))
    assert (done.status_code, done.json()["size_bytes"]) == (200, str(len(FILE)))
    assert (await web.get(URL)).content == FILE


async def test_retry_of_a_complete_upload_gets_the_first_answer(web: Web) -> None:
    await web.wire.create("s")
    first = await put(web, idempotency_key="k")
    assert (await put(web, idempotency_key="k")).json() == first.json()
    again = await put(web)
    assert (again.status_code, again.json()["reason"]) == (409, "ATTACHMENT_ALREADY_EXISTS")


async def test_upload_that_breaks_off_goes_on_where_it_was(web: Web) -> None:
    await web.wire.create("s")
    head = (
        f"PUT {URL}?name=n HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TENANT}\r\n"
        f"repr-digest: {digest(FILE)}\r\ncontent-length: {len(FILE)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    with closing(writer):
        writer.write(head.encode() + FILE[:200_000])
        await writer.drain()

    async def arrived() -> bool:
        return web.wire.server.transfers.in_progress == 0 and await committed(web) == 200_000

    await until(arrived)
    rest = await put_part(web, 200_000, len(FILE), url=f"{URL}?name=n")
    assert (rest.status_code, rest.json()["name"]) == (200, "n")
    assert (await web.get(URL)).content == FILE


async def test_wrong_bytes_leave_nothing(web: Web) -> None:
    await web.wire.create("s")
    answer = await put(web, b"wrong", repr_digest=digest(b"right"))
    assert (answer.status_code, answer.json()["reason"]) == (400, "CHECKSUM_MISMATCH")
    for url in (UPLOAD, URL):
        assert (await web.get(url)).status_code == 404


async def test_refused_uploads_have_a_status_and_make_nothing(web: Web) -> None:
    await web.wire.create("s")
    await web.wire.create("small", config={"max_attachment_bytes": 10})

    async def chunked() -> AsyncIterator[bytes]:
        yield b"abc"

    whole = digest(FILE)
    rows: list[tuple[str, Mapping[str, str], Any, tuple[int, str]]] = [
        (URL, {"authorization": "Bearer no"}, FILE, (401, "UNAUTHENTICATED")),
        (URL, {"authorization": f"Bearer {READER}"}, FILE, (403, "SCOPE_MISSING")),
        (URL, {"authorization": f"Bearer {OTHER_TENANT}"}, FILE, (404, "SESSION_NOT_FOUND")),
        (URL, {"authorization": f"Bearer {BOB}"}, FILE, (404, "SESSION_NOT_FOUND")),
        (URL.replace("/s/", "/none/"), {}, FILE, (404, "SESSION_NOT_FOUND")),
        (URL.replace("/s/", "/small/"), {}, FILE, (413, "ATTACHMENT_TOO_LARGE")),
        (URL, {"repr-digest": ""}, FILE, (400, "INVALID_FIELD")),
        (URL, {"repr-digest": "sha-256=:AAAA:"}, FILE, (400, "INVALID_FIELD")),
        (URL, {"repr-digest": f"{whole}, {whole}"}, FILE, (400, "INVALID_FIELD")),
        (URL, {"content-range": "bytes 0-1/3"}, b"a", (400, "INVALID_FIELD")),
        (URL, {"content-range": "bytes 1-0/3"}, b"ab", (400, "INVALID_FIELD")),
        (URL, {"content-range": "bytes 0-2/2"}, b"abc", (400, "INVALID_FIELD")),
        (URL, {"content-range": "bytes */3"}, b"", (400, "INVALID_FIELD")),
        (URL, {"content-range": f"bytes 0-2/{2**53}"}, b"abc", (400, "INVALID_FIELD")),
        (URL, {}, chunked(), (411, "LENGTH_REQUIRED")),
        (URL, {"content-range": "bytes 0-1/9"}, chunked(), (400, "INVALID_FIELD")),
        (URL, {"content-range": "bytes 0-3/9"}, chunked(), (400, "INVALID_FIELD")),
        (f"{URL}?size_bytes=1", {}, FILE, (400, "INVALID_FIELD")),
        (f"{URL}?name=%00", {}, FILE, (400, "INVALID_FIELD")),
        (f"{URL.replace('/a/', '/b/')}?run.run_id=r&run.fence=1", {}, FILE, (409, "RUN_FENCED")),
        (URL, {"if-none-match": "*"}, FILE, (400, "INVALID_FIELD")),
    ]
    with table() as cases:
        for url, headers, content, expected in rows:
            with cases.row(url, headers):
                answer = await web.client.put(url, content=content, headers={"repr-digest": whole, **headers})
                assert (answer.status_code, answer.json().get("reason")) == expected, answer.text
    listed = await web.wire.call("ListAttachments", ListAttachmentsRequest(session_id="s"))
    assert not listed.attachments


async def test_parts_of_a_file_come_down(web: Web) -> None:
    await web.wire.create("s")
    content = bytes(range(100))
    assert (await put(web, content)).status_code == 200
    tag = f'"{hashlib.sha256(content).hexdigest()}"'
    with table() as rows:
        for given, first, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=5-", 5, 100),
            ("bytes=-3", 97, 100),
            ("bytes=-1000", 0, 100),
            ("bytes=90-1000", 90, 100),
            ("Bytes=10-19", 10, 20),
        ):
            with rows.row(given):
                answer = await web.get(URL, range=given, if_range=tag)
                assert (answer.status_code, answer.content) == (206, content[first:end])
                assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/100"
                assert answer.headers["repr-digest"] == digest(content)
        for given in ("bytes=100-", "bytes=-0", f"bytes={10**15}-"):
            with rows.row(given):
                answer = await web.get(URL, range=given)
                assert (answer.status_code, answer.json()["reason"]) == (416, "RANGE_NOT_SATISFIABLE")
                assert answer.headers["content-range"] == "bytes */100"
        for given in ("bytes=0-1,5-6", "bytes=5-4", "bytes=-", "lines=1-2", "bytes=" + "9" * 17 + "-", ""):
            with rows.row(given):
                answer = await web.get(URL, range=given)
                assert (answer.status_code, answer.content) == (200, content)
        with rows.row("if-range"):
            answer = await web.get(URL, range="bytes=0-1", if_range='"older"')
            assert (answer.status_code, answer.content) == (200, content)


async def test_file_of_another_does_not_come_down(web: Web) -> None:
    await web.wire.create("s")
    await put(web)
    with table() as rows:
        for key, code in ((OTHER_TENANT, 404), (BOB, 404), ("no", 401), ("writer-key", 403)):
            with rows.row(key):
                headers = {"authorization": f"Bearer {key}", "range": "bytes=0-1"}
                assert (await web.client.get(URL, headers=headers)).status_code == code
                assert (await web.client.head(URL, headers=headers)).status_code == code
    token = (await web.post("/v1/sessions/s:createToken", {})).json()["token"]
    assert (await web.get(URL, authorization=f"Bearer {token}")).content == FILE
    assert (await put(web, authorization=f"Bearer {token}")).json()["reason"] == "TOKEN_FORBIDS"


async def test_slow_client_is_no_silent_one(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come of a body is passed on before a whole chunk is there."""
    monkeypatch.setattr(files, "FLUSH", 0.0)
    await web.wire.create("s")
    began = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        for place in range(100):
            yield bytes([place])
            if place == 50:
                await began.wait()

    content = bytes(range(100))
    span = {"repr-digest": digest(content), "content-range": "bytes 0-99/100"}
    sending = asyncio.create_task(web.client.put(URL, content=slow(), headers=span))

    async def received() -> bool:
        return web.wire.server.transfers.received > 51

    await until(received)
    began.set()
    assert (await sending).status_code == 200


async def test_silent_client_and_one_too_many_are_refused() -> None:
    async with opened_web(wire_options={"transfer_idle": 0.2, "most_transfers": 4}) as web:
        await web.wire.create("s")

        async def one(name: str) -> tuple[int, str]:
            head = (
                f"PUT {URL.replace('/a/', f'/{name}/')} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TENANT}\r\n"
                f"repr-digest: {digest(b'')}\r\ncontent-length: 10\r\n\r\na"
            )
            answer = (await web.raw(head.encode(), read=4096)).decode()
            reason = re.search(r'"reason": "(\w+)"', answer)
            assert reason, answer
            return int(answer[9:12]), reason[1]

        found = await asyncio.gather(*map(one, "abcdef"))
        assert set(found) == {(503, "TOO_MANY_TRANSFERS"), (408, "TRANSFER_STALLED")}, found
        assert web.wire.server.transfers.in_progress == 0


async def test_reader_that_leaves_frees_its_place(web: Web) -> None:
    await web.wire.create("s")
    large = bytes(16_000_000)
    assert (await put(web, large)).status_code == 200
    async with web.client.stream("GET", URL) as response:
        await anext(response.aiter_raw())
        assert web.wire.server.transfers.in_progress == 1

    async def free() -> bool:
        return web.wire.server.transfers.in_progress == 0

    await until(free)


async def test_file_whose_bytes_are_lost_does_not_end_as_if_it_were_whole() -> None:
    blobs = MemoryBlobs()
    async with opened_web(wire_options={"blobs": blobs}) as web:
        await web.wire.create("s")
        await put(web)
        blobs._segments.clear()
        with pytest.raises(httpx.RemoteProtocolError):
            await web.get(URL)
        assert (await web.client.head(URL)).status_code == 200


def test_types_that_browsers_run_are_not_told() -> None:
    for kept in ("image/png", "IMAGE/JPEG", "audio/ogg", "video/mp4", "text/plain; charset=utf-8", "application/pdf"):
        assert shown_type(kept) == kept
    for kind in (
        *("text/html", "image/svg+xml", "image/svg", "application/xhtml+xml", "text/javascript", "application/xml"),
        *("text/plain\r\nx: y", "image/png, text/html", "text/plain; charset=utf-7; x", "", "multipart/mixed", "画"),
    ):
        assert shown_type(kind) == "application/octet-stream", kind


def test_names_are_saved_and_never_shown() -> None:
    assert disposition("") == "attachment"
    assert disposition("a b.txt") == "attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt"
    assert disposition('é"\\;.sh').isascii()
    assert disposition('é"\\;.sh') == "attachment; filename=\"____.sh\"; filename*=UTF-8''%C3%A9%22%5C%3B.sh"
