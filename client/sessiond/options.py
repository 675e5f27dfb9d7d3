"""Options of clients and watches, as frozen values. This module does not import grpc."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TLS:
    """How to encrypt the connection. The defaults trust public authorities and show no certificate of the client."""

    root_certificates: bytes | None = None
    """PEM of the only authorities to trust. None: Mozilla's list in the grpcio package. Environment variables change
    neither."""
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
    """When a call is retried: only after UNAVAILABLE, or a CANCELLED that came from the server, within the call's
    deadline and with the same request id.

    The n-th backoff is `initial_backoff * multiplier ** (n - 1)`, at most `max_backoff`, plus or minus a fifth; the
    service can ask for another one. The default backoffs add up to about 4 s, enough for a database or a server to come
    back. A call whose last attempt found no server connected, or one that starts or stops, waits up to 1.5 s for a
    connection, and gets its attempts once more.
    """

    max_attempts: int = 5
    """Attempts including the first one; 1 disables retries. 1 to 5 (the maximum of grpc)."""
    initial_backoff: float = 0.1
    """Seconds; 0.01 or more: grpc loses a retry whose backoff rounds to zero milliseconds (grpc/grpc issue 41036)."""
    max_backoff: float = 3.0
    """Seconds; 0.01 or more."""
    multiplier: float = 3.0
    """1 or more."""
    tokens: int = 1000
    """The tokens of the retry throttle, which all clients of the process with the same target share. Each UNAVAILABLE
    takes one, and retries stop while more than half of the tokens are used. A server that stops takes one for each call
    in flight, so there should be enough for a few hundred calls. 1 to 1000."""
    token_ratio: float = 0.1
    """The tokens that each success gives back. Above 0, in thousandths."""

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
    """How a dead connection is detected. The service allows one ping every 10 s or less often."""

    interval: float = 30.0
    """Seconds between pings, also while no call is in flight."""
    timeout: float = 10.0
    """Seconds without an answer after which the connection counts as dead."""

    def __post_init__(self) -> None:
        if self.interval < 10 or self.timeout <= 0:
            raise ValueError("interval: must be 10 s or more; timeout: above 0")


@dataclass(frozen=True, slots=True)
class Reconnect:
    """When a watch that lost its stream opens the next one, and how it detects the loss.

    The n-th backoff in a row is a random part, between half and all, of `initial_backoff * 2 ** (n - 1)`, at most
    `max_backoff`; the service can ask for a longer one. A frame with something new ends the row, and so does a stream
    that lasted a second after its first frame.
    """

    initial_backoff: float = 0.1
    """Seconds; above 0."""
    max_backoff: float = 2.0
    """Seconds; above 0."""
    idle_timeout: float = 30.0
    """Seconds without a frame after which the stream counts as dead, also while it connects; above 0. The service sends
    a frame at least every 10 s, unless configured otherwise."""
    give_up_after: float | None = None
    """Seconds without a stream after which the last error is raised; None: never. Above 0. A stream that began at the
    watch's position starts a new count."""
    bookmark_interval: float | None = None
    """Seconds of silence after which the service is asked to send a frame; None: the service's own interval. 1 or more.
    A service with a shorter interval uses its own. For proxies that cut idle streams."""

    def __post_init__(self) -> None:
        if min(self.initial_backoff, self.max_backoff, self.idle_timeout) <= 0:
            raise ValueError("initial_backoff, max_backoff and idle_timeout: must be above 0")
        if self.give_up_after is not None and self.give_up_after <= 0:
            raise ValueError("give_up_after: must be above 0")
        if self.bookmark_interval is not None and self.bookmark_interval < 1:
            raise ValueError("bookmark_interval: must be 1 s or more")
