"""The HTTP interface over a server on the memory store, and what it is called with."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import httpx
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from sessiond_server.app.door import tenant_of
from sessiond_server.auth import Authenticator, digest_of
from sessiond_server.http import queries
from sessiond_server.http.agentos.platform import Mount
from sessiond_server.http.assets import Asset
from sessiond_server.http.door import Door
from sessiond_server.http.origins import Origins
from sessiond_server.http.paths import VARIABLE
from sessiond_server.http.rules import RPCS, RULES, WHOLE, Rule
from sessiond_server.http.server import DoorServer, DoorSettings
from sessiond_server.rpc.loopback import Loopback, SocketFolder
from tests.support.serve_process import Serving
from tests.support.waiting import PATIENCE
from tests.support.wire import PRINCIPALS, TENANT, Wire, serving

SETTINGS = DoorSettings("127.0.0.1", 0, grace=1.0)

MEMORY = ("--store", "memory", "--http-listen", "127.0.0.1:0")
"""Arguments of a process that serves HTTP on a free port, and keeps nothing."""


def url_of(server: Serving) -> str:
    """Where a process serves HTTP."""
    found = re.search(r"http +(https?://\S+)/v1", server.announced)
    assert found, server.announced
    return found[1]


@dataclass
class Web:
    """What a test of HTTP talks to."""

    wire: Wire
    """The same server by gRPC."""
    server: DoorServer
    port: int
    client: httpx.AsyncClient
    """Its calls have the key TENANT."""

    async def call(self, rpc: str, message: Message, **options: Any) -> Any:
        """The answer of an RPC, by its first rule that fits."""
        sent = http_request(rule_of(rpc, message), message)
        answer = await self.client.request(sent.method, sent.url, json=sent.body, headers=sent.headers, **options)
        assert answer.status_code in (200, 201), answer.text
        return ParseDict(answer.json(), GetMessageClass(RPCS[rpc].output_type)())

    async def get(self, url: str, **headers: str) -> httpx.Response:
        return await self.client.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def post(self, url: str, body: Any = None, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(url, json=body, headers=named)

    async def raw(self, request: bytes, *, read: int = -1) -> bytes:
        """What the server answers to bytes, until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with closing(writer):
            writer.write(request)
            async with asyncio.timeout(PATIENCE):
                try:
                    return await reader.read(read)
                except ConnectionResetError:
                    return b""

    @asynccontextmanager
    async def events(self, url: str, **headers: str) -> AsyncIterator["Reader"]:
        """A stream of events."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.stream("GET", url, headers=named) as response:
            if response.status_code != 200:
                await response.aread()
            yield Reader(response)


@dataclass
class ServerSent:
    """One event."""

    event: str = ""
    id: str = ""
    data: Any = None
    comments: list[str] = field(default_factory=list)


class Reader:
    """Reads server-sent events as the HTML standard says, one after the other."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.retry = 0
        self._lines = response.aiter_lines()

    async def read(self) -> ServerSent | None:
        """The next event; None when the stream has ended."""
        found, data = ServerSent(), list[str]()
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line:
                    if data:
                        found.data = json.loads("\n".join(data))
                        return found
                elif not name:
                    found.comments.append(value)
                elif name == "data":
                    data.append(value)
                elif name == "retry":
                    self.retry = int(value)
                else:
                    assert name in ("event", "id"), line
                    setattr(found, name, value)
        return None

    async def until(self, event: str) -> ServerSent:
        """The next event of that name."""
        while (found := await self.read()) is not None:
            if found.event == event:
                return found
        raise AssertionError(f"the stream ended without {event}")


@asynccontextmanager
async def opened_web(
    *,
    settings: DoorSettings = SETTINGS,
    keys: bool = True,
    origins: frozenset[str] = frozenset(),
    wire_options: Mapping[str, Any] | None = None,
    authenticator: Authenticator | None = None,
    assets: Mapping[str, Asset] | None = None,
    mount: Mount | None = None,
    **changes: Any,
) -> AsyncIterator[Web]:
    """Serves; `changes` are to the settings of the port. Everything is closed behind it."""
    if authenticator is None and keys:
        authenticator = Authenticator({digest_of(key): who for key, who in PRINCIPALS.items()})
    elif authenticator is None:
        authenticator = Authenticator(open_to_all=True)
    folder = SocketFolder()
    try:
        async with serving(
            authenticator=authenticator, loopback=folder.address, **{"grace": 1.0, **(wire_options or {})}
        ) as wire:
            loopback = Loopback(folder.address)
            door = Door(
                loopback,
                Origins(origins, local=not keys),
                tenant_of(authenticator),
                alone=authenticator.alone,
                count_refusal=wire.server.count_refusal,
                assets=assets,
                mount=mount,
            )
            server = DoorServer(door, replace(settings, **changes))
            port = await server.start()
            headers = {"authorization": f"Bearer {TENANT}"} if keys else {}
            client = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=PATIENCE, trust_env=False
            )
            try:
                async with client:
                    yield Web(wire, server, port, client)
            finally:
                await server.stop()
                await loopback.close()
    finally:
        folder.close()


@dataclass(frozen=True, slots=True)
class Sent:
    """A request by HTTP."""

    method: str
    url: str
    body: Any
    headers: dict[str, str]


def rule_of(rpc: str, message: Message) -> Rule:
    """The rule of an RPC whose fixed fields are those of the message."""
    found = MessageToDict(message, preserving_proto_field_name=True)
    for rule in RULES:
        if rule.rpc == rpc and all((_at(found, name) or "") == value for name, value in rule.fixed):
            return rule
    raise LookupError(rpc)


def http_request(rule: Rule, message: Message) -> Sent:
    """The request that stands for a message."""
    fields = MessageToDict(message, preserving_proto_field_name=True)
    for name, _ in rule.fixed:
        _taken(fields, name)
    path = "".join(
        quote(_taken(fields, piece), safe="") if place % 2 else piece
        for place, piece in enumerate(VARIABLE.split(rule.path))
    )
    headers = {}
    if key := fields.pop("request_id", ""):
        headers["idempotency-key"] = key
    if version := fields.pop("expected_version", ""):
        headers["if-match"] = f'"{version}"'
    body = fields if rule.body == WHOLE else fields.pop(rule.body, {}) if rule.body else None
    pairs = [] if rule.body == WHOLE else list(_query(rule, fields))
    query = "&".join(f"{quote(name, safe='[]')}={quote(value, safe='')}" for name, value in pairs)
    return Sent(rule.method, f"{path}?{query}" if query else path, body, headers)


def _query(rule: Rule, fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for parameter in queries.parameters(rule).values():
        value = _at(fields, ".".join(parameter.path))
        if value is None:
            continue
        if parameter.is_map:
            yield from ((f"{parameter.name}[{key}]", inner) for key, inner in value.items())
        elif parameter.is_repeated:
            yield from ((parameter.name, str(inner)) for inner in value)
        elif parameter.is_json:
            yield parameter.name, json.dumps(value)
        else:
            yield parameter.name, json.dumps(value) if isinstance(value, bool) else str(value)


def _at(fields: Any, path: str) -> Any:
    for name in path.split("."):
        fields = (fields or {}).get(name)
    return fields


def _taken(fields: Any, path: str) -> str:
    *parents, last = path.split(".")
    for name in parents:
        fields = fields[name]
    return str(fields.pop(last, ""))
