"""Serves the platform's contract below a prefix: finds the operation of a path, and answers in the platform's form."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import unquote

from sessiond_server.http import problems
from sessiond_server.http.agentos import bodies, operations
from sessiond_server.http.agentos.calls import Calls
from sessiond_server.http.agentos.operations import Answer, Call
from sessiond_server.http.agentos.parameters import Parameters
from sessiond_server.http.agentos.refusals import Form, Invalid, Json, Refused, answer, refusal_of
from sessiond_server.http.answers import JSON
from sessiond_server.http.exchange import Gone, Request
from sessiond_server.http.files import Unary
from sessiond_server.http.json_texts import Converter, dump_value
from sessiond_server.http.problems import Problem, malformed
from sessiond_server.rpc.loopback import CallFailed

_log = logging.getLogger("sessiond.http")

SECONDS: Final = 60.0
"""That one request may take, all its calls of the gRPC port together."""

Operation = Callable[[Call], Awaitable[Answer]]

ROUTES: Final[Mapping[tuple[str, ...], Mapping[str, Operation]]] = {
    ("sessions",): {
        "GET": operations.list_sessions,
        "POST": operations.create_session,
        "DELETE": operations.delete_sessions,
    },
    ("sessions", "*"): {
        "GET": operations.get_session,
        "PATCH": operations.update_session,
        "DELETE": operations.delete_session,
    },
    ("sessions", "*", "rename"): {"POST": operations.rename_session},
    ("sessions", "*", "runs"): {"GET": operations.list_runs},
    ("sessions", "*", "run-previews"): {"GET": operations.list_run_previews},
    ("sessions", "*", "runs", "*"): {"GET": operations.get_run},
}
"""Operations by method and path; `*` is an id, percent-encoded."""
ID_PLACES: Final = (1, 3)
HEALTH: Final = (("health",), ("healthz",))


class Access(Protocol):
    """What the platform has of the port that it is served at."""

    async def tenant(self, request: Request) -> str:
        """The tenant of the caller. Raises Problem and CallFailed."""

    def body(self, request: Request, tenant_id: str) -> AbstractAsyncContextManager[bytes]:
        """The body, which counts as in progress within the context. Raises Problem."""

    async def serves(self, request: Request) -> bool:
        """Whether the server serves."""

    async def answer(self, request: Request, status: int, headers: Any, body: bytes, tenant_id: str = "") -> None:
        """Sends an answer. Raises Gone."""

    async def refuse(self, request: Request, status: int, headers: Any, body: bytes) -> None:
        """Sends an answer that may come before the body was received. Raises Gone."""

    async def preflight(self, request: Request, methods: set[str]) -> None:
        """Answers a browser that asks which methods a path has. Raises Gone."""


@dataclass(frozen=True, slots=True)
class Mount:
    """Where the contract is served, and in whose form."""

    prefix: str
    """A path without a slash at its end."""
    form: Form = "agentos"


class Platform:
    """The contract below one prefix. Belongs to one event loop."""

    def __init__(self, mount: Mount, access: Access, unary: Unary, converter: Converter) -> None:
        self._mount = mount
        self._access = access
        self._unary = unary
        self._converter = converter
        self._since = datetime.now(UTC).isoformat().replace("+00:00", "Z")

    def has(self, path: str) -> bool:
        """Whether a path lies below the prefix."""
        return path.startswith(f"{self._mount.prefix}/")

    async def serve(self, request: Request) -> None:
        """Serves a request below the prefix. Raises Gone."""
        try:
            await self._serve(request)
        except CallFailed as failure:
            await self._refuse(request, refusal_of(problems.of(failure)))
        except Problem as problem:
            await self._refuse(request, refusal_of(problem))
        except (Invalid, Refused) as refusal:
            await self._refuse(request, refusal)
        except Gone:
            raise
        except Exception:
            # Its traceback names places, and no contents; see telemetry.describe.
            _log.exception("request %s failed unexpectedly", request.id)
            text = "an internal error; its log record has the request id"
            await self._refuse(request, Refused(500, text, "" if self._mount.form == "go" else "INTERNAL"))

    async def _serve(self, request: Request) -> None:
        path = request.path.removeprefix(self._mount.prefix).strip("/").split("/")
        method = "GET" if request.method == "HEAD" else request.method
        if tuple(path) in HEALTH:
            _operation({"GET": operations.get_session}, method)
            await self._health(request)
            return
        found = ROUTES.get(tuple("*" if place in ID_PLACES and part else part for place, part in enumerate(path)))
        if found is None:
            raise Refused(404, "Not Found")
        if method == "OPTIONS":
            await self._access.preflight(request, set(found))
            return
        operation = _operation(found, method)
        tenant_id = await self._access.tenant(request)
        try:
            async with asyncio.timeout(SECONDS) as timer:
                done = await operation(self._call(request, tenant_id, path))
        except TimeoutError:
            if not timer.expired():
                raise
            raise Problem(504, "DEADLINE_EXCEEDED", f"the request took longer than {SECONDS:g} s") from None
        await self._answer(request, done, tenant_id)

    def _call(self, request: Request, tenant_id: str, path: list[str]) -> Call:
        parameters = Parameters(request.query)
        database = parameters.text("db_id") or ""
        table = parameters.text("table")
        if table and not database:
            raise Refused(400, "The db_id query parameter is required when passing a table")
        if table:
            raise Refused(404, f"No database with id '{database}' has table '{table}'")
        if database:
            request = replace(request, headers={**request.headers, "db-id": database})
        calls = Calls(self._unary, request, tenant_id, self._mount.form, self._converter.run, database)

        async def body(work: Callable[..., Any], *arguments: Any) -> Any:
            async with self._access.body(request, tenant_id) as text:
                return await self._converter.run(len(text), _worked, text, work, *arguments)

        session_id, run_id = (_decoded(path[place]) if len(path) > place else "" for place in ID_PLACES)
        return Call(calls, parameters, session_id, run_id, request.headers, body)

    async def _health(self, request: Request) -> None:
        serves = await self._access.serves(request)
        found: Json = {"status": "ok" if serves else "unavailable"}
        if self._mount.form == "agentos":
            found["instantiated_at"] = self._since
        headers = [("content-type", JSON), ("cache-control", "no-store")]
        await self._access.answer(request, 200 if serves else 503, headers, dump_value(found))

    async def _answer(self, request: Request, done: Answer, tenant_id: str) -> None:
        headers = [("cache-control", "no-store")]
        if done.version:
            headers.append(("etag", f'"{done.version}"'))
        body = b""
        if done.body is not None:
            headers.append(("content-type", JSON))
            body = await self._converter.run(done.weight, dump_value, done.body)
        await self._access.answer(request, done.status, headers, body, tenant_id)

    async def _refuse(self, request: Request, refusal: Refused | Invalid) -> None:
        status, headers, body = answer(refusal, self._mount.form)
        found = [("content-type", JSON), ("cache-control", "no-store"), *headers]
        await self._access.refuse(request, status, found, dump_value(body))


def _operation(found: Mapping[str, Operation], method: str) -> Operation:
    if method not in found:
        raise Refused(405, "Method Not Allowed", headers=[("allow", ", ".join(sorted(found)))])
    return found[method]


def _worked(text: bytes, work: Callable[..., Any], *arguments: Any) -> Any:
    return work(bodies.parse(text), *arguments)


def _decoded(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise malformed("the path is not percent-encoded UTF-8") from None
