"""Opens channels to the service."""

import json
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import grpc.aio

from sessiond.options import TLS, Keepalive, Retry
from sessiond.target import is_local

SERVICES = tuple(
    f"sessiond.v1.{service}Service"
    for service in (
        "Session",
        "Message",
        "Event",
        "Run",
        "ToolCall",
        "Attachment",
        "Document",
        "Context",
        "Search",
        "Usage",
        "Template",
        "Export",
        "Retention",
    )
)
"""The services whose unary calls grpc retries. Tail, Upload, Download, exports and imports retry their
streams themselves."""

RETRIED = ("UNAVAILABLE", "CANCELLED")
"""CANCELLED is among them because a call that reaches a server while it stops, or is in flight when the server's grace
ends, ends with a reset of its HTTP/2 stream, which grpc reports as CANCELLED. A call that its own caller cancels is not
retried."""

NO_PROXY: Sequence[tuple[str, str | int]] = (
    # http_proxy, https_proxy and grpc_proxy.
    ("grpc.enable_http_proxy", 0),
    # GRPC_ADDRESS_HTTP_PROXY, which the option above leaves on: some address, since grpc prints an error about an empty
    # one for each channel, and no address that would go through it.
    ("grpc.address_http_proxy", "127.0.0.1:1"),
    ("grpc.address_http_proxy_enabled_addresses", ""),
)
"""Options that make grpc ignore every proxy that the environment names."""


def open_channel(target: str, tls: TLS | None, options: list[tuple[str, str | int]]) -> grpc.aio.Channel:
    """Returns a channel that connects when it is first used. Raises ValueError if neither `tls` nor the grpcio package
    has authorities."""
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    # Without roots grpc would trust the file that GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
    roots = _bundled_authorities() if tls.root_certificates is None else tls.root_certificates
    credentials = grpc.ssl_channel_credentials(roots, tls.client_key, tls.client_certificate)
    return grpc.aio.secure_channel(target, credentials, options)


@cache
def _bundled_authorities() -> bytes:
    """Returns the PEM of the authorities in the grpcio package: Mozilla's list."""
    try:
        roots = pkgutil.get_data("grpc._cython", "_credentials/roots.pem")
    except OSError:
        roots = None
    if not roots:
        raise ValueError("root_certificates: must be given, because this build of grpcio brings no authorities")
    return roots


def channel_options(
    target: str, tls: TLS | None, retry: Retry, keepalive: Keepalive, max_message_bytes: int, user_agent: str
) -> list[tuple[str, str | int]]:
    """The options of the channel for unary calls."""
    options: list[tuple[str, str | int]] = [
        ("grpc.primary_user_agent", f"{user_agent} sessiond-python/{_version()}".lstrip()),
        ("grpc.service_config", json.dumps(_service_config(retry))),
        # grpc does not retry a request that is larger than this buffer, which has 256 KiB by default.
        ("grpc.per_rpc_retry_buffer_size", 2 * max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", round(keepalive.interval * 1000)),
        ("grpc.keepalive_timeout_ms", round(keepalive.timeout * 1000)),
        # grpc uses this value, not the one above; without it a dead connection lives a minute longer
        # (docs/decisions/0014).
        ("grpc.http2.ping_timeout_ms", round(keepalive.timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # By default grpc waits up to two minutes before it connects again to a service that was away. Where servers
        # restart in turn, clients must be back at the first server before the second one stops.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
        # The client shares no connections. Shared connections share their backoff: a new client would fail at once
        # while another client of the process waits for its next attempt, although the service is up.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    # A proxy sees all that TLS does not protect, and traffic to this machine has no reason to leave it.
    if tls is None or is_local(target):
        options += NO_PROXY
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def stream_options(options: list[tuple[str, str | int]]) -> list[tuple[str, str | int]]:
    """The same options for a channel of streams. grpc must not retry streams: it does not know their positions."""
    config = json.dumps(_service_config(Retry(max_attempts=1)))
    return [(name, config if name == "grpc.service_config" else value) for name, value in options]


def _service_config(retry: Retry) -> dict[str, object]:
    # Where the target has several addresses, each call goes to the next address that is connected.
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retry.max_attempts > 1:
        policy = {
            "maxAttempts": retry.max_attempts,
            "initialBackoff": f"{retry.initial_backoff:.3f}s",
            "maxBackoff": f"{retry.max_backoff:.3f}s",
            "backoffMultiplier": retry.multiplier,
            "retryableStatusCodes": RETRIED,
        }
        config["methodConfig"] = [{"name": [{"service": service} for service in SERVICES], "retryPolicy": policy}]
        config["retryThrottling"] = {"maxTokens": retry.tokens, "tokenRatio": retry.token_ratio}
    return config


def _version() -> str:
    try:
        return version("sessiond")
    except PackageNotFoundError:  # run from its source, or shipped inside another program
        return "unknown"
