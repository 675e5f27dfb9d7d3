"""The server: a port, the services behind it, and how it starts and stops."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from itertools import chain
from typing import Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc.aio import Server
from grpc_health.v1 import health_pb2

from sessiond.v1 import (
    attachment_service_pb2,
    context_service_pb2,
    document_service_pb2,
    event_service_pb2,
    export_service_pb2,
    message_service_pb2,
    pipe_service_pb2,
    retention_service_pb2,
    run_service_pb2,
    search_service_pb2,
    session_service_pb2,
    template_service_pb2,
    tool_call_service_pb2,
    usage_service_pb2,
)
from sessiond_server.auth import Authenticator, Principal
from sessiond_server.domain.shares import Shares
from sessiond_server.errors import Starting
from sessiond_server.exports.reading import Exports
from sessiond_server.rpc import reflection
from sessiond_server.rpc.attachments.servicer import AttachmentServicer
from sessiond_server.rpc.attachments.transfers import Transfers
from sessiond_server.rpc.call import Interceptor
from sessiond_server.rpc.context.servicer import ContextServicer
from sessiond_server.rpc.documents.servicer import DocumentServicer
from sessiond_server.rpc.events.delivery import Deliveries
from sessiond_server.rpc.events.positions import Positions
from sessiond_server.rpc.events.servicer import EventServicer
from sessiond_server.rpc.exports.servicer import ExportServicer
from sessiond_server.rpc.granted import Granted
from sessiond_server.rpc.health import Health
from sessiond_server.rpc.intake import Intake
from sessiond_server.rpc.interceptors.access_log import AccessLog
from sessiond_server.rpc.interceptors.admission import Admission
from sessiond_server.rpc.interceptors.authentication import Authentication
from sessiond_server.rpc.interceptors.beginning import Beginning
from sessiond_server.rpc.interceptors.boundary import Boundary
from sessiond_server.rpc.interceptors.call_id import CallId
from sessiond_server.rpc.interceptors.call_metrics import CallMetrics, MethodMetrics
from sessiond_server.rpc.interceptors.deadline import Deadline
from sessiond_server.rpc.interceptors.gate import Gate
from sessiond_server.rpc.interceptors.gathering import Gathering
from sessiond_server.rpc.interceptors.late import Late
from sessiond_server.rpc.interceptors.occupancy import Occupancy
from sessiond_server.rpc.interceptors.reading import Reading
from sessiond_server.rpc.interceptors.refusals import Refusals
from sessiond_server.rpc.interceptors.spans import Spans
from sessiond_server.rpc.messages.servicer import MessageServicer
from sessiond_server.rpc.methods import Served, generic_handler, served_methods, unknown_methods
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.rpc.pipe.pipe import Surroundings
from sessiond_server.rpc.pipe.servicer import PipeServicer
from sessiond_server.rpc.places import Places
from sessiond_server.rpc.refused_calls import RefusedCalls
from sessiond_server.rpc.retention.servicer import RetentionServicer
from sessiond_server.rpc.routing import Database, Routed, Routing
from sessiond_server.rpc.runs.servicer import RunServicer
from sessiond_server.rpc.search.servicer import SearchServicer
from sessiond_server.rpc.session_tokens import SessionTokens
from sessiond_server.rpc.sessions.servicer import SessionServicer
from sessiond_server.rpc.templates.servicer import TemplateServicer
from sessiond_server.rpc.tool_calls.servicer import ToolCallServicer
from sessiond_server.rpc.usage.servicer import UsageServicer
from sessiond_server.rpc.wire_settings import WireSettings

SESSIONS: Final = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
MESSAGES: Final = message_service_pb2.DESCRIPTOR.services_by_name["MessageService"]
EVENTS: Final = event_service_pb2.DESCRIPTOR.services_by_name["EventService"]
ATTACHMENTS: Final = attachment_service_pb2.DESCRIPTOR.services_by_name["AttachmentService"]
RUNS: Final = run_service_pb2.DESCRIPTOR.services_by_name["RunService"]
TOOL_CALLS: Final = tool_call_service_pb2.DESCRIPTOR.services_by_name["ToolCallService"]
DOCUMENTS: Final = document_service_pb2.DESCRIPTOR.services_by_name["DocumentService"]
CONTEXT: Final = context_service_pb2.DESCRIPTOR.services_by_name["ContextService"]
SEARCH: Final = search_service_pb2.DESCRIPTOR.services_by_name["SearchService"]
TEMPLATES: Final = template_service_pb2.DESCRIPTOR.services_by_name["TemplateService"]
USAGE: Final = usage_service_pb2.DESCRIPTOR.services_by_name["UsageService"]
EXPORTS: Final = export_service_pb2.DESCRIPTOR.services_by_name["ExportService"]
RETENTION: Final = retention_service_pb2.DESCRIPTOR.services_by_name["RetentionService"]
SERVICES: Final = (
    SESSIONS,
    MESSAGES,
    RUNS,
    TOOL_CALLS,
    EVENTS,
    ATTACHMENTS,
    DOCUMENTS,
    CONTEXT,
    SEARCH,
    USAGE,
    TEMPLATES,
    EXPORTS,
    RETENTION,
)
"""The services that databases serve. Their unary RPCs can be called through a pipe."""
PIPE: Final = pipe_service_pb2.DESCRIPTOR.services_by_name["PipeService"]

CACHE: Final = "cache"
"""Name of the cache in health checks: NOT_SERVING while it cannot be used; an unknown service if there is no cache."""

DATABASE: Final = "database/"
"""Before the id of a database, its name in health checks."""


class RpcServer:
    """Serves sessiond.v1, health and reflection. Belongs to one event loop; can be started and stopped once."""

    def __init__(
        self,
        databases: Sequence[Database],
        authenticator: Authenticator,
        settings: WireSettings,
    ) -> None:
        """`databases`: the default one first, whose `homes` are the map of the tenants that live in others."""
        self._settings = settings
        self._gate = Gate(Starting)
        self._occupancy = Occupancy()
        self._refusals = Refusals()
        self._refused = RefusedCalls()

        alone = authenticator.alone
        waiting = Shares(settings.most_waiting, alone=alone)
        unsent = Shares(settings.most_unsent_bytes, alone=alone)
        calls = Places(settings.most_calls, waiting=waiting, alone=alone)
        self._intake = Intake(calls, settings.enough_calls, alone=alone, clock=time.monotonic)
        admission = Admission(
            calls,
            Places(settings.most_searches, waiting=waiting, alone=alone),
            unsent,
            alone=alone,
        )
        held = Shares(settings.most_request_bytes, alone=alone)
        reading = Reading(Places(settings.most_reading, waiting=waiting, alone=alone), held, settings.reading_patience)
        self._slicing = Places(settings.most_slicing, waiting=waiting, alone=alone)
        offered = (*SERVICES, PIPE) if settings.pipes.pipes else SERVICES
        self._health = Health([service.full_name for service in offered], self._counting("health"))
        self._databases = [database.id for database in databases]
        self._serving = dict.fromkeys(self._databases, False)
        """Which databases are open and answer."""
        self._routing = Routing(databases)
        self.moves: Final = self._routing.moves
        """The tenants that are moving."""
        self._tokens = {database.id: PageTokens(homes=database.homes) for database in databases}
        self._positions = {database.id: Positions(homes=database.homes) for database in databases}
        self._session_tokens = SessionTokens()
        authenticator.accept_tokens(self._session_tokens.open)
        self._deliveries = Deliveries(
            write_timeout=settings.watch_write_timeout,
            max_age=settings.watch_age,
            bookmark_interval=settings.bookmark_interval,
        )
        self.transfers: Final = Transfers(Shares(settings.most_transfers, alone=alone), idle=settings.transfer_idle)
        servicers = {
            database.id: [Granted(each, database.reads.sessions) for each in self._servicers_of(database)]
            for database in databases
        }
        self._servicers = [
            (service, Routed(self._routing, {each: made[place] for each, made in servicers.items()}))
            for place, service in enumerate(SERVICES)
        ]
        self._beginning = Beginning(settings.most_begun, alone=alone)
        self._authentication = Authentication(authenticator, self._refusals)
        self._call_metrics = CallMetrics(self._refused)
        self._interceptors: Sequence[Interceptor] = (
            *((self._call_metrics,) if settings.call_metrics else ()),  # outermost: it counts every call
            Late(admission.late),  # before any other work; calls that it ends are counted, and not logged one by one
            CallId(),  # outside the log: the log record and every error carry the id
            *((Spans(settings.tracer),) if settings.tracer is not None else ()),  # outside the log, which has their id
            # Outside the boundary: it records the final answer of every call.
            AccessLog(successes=settings.log_successes),
            Boundary(settings.watch_write_timeout),  # outside everything that raises
            self._gate,  # before any work for a call that must go to another server
            self._authentication,  # before the request is read or counted
            self._occupancy,  # before any work is done
            Deadline(settings.longest_deadline),  # around all waits
            admission,  # before the request takes memory
            # Before the loop works on the request: what has begun delays calls of all tenants.
            self._beginning,
            reading,
            Gathering(),  # innermost: everything after it runs for several calls in a row
        )
        self._held = held
        self._pipe_places = Shares(settings.pipes.pipes, alone=alone)
        self._pipes: PipeServicer | None = None
        self._server: Server | None = None
        self._closing: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listens and returns the port. Until `open`, refuses calls with Starting, and health reports NOT_SERVING.

        Raises RuntimeError if it cannot listen on the address.
        """
        server = grpc.aio.server(options=self._settings.options())
        served = {service: self._served(service, servicer) for service, servicer in self._servicers}
        if self._settings.pipes.pipes:
            self._pipes = self._pipe_servicer(list(chain.from_iterable(served.values())))
            served[PIPE] = self._served(PIPE, self._pipes)
        server.add_generic_rpc_handlers([generic_handler(service, methods) for service, methods in served.items()])
        await self._health.add_to(server)
        if self._settings.reflection:
            names = [service.full_name for service in served]
            names.append(health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection.add_to(server, names, self._counting("reflection"))
        server.add_generic_rpc_handlers([unknown_methods(self._turn_of_unknown)])  # must be last: it matches all
        if self._settings.certificates is not None:
            port = server.add_secure_port(self._settings.listen, self._settings.certificates.credentials)
        else:
            port = server.add_insecure_port(self._settings.listen)
        if self._settings.loopback:
            server.add_insecure_port(self._settings.loopback)
        self._intake.govern(asyncio.get_running_loop(), server)
        await server.start()
        self._server = server
        return port

    def _served(self, service: ServiceDescriptor, servicer: object) -> Sequence[Served]:
        return served_methods(service, servicer, self._interceptors, self._settings.largest_request, self._slicing)

    def _pipe_servicer(self, methods: Iterable[Served]) -> PipeServicer:
        settings = self._settings
        unary = {
            each.method.path: (each.method, each.serve)
            for each in methods
            if not (each.method.request_streaming or each.method.response_streaming)
        }
        around = Surroundings(
            unary=unary,
            limits=settings.pipes,
            held=self._held,
            intake=self._intake,
            beginning=self._beginning,
            turn_of_unknown=self._turn_of_unknown,
            longest_request=settings.transport_limit,
            write_timeout=settings.watch_write_timeout,
        )
        return PipeServicer(around, self._pipe_places, max_age=settings.watch_age)

    def _servicers_of(self, database: Database) -> Sequence[object]:
        """The servicers of one database, in the order of SERVICES."""
        settings, reads, writer = self._settings, database.reads, database.writer
        tokens, positions = self._tokens[database.id], self._positions[database.id]
        return (
            SessionServicer(
                reads.sessions,
                reads.queries,
                reads.history,
                reads.work,
                reads.forks,
                reads.erasures,
                reads.templates,
                writer,
                tokens,
                self._session_tokens,
            ),
            MessageServicer(reads.sessions, reads.queries, reads.history, writer, tokens, settings.largest_message),
            RunServicer(reads.work, reads.history, writer, tokens),
            ToolCallServicer(reads.work, reads.history, writer, tokens),
            EventServicer(reads.sessions, reads.logs, database.hub, database.bus, positions, self._deliveries),
            AttachmentServicer(database.files, writer, tokens, self.transfers, settings.upload_retention),
            DocumentServicer(reads.documents, writer, tokens),
            ContextServicer(reads.sessions, reads.queries, reads.history, reads.work, reads.summaries, writer, tokens),
            SearchServicer(reads.search, tokens),
            UsageServicer(reads.usage, tokens),
            TemplateServicer(reads.templates, tokens),
            ExportServicer(Exports(reads.sessions, reads.logs, database.files), database.imports, self.transfers),
            RetentionServicer(reads.retention, tokens, settings.ended_retention_us),
        )

    async def open(self, token_key: bytes) -> None:
        """Starts serving: the default database is ready, and `token_key` comes from its Upkeep.token_key. Health
        reports SERVING."""
        self._session_tokens.key = token_key
        self._gate.open()
        await self.open_database(self._databases[0], token_key)

    async def open_database(self, database_id: str, token_key: bytes) -> None:
        """Serves the calls of one database too, as soon as the server is open. As `open`."""
        self._tokens[database_id].key = self._positions[database_id].key = token_key
        self._routing.open(database_id)
        await self.set_serving(True, database_id)

    def rehome(self, tenant_ids: Set[str]) -> None:
        """Disconnects the watchers of tenants that have got another home, since no event of them comes where they
        watch."""
        self._deliveries.release(lambda principal: principal.tenant_id in tenant_ids)

    def revoke(self, holds: Callable[[Principal], bool]) -> int:
        """Ends the streams of callers whose keys are no longer valid; watchers get a GoingAway first. Returns their
        number."""
        self._deliveries.revoke(holds)
        if self._pipes is not None:
            self._pipes.revoke(holds)
        return self._authentication.revoke(holds)

    async def set_serving(self, serving: bool, database_id: str | None = None) -> None:
        """Sets what health reports for a database, by default the default one. The server as a whole, and its services,
        are SERVING while one database is; none is before `open`. No effect once `stop` was called."""
        self._serving[database_id or self._databases[0]] = serving
        for each, answers in self._serving.items():
            await self._health.set_part(f"{DATABASE}{each}", answers and self._gate.is_open)
        await self._health.set(any(self._serving.values()) and self._gate.is_open)

    async def set_cache(self, used: bool) -> None:
        """Sets what health reports for CACHE. The status of the server does not depend on it."""
        await self._health.set_part(CACHE, used)

    @property
    def calls(self) -> int:
        """Number of calls in progress."""
        return self._occupancy.calls

    @property
    def open_pipes(self) -> int:
        """Number of pipes."""
        return self._pipe_places.used

    @property
    def call_metrics(self) -> Sequence[MethodMetrics]:
        """Metrics of each method; empty unless WireSettings.call_metrics is set, and before `start`."""
        return self._call_metrics.methods

    @property
    def refused_calls(self) -> Mapping[str, int]:
        """How many calls were refused, by why (errors.REFUSALS); none unless WireSettings.call_metrics, but of health,
        reflection and unknown methods."""
        return self._refused.counts

    def count_refusal(self, refusal: str, peer: str) -> None:
        """Counts a call without a valid key that was refused before it came here; `refusal`: one of errors.REFUSALS,
        `peer`: the caller's address."""
        self._refused.count(refusal)
        self._refusals.note(lambda: peer)

    def _counting(self, refusal: str) -> Callable[[], None]:
        return partial(self._refused.count, refusal)

    async def _turn_of_unknown(self, peer: Callable[[], str]) -> None:
        self._refused.count("unknown_method")
        await self._refusals.turn(peer)

    async def stop(self) -> None:
        """Drains and stops. Health reports NOT_SERVING; after `drain_pause`, connections are closed in order and
        watchers get a GoingAway. Calls in progress get `grace` to finish, and their answers `flush` to be sent; then
        they are cancelled.

        Returns once the port is closed. Cancelling skips the pause; the rest continues in the background.
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
            # Runs once and is never cancelled: of two concurrent calls of grpc's `stop`, one may use freed memory.
            self._closing = asyncio.create_task(self._close(server), name="rpc-closing")
            await asyncio.shield(self._closing)

    async def _close(self, server: Server) -> None:
        """Stops grpc's server. Calls that the transport has delivered by now are served; only watchers are disconnected
        (decision 14)."""
        self._intake.end()
        await self._intake.handed_over()
        closing = asyncio.create_task(server.stop(self._settings.grace), name="rpc-grace")
        # One turn of the loop, so that connections get a GOAWAY before watchers disconnect, who reconnect at once.
        await asyncio.sleep(0)
        self._health.close()
        self._deliveries.drain()
        if self._pipes is not None:
            self._pipes.drain()
        self._refusals.drain()
        quiet = asyncio.create_task(self._quiet(), name="rpc-quiet")
        await asyncio.wait({closing, quiet}, return_when=asyncio.FIRST_COMPLETED)
        if closing.done():
            quiet.cancel()
            await closing
            return
        # The two calls of grpc's `stop` must not overlap: see `stop`.
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
