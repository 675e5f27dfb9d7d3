"""The bounds of the server, and the options of grpc that keep them."""

from dataclasses import dataclass
from typing import Final

from sessiond_server.rpc.interceptors.reading import PATIENCE
from sessiond_server.rpc.pipe.limits import PipeLimits
from sessiond_server.rpc.tls import Certificates
from sessiond_server.spans import Tracer

CONNECTION_GRACE: Final = 60.0
"""Seconds that an old connection lives longer than its streams, for its unary calls."""

PENDING: Final = 2 * 1024
MOST_PENDING: Final = PENDING + 256
"""Calls, of all connections, that wait for the event loop to accept them: from PENDING on, grpc's C core refuses a
growing part of new calls, from MOST_PENDING on all. As many as one connection carries. A longer queue would
hold calls whose callers give up before their turn: these are two seconds of writes, and seconds of work even if their
callers have left, because accepting a call costs the loop almost as much as serving an empty one."""

LOOKAHEAD: Final = 16 * 1024
"""Bytes that a stream may send before it is read. This bounds the memory that callers without a key can use."""

HANDSHAKE: Final = 10.0
"""Longest time, in seconds, until a new connection speaks HTTP/2."""

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WireSettings:
    """Settings of the server's network side. Times are in seconds."""

    listen: str = "127.0.0.1:50051"
    """host:port; port 0 takes a free one."""
    certificates: Certificates | None = None
    """None: no TLS."""
    loopback: str = ""
    """A second address, without TLS, that only this process' account can reach, for `Loopback`; empty: none."""
    longest_deadline: float = 30.0
    """Deadline of calls that have none or a later one."""
    most_calls: int = 1024
    """Most calls served at a time, without streams; more calls wait, before their requests are read."""
    enough_calls: int = 512
    """Unary calls in progress at which no more are accepted, while there is one tenant (see `Intake`): several batches
    of writes, a tenth of a second of reads."""
    most_begun: int = 64
    """Unary calls that are worked on at a time while there are several tenants (see `Beginning`)."""
    most_waiting: int = 16 * 1024
    """Most calls that wait for a place; more are refused with TooManyCalls."""
    most_searches: int = 5
    """Most calls, of `most_calls`, that may need long queries. Must be below the number of database connections."""
    most_reading: int = 32
    """Most requests that are received at a time; each may hold `transport_limit` bytes meanwhile."""
    reading_patience: float = PATIENCE
    """How long a request may take to arrive while others wait."""
    most_slicing: int = 1
    """Most requests of many elements that are parsed at a time. Each takes up to a third of the loop's time."""
    most_request_bytes: int = 64 * MIB
    """Most bytes of requests in progress that are larger than 4 KiB. Equal to the limit of the write queue, so that one
    tenant's share of them leaves room in that queue."""
    most_unsent_bytes: int = 256 * MIB
    """Most bytes of large answers and frames that clients have not received yet."""
    most_connections: int = 4096
    """Most connections; more are closed at once."""
    connection_idle: float = 600.0
    """Seconds without a call after which a connection is closed in order: any client can open one."""
    most_streams: int = 2048
    """Most calls in progress on one connection, including streams; more wait in the client."""
    ended_retention_us: int = 0
    """For how long tenants without a policy keep ended sessions, in microseconds; 0: for good."""
    log_successes: bool = True
    """Whether the access log also has successful calls."""
    tracer: Tracer | None = None
    """Makes a span of each call; None: calls have none."""
    call_metrics: bool = False
    """Whether calls are counted, for `RpcServer.call_metrics`."""
    reflection: bool = False
    so_reuseport: bool = False
    """Whether several processes may listen on the same port."""
    drain_pause: float = 0.0
    """Time between NOT_SERVING and refusing calls, in which load balancers switch to other servers."""
    grace: float = 10.0
    """How long calls in progress may take to finish when the server stops."""
    flush: float = 2.0
    """How long answers may take to be sent once no call is in progress. Without this limit, a peer that does not
    receive, or a call that grpc has lost (decision 14), would take all of `grace`."""
    largest_request: int = 4 * MIB
    """Largest request in bytes; a larger one is RequestTooLarge, and one above `transport_limit` is not even read."""
    largest_message: int = MIB
    """Largest message of a session, in bytes; 3 MiB at most, so that requests, events and pages stay below 4 MiB."""
    transport_limit: int = 8 * MIB
    metadata_limit: int = 8 * 1024
    """Most bytes of a call's metadata."""
    keepalive_time: float = 30.0
    keepalive_timeout: float = 10.0
    max_connection_age: float = 1800.0
    """Age at which connections are closed in order, so that load spreads to servers that were added later. A connection
    with open streams stays until the last of them has reached `watch_age`, and no longer."""
    watch_age: float = 1800.0
    """Greatest age of a stream; up to a tenth less, so that streams which began together do not end together."""
    watch_write_timeout: float = 10.0
    """How long a watcher may block a frame, and any peer the answer of a failed call."""
    most_transfers: int = 64
    """Most uploads and downloads in progress; more are refused with TooManyTransfers."""
    transfer_idle: float = 30.0
    """How long a transfer may wait for its client to send or receive."""
    upload_retention: float = 86400.0
    """How long the store keeps an upload without activity."""
    pipes: PipeLimits = PipeLimits()  # noqa: RUF009 - frozen
    bookmark_interval: float = 10.0
    """Longest silence of a stream whose filter excludes all new events. The hub sends those of idle streams."""

    def options(self) -> list[tuple[str, int]]:
        """gRPC's channel arguments."""
        return [
            ("grpc.so_reuseport", int(self.so_reuseport)),
            ("grpc.max_receive_message_length", self.transport_limit),
            # Data is limited when it is written; a response that has grown past a limit must still be readable.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", self.most_streams),
            ("grpc.http2.lookahead_bytes", LOOKAHEAD),
            ("grpc.max_allowed_incoming_connections", self.most_connections),
            ("grpc.max_connection_idle_ms", round(self.connection_idle * 1000)),
            ("grpc.server_handshake_timeout_ms", round(HANDSHAKE * 1000)),
            # It resets calls that the client was allowed to send while earlier ones are being cleaned up. Clients in
            # C++ and Python report these as UNAVAILABLE: half of all calls of a channel with 256 callers.
            ("grpc.http.overload_protection", 0),
            # Beyond these limits, calls that are not accepted yet are dropped, which clients see as CANCELLED.
            ("grpc.server.max_pending_requests", PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING),
            # With the probe, each connection buffers its bandwidth-delay product, read or not: 20 uploads took 500 MiB,
            # without it they take 50. A message that is being read still arrives at full speed.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.max_metadata_size", self.metadata_limit),
            ("grpc.absolute_max_metadata_size", 2 * self.metadata_limit),
            ("grpc.keepalive_time_ms", round(self.keepalive_time * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout * 1000)),
            # This closes a connection whose peer does not answer; the keepalive timeout does not (grpc 1.85).
            ("grpc.http2.ping_timeout_ms", round(self.keepalive_timeout * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            # Allows clients to ping as often as this server does.
            ("grpc.http2.min_ping_interval_without_data_ms", round(self.keepalive_timeout * 1000)),
            ("grpc.max_connection_age_ms", round(self.max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", round((self.watch_age + CONNECTION_GRACE) * 1000)),
        ]
