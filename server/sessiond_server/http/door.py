"""The ASGI application: finds the rule of a request, calls the RPC, and answers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final

from google.protobuf.message_factory import GetMessageClass

from sessiond_server.domain.shares import Shares, one_tenant
from sessiond_server.errors import Unauthenticated
from sessiond_server.http import access_tokens, answers, json_texts, problems, requests
from sessiond_server.http.agentos.platform import Mount, Platform
from sessiond_server.http.assets import Asset
from sessiond_server.http.events import COME_BACK, Events
from sessiond_server.http.events import HEADERS as EVENT_HEADERS
from sessiond_server.http.exchange import (
    Gone,
    Receive,
    Request,
    Send,
    deadline,
    drop_body,
    metadata,
    pieces,
    request_of,
    until_left,
)
from sessiond_server.http.files import DOWNLOAD, UPLOAD, Files
from sessiond_server.http.health import Health
from sessiond_server.http.json_texts import Converter
from sessiond_server.http.origins import Origins
from sessiond_server.http.paths import Paths, not_allowed
from sessiond_server.http.problems import RETRY_LATER, Problem, malformed
from sessiond_server.http.rules import RPCS, Rule, grpc_path
from sessiond_server.http.run_streams import RunStreams
from sessiond_server.rpc.loopback import CallFailed, Loopback

_log = logging.getLogger("sessiond.http")

MIB: Final = 1024 * 1024
LARGEST_HEAD: Final = 16 * 1024
"""Most bytes of a request line with its headers."""
LARGEST_BODY: Final = 8 * MIB
"""Bytes. A message of 3 MiB is up to twice as long in JSON, where it has many characters to escape."""
HEAD_TOO_LARGE: Final = f"the head is larger than {LARGEST_HEAD // 1024} KiB"
MOST_BODIES: Final = 64 * MIB
"""Most bytes of bodies in progress; each tenant has its share."""
BODY_SECONDS: Final = 30.0
"""How long a body may take to arrive."""
MOST_CALLS: Final = 1500
"""Most calls in progress, streams not counted, well below what one connection carries; each tenant has its share."""
MOST_UNSENT: Final = 256 * MIB
"""Most bytes of large answers and events that clients have not received yet; each tenant has its share."""
MOST_OPEN_UNSENT: Final = 16 * MIB
"""Most bytes, of those, of what needs no key, so that it takes no room of answers to tenants."""
SMALL: Final = 4 * 1024
"""Largest answer in bytes that is not counted."""
MOST_REFUSED: Final = 1000
"""Most requests without a valid key that wait for their refusal, well below what one connection carries; more are
refused at once."""
REFUSED_BY: Final = "GetSession"
"""A unary RPC that needs a key: it refuses all requests without a valid one."""

TenantOf = Callable[[str | None, str], str]
"""(the Authorization header, the address of the caller) -> its tenant. Raises Unauthenticated if the server will refuse
it."""
CountRefusal = Callable[[str, str], None]
"""(one of errors.REFUSALS, the address of the caller)"""


class Door:
    """Serves requests. Belongs to one event loop."""

    def __init__(
        self,
        loopback: Loopback,
        origins: Origins,
        tenant_of: TenantOf,
        *,
        alone: Callable[[], bool],
        count_refusal: CountRefusal,
        assets: Mapping[str, Asset] | None = None,
        mount: Mount | None = None,
    ) -> None:
        """`alone` returns whether there is only one tenant, which then need not leave room for others. `count_refusal`
        counts what is refused here, and not by the server. `assets`: files that need no key, by their paths. `mount`:
        where the contract of AgentOS is served."""
        self._loopback = loopback
        self._origins = origins
        self._tenant_of = tenant_of
        self._paths = Paths()
        self._bodies = Shares(MOST_BODIES, alone=alone)
        self._calls = Shares(MOST_CALLS, alone=alone)
        self._unsent = Shares(MOST_UNSENT, alone=alone)
        self._open_unsent = Shares(MOST_OPEN_UNSENT, alone=one_tenant)
        self._count_refusal = count_refusal
        self._assets = assets or {}
        self._refused = 0
        self._health = Health(loopback)
        self._runs = RunStreams(loopback, self._unary, self._begin, self._write)
        self._files = Files(loopback, self._unary, self._begin, self._write)
        self._converter = Converter()
        self._platform = None if mount is None else Platform(mount, self, self._unary, self._converter)
        self._document = files("sessiond_server.http").joinpath("openapi.json").read_bytes()

    def close(self) -> None:
        self._health.close()
        self._converter.close()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = request_of(scope, receive, send)
        try:
            try:
                await self._serve(request)
            except Problem as problem:
                await self._refuse(request, problem)
            except CallFailed as failure:
                await self._refuse(request, problems.of(failure))
        except Gone:
            return
        except Exception:
            # Its traceback names places, and no contents; see telemetry.describe.
            _log.exception("request %s failed unexpectedly", request.id)
            await self._refuse(
                request, Problem(500, "INTERNAL", "an internal error; its log record has the request id")
            )

    async def _serve(self, request: Request) -> None:
        if request.head_bytes > LARGEST_HEAD:
            # The connection refuses only a head that arrives in pieces.
            raise malformed(HEAD_TOO_LARGE)
        self._origins.check(request.scheme, request.headers)
        method = "GET" if request.method == "HEAD" else request.method
        if request.path in ("/healthz", "/v1/openapi.json"):
            if method != "GET":
                raise not_allowed(method, {"GET"})
            await (self._answer_health(request) if request.path == "/healthz" else self._openapi(request))
            return
        if (asset := self._assets.get(request.path)) is not None:
            if method != "GET":
                raise not_allowed(method, {"GET"})
            await self.answer(request, *asset.answer(request.headers))
            return
        if self._platform is not None and self._platform.has(request.path):
            await self._platform.serve(request)
            return
        if method == "OPTIONS" and (methods := self._paths.methods(request.path)):
            await self.preflight(request, methods)
            return
        rule, captured = self._paths.find(method, request.path)
        rpc = RPCS[rule.rpc]
        if rule.rpc == access_tokens.TAKEN_BY:
            request.query, request.headers = access_tokens.taken(request.query, request.headers)
        tenant_id = await self.tenant(request)
        if rule.form:
            async with self.body(request, tenant_id):
                pass  # what an agent of AG-UI would be asked; the run is what the path says
            await self._runs.serve(request, rule, captured, tenant_id)
        elif rule.rpc == UPLOAD:
            await self._files.receive(request, rule, captured)
        elif rule.rpc == DOWNLOAD:
            await self._files.send(request, rule, captured, tenant_id)
        elif rpc.server_streaming:
            message = requests.message(rule, captured, request.query, b"", request.headers)
            await self._stream(request, rule, message.SerializeToString(), tenant_id)
        else:
            await self._call(request, rule, captured, tenant_id)

    async def preflight(self, request: Request, methods: set[str]) -> None:
        """Answers a browser that asks which methods a path has. Raises Gone."""
        await self.answer(request, 204, self._origins.preflight(request.headers, methods), b"")

    async def tenant(self, request: Request) -> str:
        """The tenant of the caller. Raises Problem and CallFailed."""
        try:
            return self._tenant_of(request.headers.get("authorization"), request.peer)
        except Unauthenticated as error:
            await self._wait_for_refusal(request, error.refusal)
            raise Problem(401, "UNAUTHENTICATED", str(error)) from None

    async def _wait_for_refusal(self, request: Request, refusal: str) -> None:
        """Lets the server refuse a request without a valid key, of whose body nothing is read: it counts and logs such
        calls, and has a pace for them. Raises CallFailed."""
        if self._refused >= MOST_REFUSED:
            self._count_refusal(refusal, request.peer)
            return
        self._refused += 1
        try:
            await self._loopback.call(grpc_path(RPCS[REFUSED_BY]), b"", metadata(request), lane="refused")
        except CallFailed as failure:
            if failure.code != "INVALID_ARGUMENT":
                raise
            # The key has become valid meanwhile, and the request names no session.
        finally:
            self._refused -= 1

    async def _call(self, request: Request, rule: Rule, captured: Mapping[str, str], tenant_id: str) -> None:
        """Serves a unary RPC."""
        if not self._calls.take(tenant_id):
            raise _too_many("calls")
        try:
            sent = await self._sent(request, rule, captured, tenant_id)
            got = await self._loopback.call(grpc_path(RPCS[rule.rpc]), sent, metadata(request), deadline(request))
            del sent
            answer = GetMessageClass(RPCS[rule.rpc].output_type).FromString(got)
            text = await self._converter.run(len(got), json_texts.dump, answer)
            headers = answers.headers(rule, request.path, answer)
        finally:
            self._calls.give(tenant_id)
        await self.answer(request, answers.status(rule), headers, text, tenant_id)

    async def _unary(self, rpc: str, sent: bytes, request: Request, tenant_id: str) -> bytes:
        if not self._calls.take(tenant_id):
            raise _too_many("calls")
        try:
            return await self._loopback.call(grpc_path(RPCS[rpc]), sent, metadata(request), deadline(request))
        finally:
            self._calls.give(tenant_id)

    async def _sent(self, request: Request, rule: Rule, captured: Mapping[str, str], tenant_id: str) -> bytes:
        """The serialised request message."""
        if not request.body_due:
            return requests.message(rule, captured, request.query, b"", request.headers).SerializeToString()
        async with self.body(request, tenant_id) as body:
            given = (rule, captured, request.query, body, request.headers)
            message = await self._converter.run(len(body), requests.message, *given)
            return message.SerializeToString()

    @asynccontextmanager
    async def body(self, request: Request, tenant_id: str) -> AsyncIterator[bytes]:
        """The body, which is JSON or empty and counts as in progress within the context. Raises Problem and Gone."""
        body, held = bytearray(), 0
        try:
            try:
                async with asyncio.timeout(BODY_SECONDS) as timer:
                    async for piece in _bounded_pieces(request):
                        if not self._bodies.take(tenant_id, len(piece)):
                            raise _too_many("request_bytes")
                        held += len(piece)
                        if held > LARGEST_BODY:
                            raise _too_large()
                        body += piece
            except TimeoutError:
                if not timer.expired():
                    raise
                raise Problem(408, "REQUEST_TIMEOUT", f"the body took longer than {BODY_SECONDS:g} s") from None
            if body and request.headers.get("content-type", "").partition(";")[0].strip().lower() != answers.JSON:
                raise Problem(415, "UNSUPPORTED_MEDIA_TYPE", "the body must be application/json")
            yield bytes(body)
        finally:
            if held:
                self._bodies.give(tenant_id, held)

    async def _stream(self, request: Request, rule: Rule, sent: bytes, tenant_id: str) -> None:
        """Serves a stream of events until it ends or the client leaves."""
        rpc = RPCS[rule.rpc]

        async def write(text: bytes) -> None:
            await self._write(request, text, tenant_id)

        events = Events(rpc, self._converter, write, request.id)
        async with self._loopback.stream(grpc_path(rpc), sent, metadata(request)) as frames:
            try:
                first = await anext(frames, None)
            except CallFailed as failure:
                wanted = request.method == "GET" and "text/event-stream" in request.headers.get("accept", "")
                if failure.code not in COME_BACK or not wanted:
                    raise
                await self._begin(request, 200, list(EVENT_HEADERS))
                await events.put_off(failure)
                await request.send({"type": "http.response.body", "body": b""})
                return
            if first is None:
                raise Problem(410, "SESSION_DELETED", "the session was deleted")
            await self._begin(request, 200, list(EVENT_HEADERS))
            if request.method == "HEAD":
                await request.send({"type": "http.response.body", "body": b""})
                return
            await until_left(events.deliver(first, frames), events.until_gone(request.receive))
            await request.send({"type": "http.response.body", "body": b""})

    async def serves(self, request: Request) -> bool:
        """Whether the server serves."""
        return await self._health.serves(metadata(request))

    async def _answer_health(self, request: Request) -> None:
        serving = await self.serves(request)
        text = json_texts.dump_dict({"status": "SERVING" if serving else "NOT_SERVING"})
        headers = [("content-type", answers.JSON), ("cache-control", "no-store")]
        await self.answer(request, 200 if serving else 503, headers, text)

    async def _openapi(self, request: Request) -> None:
        headers = [("content-type", answers.JSON), ("cache-control", "no-cache")]
        await self.answer(request, 200, headers, self._document)

    async def _refuse(self, request: Request, problem: Problem) -> None:
        await self.refuse(request, problem.status, problem.all_headers(), problem.body(request.id))

    async def refuse(self, request: Request, status: int, headers: answers.Headers, body: bytes) -> None:
        """Sends an answer that may come before the body was received. Raises Gone."""
        headers = [*headers, ("content-length", str(len(body)))]
        unread = request.body_due
        if unread:
            headers.append(("connection", "close"))
        await self._begin(request, status, headers)
        await request.send({"type": "http.response.body", "body": body, "more_body": True})
        if unread:
            await drop_body(request)
        await request.send({"type": "http.response.body", "body": b""})

    async def answer(
        self, request: Request, status: int, headers: answers.Headers, body: bytes, tenant_id: str = ""
    ) -> None:
        """Sends an answer; its body is counted with those of the tenant until it is received. Raises Gone."""
        length = [] if status in (204, 304) else [("content-length", str(len(body)))]
        await self._begin(request, status, [*headers, *length])
        if len(body) <= SMALL:
            await request.send({"type": "http.response.body", "body": body})
            return
        await self._write(request, body, tenant_id)
        await request.send({"type": "http.response.body", "body": b""})

    async def _begin(self, request: Request, status: int, headers: answers.Headers) -> None:
        found = [*headers, ("x-request-id", request.id), *self._origins.headers(request.headers)]
        found += (("x-content-type-options", "nosniff"),)
        raw = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in found]
        await request.send({"type": "http.response.start", "status": status, "headers": raw})

    async def _write(self, request: Request, text: bytes, tenant_id: str) -> None:
        """Sends a piece, and waits for the transport where it is large. `tenant_id` is empty where no key is needed.
        Raises Gone if there is no room for it."""
        if len(text) <= SMALL:
            await request.send({"type": "http.response.body", "body": text, "more_body": True})
            return
        unsent = self._unsent if tenant_id else self._open_unsent
        if not unsent.take(tenant_id, len(text)):
            _log.warning("an answer of %d bytes was broken off: clients receive too slowly", len(text))
            raise Gone
        try:
            await request.send({"type": "http.response.body", "body": text, "more_body": True})
            # The server waits for the transport before it sends, not after.
            await request.send({"type": "http.response.body", "body": b"", "more_body": True})
        finally:
            unsent.give(tenant_id, len(text))


async def _bounded_pieces(request: Request) -> Any:
    """The body as it arrives. Raises Gone; Problem, before anything is read, if it says that it is too large."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > LARGEST_BODY:
        raise _too_large()
    async for piece in pieces(request):
        yield piece


def _too_large() -> Problem:
    return Problem(413, "REQUEST_TOO_LARGE", f"the body has more than {LARGEST_BODY} bytes")


def _too_many(what: str) -> Problem:
    return Problem(503, "TOO_MANY_CALLS", "too many calls at once", metadata={"what": what}, retry_after=RETRY_LATER)
