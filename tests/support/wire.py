"""A server on a free port over the memory store, and a channel that speaks bytes."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    RetryInfo,
)
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from sessiond.v1.attachment_service_pb2 import UploadAttachmentRequest, UploadHeader
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from sessiond.v1.session_pb2 import Session, SessionStatus
from sessiond.v1.session_service_pb2 import CreateSessionRequest
from sessiond_server.auth import (
    OFFICE_SCOPES,
    SCOPES,
    SESSIONS_READ,
    SESSIONS_WRITE,
    Authenticator,
    Principal,
    digest_of,
)
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.blobs.contract import BlobStore
from sessiond_server.blobs.downloads import Downloads
from sessiond_server.blobs.uploads import UploadLimits, Uploads
from sessiond_server.domain.commands import Command, Outcome
from sessiond_server.domain.rows import Policy
from sessiond_server.events.announcer import Announcer
from sessiond_server.events.bus import Bus
from sessiond_server.events.hub import EventHub
from sessiond_server.events.limits import HubLimits
from sessiond_server.exports.receiving import Imports
from sessiond_server.memory.blobs import MemoryBlobs
from sessiond_server.memory.bus import MemoryBus
from sessiond_server.memory.store import MemoryStore
from sessiond_server.rpc.routing import Database, Reads
from sessiond_server.rpc.server import SERVICES, RpcServer
from sessiond_server.rpc.wire_settings import WireSettings
from sessiond_server.store.announcing import AnnouncedCommits
from sessiond_server.store.attachments import AttachmentStore
from sessiond_server.store.branches import BranchedCommits
from sessiond_server.store.commits import Commits, Writer
from sessiond_server.store.contract import Store
from sessiond_server.store.documents import DocumentReads
from sessiond_server.store.imports import ImportStore
from sessiond_server.store.work import WorkStore
from tests.support.export_records import following

RPCS: Mapping[str, MethodDescriptor] = {method.name: method for service in SERVICES for method in service.methods}

PATHS: Mapping[str, str] = {
    method.name: f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods
}
"""Path on the wire of each RPC, by its name alone."""

UNARY = [name for name, method in RPCS.items() if not (method.client_streaming or method.server_streaming)]

TENANT = "acme-key"
OTHER_TENANT = "globex-key"
ALICE = "alice-key"
BOB = "bob-key"
READER = "reader-key"
WRITER = "writer-key"

PRINCIPALS = {
    TENANT: Principal("acme", "", "tenant", SCOPES | OFFICE_SCOPES),
    OTHER_TENANT: Principal("globex", "", "other", SCOPES),
    ALICE: Principal("acme", "alice", "alice", SCOPES),
    BOB: Principal("acme", "bob", "bob", SCOPES),
    READER: Principal("acme", "", "reader", frozenset((SESSIONS_READ,))),
    WRITER: Principal("acme", "", "writer", frozenset((SESSIONS_WRITE,))),
}

CONTENT = b"content"
FOLLOWING: Mapping[str, Sequence[ProtoMessage]] = {
    "UploadAttachment": [UploadAttachmentRequest(chunk=CONTENT)],
    "ImportSession": [following()],
}
"""What `Wire.call` sends in a stream after the request that it is given."""

SETTINGS = WireSettings(listen="127.0.0.1:0")


class DirectWriter:
    """Each command a batch of its own."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits

    async def write(self, command: Command) -> Outcome:
        (result,) = (await self._commits.apply([command])).results
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result  # this frame is in its traceback
        return result


@dataclass
class Failure(Exception):
    """A call's status with its details."""

    code: grpc.StatusCode
    text: str
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str]
    """Field: rule."""
    trailers: dict[str, str | bytes]
    details: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> "Failure":
        trailers = dict(error.trailing_metadata() or ())
        failure = cls(error.code(), error.details() or "", "", {}, {}, trailers)
        raw = trailers.get("grpc-status-details-bin")
        if isinstance(raw, bytes):
            status = Status.FromString(raw)
            assert status.code == error.code().value[0]
            assert status.message == error.details()
            for packed in status.details:
                failure._take(packed)
        return failure

    def _take(self, packed: Any) -> None:
        for kind in (ErrorInfo, BadRequest, PreconditionFailure, QuotaFailure, RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                detail = kind()
                packed.Unpack(detail)
                self.details.append(detail)
                if kind is ErrorInfo:
                    assert detail.domain == "sessiond"
                    self.reason, self.metadata = detail.reason, dict(detail.metadata)
                elif kind is BadRequest:
                    self.violations = {v.field: v.description for v in detail.field_violations}


class Wire:
    """What a test talks to."""

    def __init__(self, server: RpcServer, port: int, channel: grpc.aio.Channel, store: Store, hub: EventHub) -> None:
        self.server = server
        self.port = port
        self.channel = channel
        self.store = store
        """Below what tells of commits: what is written to it directly was committed by another replica."""
        self.hub = hub

    def start(
        self,
        rpc: str,
        request: ProtoMessage | bytes,
        *,
        key: str = TENANT,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = 20.0,
    ) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        """A call of an RPC by its name alone, not yet awaited."""
        if RPCS[rpc].client_streaming:
            call: grpc.aio.UnaryUnaryCall[bytes, bytes] = self.send(
                rpc, [request, *FOLLOWING[rpc]], key=key, metadata=metadata, timeout=timeout
            )
            return call
        invoke: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(PATHS[rpc])
        return invoke(_data(request), metadata=(*_bearer(key), *metadata), timeout=timeout)

    def send(
        self,
        rpc: str,
        requests: Iterable[ProtoMessage | bytes] | AsyncIterable[ProtoMessage | bytes],
        *,
        key: str = TENANT,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = 20.0,
    ) -> Any:
        """A call that sends a stream, not yet awaited.

        One that is refused while it still sends may end with an error of grpc's own in place of the server's.
        """

        async def messages() -> AsyncIterator[bytes]:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    yield _data(request)
            else:
                for request in requests:
                    yield _data(request)

        return self.open(rpc, messages(), key=key, metadata=metadata, timeout=timeout)

    def open(
        self,
        rpc: str,
        messages: AsyncIterator[bytes] | None = None,
        *,
        key: str = TENANT,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = 20.0,
    ) -> Any:
        """A call to send a stream by, with `write` and `done_writing` where there are no messages."""
        invoke: Any = self.channel.stream_unary(PATHS[rpc])
        return invoke(messages, metadata=(*_bearer(key), *metadata), timeout=timeout)

    def watch(
        self,
        rpc: str,
        request: ProtoMessage | bytes,
        *,
        key: str = TENANT,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = 20.0,
        channel: grpc.aio.Channel | None = None,
    ) -> "Watch":
        """A stream of an RPC by its name alone."""
        invoke: Any = (channel or self.channel).unary_stream(PATHS[rpc])
        return Watch(rpc, invoke(_data(request), metadata=(*_bearer(key), *metadata), timeout=timeout))

    async def call(self, rpc: str, request: ProtoMessage | bytes, **options: Any) -> Any:
        """The response, of a stream the first one; or Failure."""
        if RPCS[rpc].server_streaming:
            watch = self.watch(rpc, request, **options)
            try:
                return await watch.read()
            finally:
                watch.cancel()
        try:
            answer = await self.start(rpc, request, **options)
        except grpc.aio.AioRpcError as error:
            raise Failure.of(error) from None
        return GetMessageClass(RPCS[rpc].output_type).FromString(answer)

    async def failure(self, rpc: str, request: ProtoMessage | bytes, **options: Any) -> Failure:
        """How a call that must fail does."""
        try:
            answer = await self.call(rpc, request, **options)
        except Failure as failure:
            return failure
        raise AssertionError(f"{rpc} succeeded: {answer}")

    async def create(self, session_id: str = "", *, key: str = TENANT, active: bool = True, **fields: Any) -> Session:
        status = SessionStatus.SESSION_STATUS_ACTIVE if active else SessionStatus.SESSION_STATUS_CREATED
        session = Session(session_id=session_id, status=status, **fields)
        created = await self.call("CreateSession", CreateSessionRequest(session=session), key=key)
        assert isinstance(created, Session)
        return created

    async def append(self, session_id: str, *texts: str, key: str = TENANT) -> Any:
        messages = [said(text) for text in texts]
        return await self.call(
            "AppendMessages", AppendMessagesRequest(session_id=session_id, messages=messages), key=key
        )


class Watch:
    """A stream that is open."""

    def __init__(self, rpc: str, call: Any) -> None:
        self._rpc = rpc
        self.call = call

    async def read(self) -> Any:
        """The next frame; None at the end; Failure."""
        try:
            frame = await self.call.read()
        except grpc.aio.AioRpcError as error:
            raise Failure.of(error) from None
        return None if frame is grpc.aio.EOF else GetMessageClass(RPCS[self._rpc].output_type).FromString(frame)

    async def failure(self) -> Failure:
        """How it ends, whatever comes before."""
        try:
            while (frame := await self.read()) is not None:
                del frame
        except Failure as failure:
            return failure
        raise AssertionError("the stream ended without an error")

    def cancel(self) -> None:
        self.call.cancel()


def _data(request: ProtoMessage | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def _bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),) if key else ()


def header(session_id: str, attachment_id: str, content: bytes = CONTENT, **fields: Any) -> UploadAttachmentRequest:
    """The first message of an upload."""
    declared = UploadHeader(
        session_id=session_id,
        attachment_id=attachment_id,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).digest(),
    )
    for name, value in fields.items():
        setattr(declared, name, value)
    return UploadAttachmentRequest(header=declared)


def said(text: str, **fields: Any) -> Message:
    """A user's message."""
    return Message(role=Role.ROLE_USER, parts=[Part(text=text)], **fields)


@asynccontextmanager
async def serving(
    store: Store | None = None,
    *,
    writer: Writer | None = None,
    settings: WireSettings = SETTINGS,
    authenticator: Authenticator | None = None,
    ready: bool = True,
    limits: HubLimits | None = None,
    bus: Bus | None = None,
    work: WorkStore | None = None,
    attachments: AttachmentStore | None = None,
    documents: DocumentReads | None = None,
    searches: bool = True,
    summarises: bool = True,
    imports: ImportStore | None = None,
    blobs: BlobStore | None = None,
    uploads: UploadLimits | None = None,
    **changes: Any,
) -> AsyncIterator[Wire]:
    """A running server; `limits` are the hub's, `changes` are to its settings. Everything is closed behind it.

    Attachments, runs and tool calls are the store's own where it is a MemoryStore; else there are none unless given.
    """
    store = store or MemoryStore()
    work = work or (store if isinstance(store, MemoryStore) else MemoryStore())
    bus = bus or MemoryBus()
    authenticator = authenticator or Authenticator({digest_of(key): who for key, who in PRINCIPALS.items()})
    settings = replace(settings, grace=0.0, **changes) if "grace" not in changes else replace(settings, **changes)
    attachments = attachments or (store if isinstance(store, MemoryStore) else MemoryStore()).attachments
    blobs = blobs or MemoryBlobs()
    async with EventHub(store, bus, limits) as hub, Uploads(attachments, blobs, uploads) as receiving:
        forks = getattr(store, "forks", None) or MemoryStore().forks
        commits = BranchedCommits(AnnouncedCommits(store, Announcer(hub, bus)), forks)
        files = AttachmentAccess(attachments, receiving, Downloads(attachments, blobs))
        direct = writer or DirectWriter(commits)
        documents = documents or (store if isinstance(store, MemoryStore) else MemoryStore()).documents
        search = getattr(store, "search", None) if searches else None
        erasures = getattr(store, "erasures", None) or MemoryStore().erasures
        retention = getattr(store, "retention", None) or MemoryStore().retention
        summaries = getattr(store, "summary_queue", None) if summarises else None
        usage = getattr(store, "usage", None) or MemoryStore().usage
        templates = getattr(store, "templates", None) or MemoryStore().templates
        beside = (documents, forks, erasures, usage, retention, templates, search, summaries)
        reads = Reads(store, store, store, store, work, *beside)
        staged = imports or (store if isinstance(store, MemoryStore) else MemoryStore()).imports
        importing = Imports(staged, store, store, blobs, Announcer(hub, bus), Policy())
        database = Database("default", reads, direct, hub, bus, files, importing)
        server = RpcServer([database], authenticator, settings)
        port = await server.start()
        if ready:
            await server.open(await store.token_key())
        # Channels to one address share a connection otherwise, and so one test's GOAWAY would be another's.
        options = (("grpc.use_local_subchannel_pool", 1),)
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                yield Wire(server, port, channel, store, hub)
        finally:
            await server.stop()
