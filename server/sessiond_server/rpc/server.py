"""The server: a port, the services behind it, and how it starts and stops."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc
from grpc.aio import Server
from grpc_health.v1 import health_pb2

from sessiond.v1 import (
    attachment_service_pb2,
    event_service_pb2,
    message_service_pb2,
    run_service_pb2,
    session_service_pb2,
    tool_call_service_pb2,
)
from sessiond_server.auth import Authenticator, Principal
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.domain.shares import Shares
from sessiond_server.errors import Starting
from sessiond_server.events.bus import Bus
from sessiond_server.events.contract import Hub
from sessiond_server.rpc import reflection
from sessiond_server.rpc.attachments.servicer import AttachmentServicer
from sessiond_server.rpc.attachments.transfers import Transfers
from sessiond_server.rpc.call import Interceptor
from sessiond_server.rpc.events.delivery import Deliveries
from sessiond_server.rpc.events.positions import Positions
from sessiond_server.rpc.events.servicer import EventServicer
from sessiond_server.rpc.health import Health
from sessiond_server.rpc.interceptors.access_log import AccessLog
from sessiond_server.rpc.interceptors.admission import Admission
from sessiond_server.rpc.interceptors.authentication import Authentication
from sessiond_server.rpc.interceptors.boundary import Boundary
from sessiond_server.rpc.interceptors.call_id import CallId
from sessiond_server.rpc.interceptors.call_metrics import CallMetrics, MethodMetrics
from sessiond_server.rpc.interceptors.deadline import Deadline
from sessiond_server.rpc.interceptors.gate import Gate
from sessiond_server.rpc.interceptors.gathering import Gathering
from sessiond_server.rpc.interceptors.occupancy import Occupancy
from sessiond_server.rpc.interceptors.reading import Reading
from sessiond_server.rpc.interceptors.refusals import Refusals
from sessiond_server.rpc.messages.servicer import MessageServicer
from sessiond_server.rpc.methods import generic_handler, unknown_methods
from sessiond_server.rpc.open_calls import Context
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.rpc.refused_calls import RefusedCalls
from sessiond_server.rpc.runs.servicer import RunServicer
from sessiond_server.rpc.sessions.servicer import SessionServicer
from sessiond_server.rpc.shares import Places
from sessiond_server.rpc.tls import Certificates
from sessiond_server.rpc.tool_calls.servicer import ToolCallServicer
from sessiond_server.store.commits import Writer
from sessiond_server.store.log_reads import LogReads
from sessiond_server.store.session_reads import SessionQueries, SessionReads
from sessiond_server.store.work import WorkStore

SESSIONS: Final = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
MESSAGES: Final = message_service_pb2.DESCRIPTOR.services_by_name["MessageService"]
EVENTS: Final = event_service_pb2.DESCRIPTOR.services_by_name["EventService"]
ATTACHMENTS: Final = attachment_service_pb2.DESCRIPTOR.services_by_name["AttachmentService"]
RUNS: Final = run_service_pb2.DESCRIPTOR.services_by_name["RunService"]
TOOL_CALLS: Final = tool_call_service_pb2.DESCRIPTOR.services_by_name["ToolCallService"]
SERVICES: Final = (SESSIONS, MESSAGES, RUNS, TOOL_CALLS, EVENTS, ATTACHMENTS)

CACHE: Final = "cache"
"""Asked of health as a service: NOT_SERVING while the cache cannot be used. Unknown where there is none."""

CONNECTION_GRACE: Final = 60.0
"""Seconds that an old connection outlives the streams that began on it, for calls without a stream."""

PENDING: Final = 16 * 1024
"""Calls that wait to be taken in by the event loop, of all connections. They cost some KiB each."""

LOOKAHEAD: Final = 16 * 1024
"""Bytes that a stream may send before it is read. They bound what callers without a key can make the server hold."""

HANDSHAKE: Final = 10.0
"""Seconds that a new connection may take until it speaks HTTP/2."""

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WireSettings:
    """How the server meets the network. Times in seconds."""

    listen: str = "127.0.0.1:50051"
    """host:port; port 0 takes a free one."""
    certificates: Certificates | None = None
    """None: plain text."""
    longest_deadline: float = 30.0
    """Of calls that have no deadline or a later one."""
    most_calls: int = 1024
    """Served at once, streams not counted; more wait, before their requests are read."""
    most_waiting: int = 16 * 1024
    """Calls that wait so; more are refused with TooManyCalls."""
    most_searches: int = 5
    """Of `most_calls`, those that may take the database long: below the number of its connections."""
    most_reading: int = 32
    """Requests that arrive at the same time; each may hold `transport_limit` meanwhile."""
    most_request_bytes: int = 64 * MIB
    """Of requests in progress larger than 4 KiB. As many as may wait to be written: what one tenant may hold of them
    leaves room in that queue."""
    most_unsent_bytes: int = 256 * MIB
    """Of large answers and frames that clients have yet to take."""
    most_connections: int = 4096
    """More are closed as they come."""
    connection_idle: float = 600.0
    """Seconds without a call after which a connection is told to go: anybody can open one."""
    most_streams: int = 2048
    """Calls in progress on one connection, streams among them; more wait in the client."""
    log_successes: bool = True
    """Whether the access log has calls that went well, too."""
    call_metrics: bool = False
    """Whether calls are counted, for `RpcServer.call_metrics`."""
    reflection: bool = False
    so_reuseport: bool = False
    """Whether several processes may listen on the same port."""
    drain_pause: float = 0.0
    """Between NOT_SERVING and refusing calls: load balancers need it to look elsewhere."""
    grace: float = 10.0
    """How long calls in progress may take to finish when the server stops."""
    flush: float = 2.0
    """How long answers may then take to leave once no call is in progress. Without it a peer that takes none, or a call
    that grpc has lost (decision 14), would use up all of `grace`."""
    largest_request: int = 4 * MIB
    """Bytes. Larger ones are RequestTooLarge; `transport_limit` is what is read at all."""
    transport_limit: int = 8 * MIB
    metadata_limit: int = 8 * 1024
    """Bytes of a call's metadata."""
    keepalive_time: float = 30.0
    keepalive_timeout: float = 10.0
    max_connection_age: float = 1800.0
    """Connections are closed then, in grace, so that load spreads over servers that came later."""
    """Those that streams are open on stay until the last of them has reached `watch_age`, and no longer."""
    watch_age: float = 1800.0
    """Greatest age of a stream; up to a tenth less, so that streams which began together do not end together."""
    watch_write_timeout: float = 10.0
    """How long a watcher may take to make room for a frame, and any peer for the answer of a call that failed."""
    most_transfers: int = 64
    """Uploads and downloads in progress at once; more are refused with TooManyTransfers."""
    transfer_idle: float = 30.0
    """How long the client of a transfer may send, or take, nothing."""
    upload_retention: float = 86400.0
    """How long the store keeps an upload without a sign of life."""
    bookmark_interval: float = 10.0
    """Longest silence of a stream whose filter passes over what happens. Idle ones are the hub's."""

    def options(self) -> list[tuple[str, int]]:
        """gRPC's channel arguments."""
        return [
            ("grpc.so_reuseport", int(self.so_reuseport)),
            ("grpc.max_receive_message_length", self.transport_limit),
            # Stored data is bounded when it is written; a response that has grown past a limit must still be readable.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", self.most_streams),
            ("grpc.http2.lookahead_bytes", LOOKAHEAD),
            ("grpc.max_allowed_incoming_connections", self.most_connections),
            ("grpc.max_connection_idle_ms", round(self.connection_idle * 1000)),
            ("grpc.server_handshake_timeout_ms", round(HANDSHAKE * 1000)),
            # It resets calls that the client was allowed to send while those before them are being cleaned up. Clients
            # in C++ and Python show that as UNAVAILABLE: half of all calls of a channel with 256 callers.
            ("grpc.http.overload_protection", 0),
            # Beyond these, calls that have not been taken in yet are dropped, which clients see as CANCELLED.
            ("grpc.server.max_pending_requests", PENDING),
            ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING),
            # Else each connection takes in what its bandwidth and delay can hold, read or not: 20 uploads took 500 MiB
            # where now they take 50. The message that is being read comes in at once all the same.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.max_metadata_size", self.metadata_limit),
            ("grpc.absolute_max_metadata_size", 2 * self.metadata_limit),
            ("grpc.keepalive_time_ms", round(self.keepalive_time * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout * 1000)),
            # What ends a connection whose peer does not answer; the timeout of the keepalive does not (grpc 1.85).
            ("grpc.http2.ping_timeout_ms", round(self.keepalive_timeout * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            # Clients that ping as often as this server does are not sent away.
            ("grpc.http2.min_ping_interval_without_data_ms", round(self.keepalive_timeout * 1000)),
            ("grpc.max_connection_age_ms", round(self.max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", round((self.watch_age + CONNECTION_GRACE) * 1000)),
        ]


@dataclass(frozen=True, slots=True)
class Reads:
    """Where the services read, by ability."""

    sessions: SessionReads
    """A cache may answer."""
    queries: SessionQueries
    logs: LogReads
    work: WorkStore


class RpcServer:
    """Serves sessiond.v1, and health and reflection beside it. For one event loop; started and stopped once."""

    def __init__(
        self,
        reads: Reads,
        writer: Writer,
        hub: Hub,
        bus: Bus,
        files: AttachmentAccess,
        authenticator: Authenticator,
        settings: WireSettings,
    ) -> None:
        self._settings = settings
        self._gate = Gate(Starting)
        self._occupancy = Occupancy()
        self._refusals = Refusals()
        self._refused = RefusedCalls()

        alone = authenticator.alone
        waiting = Shares(settings.most_waiting, alone=alone)
        unsent = Shares(settings.most_unsent_bytes, alone=alone)
        admission = Admission(
            Places(settings.most_calls, waiting=waiting, alone=alone),
            Places(settings.most_searches, waiting=waiting, alone=alone),
            unsent,
        )
        reading = Reading(
            Places(settings.most_reading, waiting=waiting, alone=alone),
            Shares(settings.most_request_bytes, alone=alone),
        )
        self._health = Health([service.full_name for service in SERVICES], self._counting("health"))
        self._tokens = tokens = PageTokens()
        self._positions = positions = Positions()
        self._deliveries = Deliveries(
            write_timeout=settings.watch_write_timeout,
            max_age=settings.watch_age,
            bookmark_interval=settings.bookmark_interval,
        )
        transfers = Transfers(Shares(settings.most_transfers, alone=alone), idle=settings.transfer_idle)
        self._servicers = (
            (SESSIONS, SessionServicer(reads.sessions, reads.queries, reads.work, writer, tokens)),
            (MESSAGES, MessageServicer(reads.sessions, reads.queries, writer, tokens)),
            (RUNS, RunServicer(reads.work, writer, tokens)),
            (TOOL_CALLS, ToolCallServicer(reads.work, writer, tokens)),
            (EVENTS, EventServicer(reads.sessions, reads.logs, hub, bus, positions, self._deliveries)),
            (ATTACHMENTS, AttachmentServicer(files, writer, tokens, transfers, settings.upload_retention)),
        )
        self._authentication = Authentication(authenticator, self._refusals)
        self._call_metrics = CallMetrics(self._refused)
        self._interceptors: Sequence[Interceptor] = (
            CallId(),  # outside the log: the log record and every error carry the id
            # Outside the boundary: it records the answer, whatever became of the call.
            AccessLog(successes=settings.log_successes),
            *(
                (self._call_metrics,) if settings.call_metrics else ()
            ),  # as the log, and inside it: what it costs is not counted
            Boundary(settings.watch_write_timeout),  # outside all that raises
            self._gate,  # before anything is counted or spent on a call that is to go elsewhere
            self._authentication,  # before anything of the request is read, or counted
            self._occupancy,  # before work is done
            Deadline(settings.longest_deadline),  # around all waiting
            admission,  # before the request takes memory
            reading,
            Gathering(),  # all that follows is done for several calls in a row
        )
        self._server: Server | None = None
        self._closing: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens, and refuses calls with Starting until `open`; health says NOT_SERVING. Returns the port.

        Raises RuntimeError when the address cannot be had.
        """
        server = grpc.aio.server(options=self._settings.options())
        largest = self._settings.largest_request
        server.add_generic_rpc_handlers(
            [generic_handler(service, servicer, self._interceptors, largest) for service, servicer in self._servicers]
        )
        await self._health.add_to(server)
        if self._settings.reflection:
            services = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"])
            reflection.add_to(server, [service.full_name for service in services], self._counting("reflection"))
        server.add_generic_rpc_handlers([unknown_methods(self._turn_of_unknown)])  # the last: it takes all
        if self._settings.certificates is not None:
            port = server.add_secure_port(self._settings.listen, self._settings.certificates.credentials)
        else:
            port = server.add_insecure_port(self._settings.listen)
        await server.start()
        self._server = server
        return port

    async def open(self, token_key: bytes) -> None:
        """Serves from now on: the store is ready, and `token_key` is Upkeep.token_key's. Health says SERVING."""
        self._tokens.key = self._positions.key = token_key
        self._gate.open()
        await self.set_serving(True)

    def revoke(self, holds: Callable[[Principal], bool]) -> int:
        """Ends the streams of callers whose principals are no longer valid, watchers behind a GoingAway. How many."""
        self._deliveries.revoke(holds)
        return self._authentication.revoke(holds)

    async def set_serving(self, serving: bool) -> None:
        """What health says. No effect once `stop` was called."""
        await self._health.set(serving)

    async def set_cache(self, used: bool) -> None:
        """What health says of CACHE, which no other answer depends on."""
        await self._health.set_part(CACHE, used)

    @property
    def calls(self) -> int:
        """Calls in progress."""
        return self._occupancy.calls

    @property
    def call_metrics(self) -> Sequence[MethodMetrics]:
        """Of each method; none unless WireSettings.call_metrics, and none before `start`."""
        return self._call_metrics.methods

    @property
    def refused_calls(self) -> Mapping[str, int]:
        """How many calls were refused, by why (errors.REFUSALS); none unless WireSettings.call_metrics, but of health,
        reflection and unknown methods."""
        return self._refused.counts

    def _counting(self, refusal: str) -> Callable[[], None]:
        return partial(self._refused.count, refusal)

    async def _turn_of_unknown(self, context: Context) -> None:
        self._refused.count("unknown_method")
        await self._refusals.turn(context)

    async def stop(self) -> None:
        """Health says NOT_SERVING; after a pause clients are told to go elsewhere, watchers get a GoingAway; calls in
        progress get `grace` to finish, and their answers `flush` to leave; then they are cancelled.

        Returns when the port is closed. Cancelling it skips the pause; the rest then goes on by itself.
        """
        server, self._server = self._server, None
        if server is None:
            if self._closing is not None:
                await asyncio.shield(self._closing)
            return
        await self._health.drain()
        try:
            await asyncio.sleep(self._settings.drain_pause)
        finally:
            # Once, and never cancelled: with two calls of grpc's `stop` under way, one may use what the other freed.
            self._closing = asyncio.create_task(self._close(server), name="rpc-closing")
            await asyncio.shield(self._closing)

    async def _close(self, server: Server) -> None:
        """What the transport has handed over by now is served: only watchers are sent away (decision 14)."""
        closing = asyncio.create_task(server.stop(self._settings.grace), name="rpc-grace")
        # One turn: connections have been told to go away before watchers are, who come back at once.
        await asyncio.sleep(0)
        self._health.close()
        self._deliveries.drain()
        self._refusals.drain()
        quiet = asyncio.create_task(self._quiet(), name="rpc-quiet")
        await asyncio.wait({closing, quiet}, return_when=asyncio.FIRST_COMPLETED)
        if closing.done():
            quiet.cancel()
            await closing
            return
        # One after the other: see `stop`.
        closing.cancel()
        await asyncio.wait({closing})
        await server.stop(None)

    async def _quiet(self) -> None:
        """Returns when no call has been in progress for `flush`."""
        while True:
            await self._occupancy.emptied()
            await asyncio.sleep(self._settings.flush)
            if not self._occupancy.calls:
                return
