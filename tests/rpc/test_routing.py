"""Which database serves a call: the home of its tenant, or the one that its metadata names if the key allows it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.session_pb2 import Session, SessionType
from sessiond_server import auth
from sessiond_server.auth import SCOPES, Authenticator, Principal, digest_of
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.blobs.downloads import Downloads
from sessiond_server.blobs.uploads import Uploads
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.rows import Policy
from sessiond_server.errors import StoreUnavailable
from sessiond_server.events.announcer import Announcer
from sessiond_server.events.hub import EventHub
from sessiond_server.exports.receiving import Imports
from sessiond_server.memory.blobs import MemoryBlobs
from sessiond_server.memory.bus import MemoryBus
from sessiond_server.memory.store import MemoryStore
from sessiond_server.rpc.routing import Database, Reads
from sessiond_server.rpc.server import RpcServer
from sessiond_server.settings.databases import database_id
from sessiond_server.store.announcing import AnnouncedCommits
from sessiond_server.store.homes import Homes
from tests.support.wire import SETTINGS, DirectWriter, Failure, Wire

ACME, GLOBEX, FREE, BOUND = "acme-key", "globex-key", "free-key", "bound-key"
KEYS = {
    ACME: Principal("acme", "", "acme", SCOPES),
    GLOBEX: Principal("globex", "", "globex", SCOPES),
    FREE: Principal("acme", "", "free", SCOPES | {auth.ANY_DATABASE}),
    BOUND: Principal("acme", "", "bound", SCOPES | {"database:eu", "database:nowhere"}),
}


@dataclass
class Served:
    wire: Wire
    server: RpcServer
    stores: dict[str, MemoryStore]
    homes: Homes

    async def create(self, key: str, session_id: str, **metadata: str) -> Session:
        made = Session(session_id=session_id, type=SessionType.SESSION_TYPE_AGENT)
        created: Session = await self._call("CreateSession", s.CreateSessionRequest(session=made), key, **metadata)
        return created

    async def listed(self, key: str, **metadata: str) -> list[str]:
        page = await self._call("ListSessions", s.ListSessionsRequest(), key, **metadata)
        return sorted(session.session_id for session in page.sessions)

    async def refused(self, key: str, **metadata: str) -> Failure:
        with pytest.raises(Failure) as caught:
            await self.listed(key, **metadata)
        return caught.value

    async def _call(self, rpc: str, request: Any, key: str, **metadata: str) -> Any:
        return await self.wire.call(rpc, request, key=key, metadata=tuple(metadata.items()))

    async def health(self, service: str) -> str:
        check = self.wire.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        status = (await check(HealthCheckRequest(service=service))).status
        return str(HealthCheckResponse.ServingStatus.Name(status))


@asynccontextmanager
async def serving(*ids: str, opened: tuple[str, ...] | None = None, begun: bool = True) -> AsyncIterator[Served]:
    """A server over a store in memory for each database, of which `opened` can be used; by default all. Not `begun`: it
    is not open yet."""
    homes, stores, hubs = Homes(), {}, []
    databases: list[Database] = []
    async with AsyncExitStack() as stack:
        for each in ids:
            store, bus, blobs = MemoryStore(), MemoryBus(), MemoryBlobs()
            hub = await stack.enter_async_context(EventHub(store, bus))
            hubs.append(hub)
            uploads = await stack.enter_async_context(Uploads(store.attachments, blobs))
            files = AttachmentAccess(store.attachments, uploads, Downloads(store.attachments, blobs))
            writer = DirectWriter(AnnouncedCommits(store, Announcer(hub, bus)))
            beside = (store.documents, store.forks, store.erasures, store.usage, store.retention, store.templates)
            reads = Reads(store, store, store, store, store, *beside, store.search, None)
            imports = Imports(store.imports, store, store, blobs, Announcer(hub, bus), Policy())
            databases.append(Database(each, reads, writer, hub, bus, files, imports, Homes() if databases else homes))
            stores[each] = store
        authenticator = Authenticator({digest_of(key): who for key, who in KEYS.items()})
        server = RpcServer(databases, authenticator, SETTINGS)
        homes.on_change = server.rehome
        port = await server.start()
        stack.push_async_callback(server.stop)
        if begun:
            await server.open(await stores[ids[0]].token_key())
        for each in opened if opened is not None else ids[1:]:
            await server.open_database(each, await stores[each].token_key())
        options = (("grpc.use_local_subchannel_pool", 1),)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options))
        yield Served(Wire(server, port, channel, stores[ids[0]], hubs[0]), server, stores, homes)


async def test_each_tenant_is_served_by_its_home() -> None:
    async with serving("main", "eu") as served:
        served.homes.use(1, "main", {"globex": "eu"})
        await served.create(ACME, "one")
        await served.create(GLOBEX, "two")
        assert await served.listed(ACME) == ["one"]
        assert await served.listed(GLOBEX) == ["two"]
        assert await served.stores["main"].count_sessions(Scope("globex"), s.SessionFilter()) == 0
        assert await served.stores["eu"].count_sessions(Scope("globex"), s.SessionFilter()) == 1


async def test_metadata_names_a_database_where_the_key_allows_it() -> None:
    async with serving("main", "eu", "us") as served:
        for key in (FREE, BOUND):
            await served.create(key, f"{key}-eu", db_id="eu")
            await served.create(key, key)
        assert await served.listed(ACME) == ["bound-key", "free-key"]
        assert await served.listed(BOUND, db_id="eu") == ["bound-key-eu", "free-key-eu"]
        assert await served.listed(FREE, db_id="us") == []
        assert await served.listed(FREE, db_id="main") == ["bound-key", "free-key"]


@pytest.mark.parametrize(
    ("key", "named", "code", "reason"),
    [
        (ACME, "eu", StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        (ACME, "main", StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        (ACME, "nowhere", StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        (BOUND, "us", StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        (BOUND, "nowhere", StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (FREE, "nowhere", StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (FREE, "", StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (FREE, "EU", StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (FREE, "e" * 33, StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
        (ACME, "*", StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    ],
)
async def test_a_name_that_is_wrong_or_not_allowed_is_refused(
    key: str, named: str, code: StatusCode, reason: str
) -> None:
    async with serving("main", "eu", "us") as served:
        failure = await served.refused(key, db_id=named)
        assert (failure.code, failure.reason) == (code, reason)
        if code is StatusCode.INVALID_ARGUMENT:
            assert list(failure.violations) == ["db_id"]
        else:
            assert failure.metadata == {"scope": f"database:{named}"}


async def test_a_session_token_is_for_the_database_in_which_it_was_made() -> None:
    async with serving("main", "eu", "us") as served:
        await served.create(FREE, "here")
        await served.create(FREE, "there", db_id="eu")
        token = s.CreateSessionTokenRequest(session_id="there")
        there = (await served.wire.call("CreateSessionToken", token, key=FREE, metadata=[("db_id", "eu")])).token
        here = (
            await served.wire.call("CreateSessionToken", s.CreateSessionTokenRequest(session_id="here"), key=FREE)
        ).token
        reads: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            (here, "here", ("", "main")),
            (there, "there", ("", "eu")),
        )
        for bearer, session_id, good in reads:
            for named in ("", "main", "eu", "us", "nowhere"):
                metadata = [("db_id", named)] if named else []
                request = s.GetSessionRequest(session_id=session_id)
                if named in good:
                    await served.wire.call("GetSession", request, key=bearer, metadata=metadata)
                else:
                    failure = await served.wire.failure("GetSession", request, key=bearer, metadata=metadata)
                    assert failure.reason == "TOKEN_FORBIDS", (session_id, named)


async def test_a_server_with_one_database_refuses_names_too() -> None:
    async with serving("main") as served:
        assert await served.listed(FREE, db_id="main") == []
        assert (await served.refused(FREE, db_id="eu")).reason == "INVALID_FIELD"
        assert (await served.refused(ACME, db_id="main")).reason == "SCOPE_MISSING"


async def test_the_default_database_cannot_be_named_by_a_tenant_that_has_left_it() -> None:
    async with serving("main", "eu") as served:
        served.homes.use(1, "main", {"acme": "eu"})
        failure = await served.refused(FREE, db_id="main")
        assert failure.violations == {"db_id": "must not name the default database: the tenant lives in another one"}
        assert await served.listed(FREE, db_id="eu") == []


async def test_a_database_that_is_away_is_named_to_its_tenants_and_others_go_on() -> None:
    async with serving("main", "eu", opened=()) as served:
        served.homes.use(1, "main", {"globex": "eu"})
        failure = await served.refused(GLOBEX)
        assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert failure.text == "the database eu cannot be reached"
        assert failure.metadata == {"database_id": "eu"}
        assert await served.listed(ACME) == []
        await served.server.open_database("eu", bytes(32))
        assert await served.listed(GLOBEX) == []


async def test_an_error_of_the_store_names_its_database() -> None:
    async with serving("main", "eu") as served:
        served.homes.use(1, "main", {"globex": "eu"})

        async def away(*_: object, **__: object) -> Any:
            raise StoreUnavailable

        served.stores["eu"].list_sessions = away  # type: ignore[method-assign]
        assert (await served.refused(GLOBEX)).metadata == {"database_id": "eu"}


async def test_a_tenant_whose_database_this_server_does_not_know_is_refused() -> None:
    async with serving("main") as served:
        served.homes.use(1, "main", {"globex": "eu"})
        failure = await served.refused(GLOBEX)
        assert (failure.reason, failure.metadata) == ("STORE_UNAVAILABLE", {"database_id": "eu"})
        assert await served.listed(ACME) == []


async def test_the_only_database_is_not_named_in_errors() -> None:
    async with serving("default") as served:

        async def away(*_: object, **__: object) -> Any:
            raise StoreUnavailable

        served.stores["default"].list_sessions = away  # type: ignore[method-assign]
        failure = await served.refused(ACME)
        assert (failure.text, failure.metadata) == ("the database cannot be reached", {})


async def test_tokens_and_positions_are_good_in_one_database_only() -> None:
    async with serving("main", "eu") as served:
        for each in ("a", "b"):
            await served.create(FREE, each)
            await served.create(FREE, each, db_id="eu")
        request = s.ListSessionsRequest(page_size=1)
        page = await served.wire.call("ListSessions", request, key=FREE)
        request.page_token = page.next_page_token
        assert (await served.wire.call("ListSessions", request, key=FREE)).sessions
        with pytest.raises(Failure) as caught:
            await served.wire.call("ListSessions", request, key=FREE, metadata=(("db_id", "eu"),))
        assert caught.value.reason == "INVALID_PAGE_TOKEN"
        events = await served.wire.call("ListEvents", e.ListEventsRequest(session_id="a", page_size=1), key=FREE)
        again = e.ListEventsRequest(session_id="a", position=events.position)
        with pytest.raises(Failure) as caught:
            await served.wire.call("ListEvents", again, key=FREE, metadata=(("db_id", "eu"),))
        assert caught.value.reason == "INVALID_POSITION"


async def test_health_says_serving_while_one_database_answers() -> None:
    async with serving("main", "eu", opened=()) as served:
        assert await served.health("database/main") == "SERVING"
        assert await served.health("database/eu") == "NOT_SERVING"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.health("database/us")
        assert caught.value.code() is StatusCode.NOT_FOUND
        await served.server.open_database("eu", bytes(32))
        await served.server.set_serving(False, "main")
        assert await served.health("database/main") == "NOT_SERVING"
        assert await served.health("") == await served.health("database/eu") == "SERVING"
        assert await served.health("sessiond.v1.SessionService") == "SERVING"
        await served.server.set_serving(False, "eu")
        assert await served.health("") == "NOT_SERVING"
        await served.server.set_serving(True, "main")
        assert await served.health("") == "SERVING"


async def test_health_says_not_serving_while_calls_are_refused() -> None:
    """Another database may be there before the server as a whole is open."""
    async with serving("main", "eu", opened=(), begun=False) as served:
        await served.server.open_database("eu", bytes(32))
        assert await served.health("") == await served.health("database/eu") == "NOT_SERVING"
        assert (await served.refused(ACME)).reason == "STARTING"
        await served.server.open(bytes(32))
        assert await served.health("") == await served.health("database/eu") == "SERVING"
        assert await served.listed(ACME) == []


async def test_watchers_of_a_tenant_that_gets_a_home_are_disconnected() -> None:
    async with serving("main", "eu") as served:
        leaves = served.wire.watch("WatchEvents", e.WatchEventsRequest(), key=GLOBEX)
        stays = served.wire.watch("WatchEvents", e.WatchEventsRequest(), key=ACME)
        for watch in (leaves, stays):
            assert (await watch.read()).HasField("resumed")
        served.homes.use(1, "main", {"globex": "eu"})
        assert (await leaves.read()).HasField("going_away")
        assert (await leaves.failure()).reason == "DRAINING"
        await served.create(ACME, "one")
        assert len((await stays.read()).events.events) == 1
        stays.cancel()


@pytest.mark.parametrize("text", ["", "a", "a" * 32, "a" * 33, "A", "a-9", "9a", "-a", "a_b", "a b", "é", "a\n", "*"])
def test_ids_of_keys_and_settings_follow_one_rule(text: str) -> None:
    try:
        allowed = bool(database_id(text))
    except ValueError:
        allowed = False
    assert auth.is_database_id(text) is allowed
