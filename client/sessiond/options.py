"""Options of clients and watches, as frozen values. This module does not import grpc."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TLS:
    """How to encrypt the connection. The defaults trust public authorities and show no certificate of the client."""

    root_certificates: bytes | None = None
    """PEM of the authorities to trust, and no others. None: Mozilla's list, as the grpcio package brings it. Variables
    of the environment change neither."""
    client_certificate: bytes | None = None
    """PEM of the certificate to show, with its chain; goes with `client_key`."""
    client_key: bytes | None = field(default=None, repr=False)
    """PEM of its private key."""
    server_name: str = ""
    """The name that the server's certificate must have; empty: that of the target."""

    def __post_init__(self) -> None:
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("client_certificate and client_key go together")


@dataclass(frozen=True, slots=True)
class Retry:
    """When a call is sent again: after UNAVAILABLE, or a CANCELLED that came from the server, and nothing else, within
    the call's deadline, with the same request id.

    The n-th pause is `initial_backoff * multiplier ** (n - 1)`, at most `max_backoff`, give or take a fifth; the
    service can ask for another. The defaults pause for about 4 s in all, enough for a database or a server
    to come back.
    """

    max_attempts: int = 5
    """The first one included; 1: no retries. 1 to 5 (grpc takes no more)."""
    initial_backoff: float = 0.1
    """Seconds; 0.01 or more: grpc loses a retry whose pause rounds to no milliseconds (grpc/grpc issue 41036)."""
    max_backoff: float = 3.0
    """Seconds; 0.01 or more."""
    multiplier: float = 3.0
    """1 or more."""
    tokens: int = 1000
    """Retries stop while more than half of these are used up, by all clients of the process that have the same target:
    each UNAVAILABLE takes one. A server that stops takes one for each call under way, so a few hundred of those should
    fit in. 1 to 1000."""
    token_ratio: float = 0.1
    """What each success gives back. Above 0; thousandths count."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 5:
            raise ValueError("max_attempts: must be 1 to 5")
        if min(self.initial_backoff, self.max_backoff) < 0.01:
            raise ValueError("initial_backoff and max_backoff: must be 0.01 s or more")
        if self.multiplier < 1:
            raise ValueError("multiplier: must be 1 or more")
        if self.token_ratio < 0.001:
            raise ValueError("token_ratio: must be 0.001 or more")
        if not 1 <= self.tokens <= 1000:
            raise ValueError("tokens: must be 1 to 1000")


@dataclass(frozen=True, slots=True)
class Keepalive:
    """How a dead connection is found out. The service allows a ping every 10 s or more."""

    interval: float = 30.0
    """Seconds between pings, also while no call is under way."""
    timeout: float = 10.0
    """Seconds without an answer after which the connection counts as dead."""

    def __post_init__(self) -> None:
        if self.interval < 10 or self.timeout <= 0:
            raise ValueError("interval: must be 10 s or more; timeout: above 0")


@dataclass(frozen=True, slots=True)
class Reconnect:
    """When a watch that lost its stream opens the next one, and how it finds out that it lost it.

    The n-th pause in a row is `initial_backoff * 2 ** (n - 1)`, at most `max_backoff`, and of that any part between
    half and all; the service can ask for a longer one. A frame with something new ends the row, and so does a stream
    that lasted a second after it had begun.
    """

    initial_backoff: float = 0.1
    """Seconds; above 0."""
    max_backoff: float = 2.0
    """Seconds; above 0."""
    idle_timeout: float = 30.0
    """Seconds without any frame after which the stream counts as dead, also while it connects; above 0. The service
    sends one every 10 s at least, unless configured otherwise."""
    give_up_after: float | None = None
    """Seconds without a stream after which the last error is raised; None: never. Above 0. A stream that began where
    the watch was begins a new count."""
    bookmark_interval: float | None = None
    """Seconds of silence after which the service is asked to send a frame; None: as the service is configured. 1 or
    more; services that are configured to send one more often do so. For proxies that cut idle streams."""

    def __post_init__(self) -> None:
        if min(self.initial_backoff, self.max_backoff, self.idle_timeout) <= 0:
            raise ValueError("initial_backoff, max_backoff and idle_timeout: must be above 0")
        if self.give_up_after is not None and self.give_up_after <= 0:
            raise ValueError("give_up_after: must be above 0")
        if self.bookmark_interval is not None and self.bookmark_interval < 1:
            raise ValueError("bookmark_interval: must be 1 s or more")
