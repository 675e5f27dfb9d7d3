"""How a channel to the service is made."""

import json
import pkgutil
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import grpc.aio

from sessiond.options import TLS, Keepalive, Retry
from sessiond.target import is_local

SERVICES = tuple(
    f"sessiond.v1.{service}Service" for service in ("Session", "Message", "Event", "Run", "ToolCall", "Attachment")
)
"""Whose calls are sent again. Of their calls those that stream see to themselves (see Tail, Upload and Download)."""

RETRIED = ("UNAVAILABLE", "CANCELLED")
"""CANCELLED besides: what reaches a server while it stops, or is under way when its grace is over, ends in a reset of
the HTTP/2 stream, which grpc shows as that. A call that its own caller cancels is not sent again."""

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
    """A channel that connects when it is first used. Raises ValueError where `tls` names no authorities and grpc brings
    none."""
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    # Without roots grpc would trust the file that GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
    roots = _bundled_authorities() if tls.root_certificates is None else tls.root_certificates
    credentials = grpc.ssl_channel_credentials(roots, tls.client_key, tls.client_certificate)
    return grpc.aio.secure_channel(target, credentials, options)


@cache
def _bundled_authorities() -> bytes:
    """PEM of the authorities that the grpcio package brings: Mozilla's list."""
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
        # A request larger than the buffer (256 KiB by default) would go out once and never again.
        ("grpc.per_rpc_retry_buffer_size", 2 * max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", round(keepalive.interval * 1000)),
        ("grpc.keepalive_timeout_ms", round(keepalive.timeout * 1000)),
        # This is what grpc goes by; without it a dead connection lives for a minute longer (docs/decisions/0014).
        ("grpc.http2.ping_timeout_ms", round(keepalive.timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # grpc would let a service that was away for a while wait up to two minutes for its clients. And where servers
        # restart in turn, the first must have its clients back before the second stops.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Connections of its own. Those shared by a process would hand on how they fared: a client made after the
        # service came up would fail at once where another one is between two tries.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    # A proxy sees all that TLS does not protect, and traffic to this machine has no reason to leave it.
    if tls is None or is_local(target):
        options += NO_PROXY
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def stream_options(options: list[tuple[str, str | int]]) -> list[tuple[str, str | int]]:
    """From `channel_options`, for a channel of streams: never sent again by grpc, which knows no positions."""
    config = json.dumps(_service_config(Retry(max_attempts=1)))
    return [(name, config if name == "grpc.service_config" else value) for name, value in options]


def _service_config(retry: Retry) -> dict[str, object]:
    # With several addresses behind the target: every call to the next one that is connected.
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
