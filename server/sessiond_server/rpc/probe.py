"""Asks a running server for its health, as container and cluster probes do."""

import socket
import ssl
from pathlib import Path
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def health(host: str, port: int, timeout: float, certificate: Path | None = None) -> str:
    """ "SERVING", "NOT_SERVING" and so on; or "UNREACHABLE" when nothing answers within `timeout` seconds.

    `certificate` is the PEM file that the server presents: it is what is trusted, whatever name it was issued for.
    Raises OSError when the file cannot be read.
    """
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if certificate is None:
        channel = grpc.insecure_channel(target, options)
    else:
        name = _name_in_certificate(host, port, timeout, certificate)
        if name is None:
            return "UNREACHABLE"
        options.append(("grpc.ssl_target_name_override", name))
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(certificate.read_bytes()), options)
    with channel:
        try:
            # The stub's types name its methods for asyncio channels only.
            check = cast(Any, health_pb2_grpc.HealthStub(channel)).Check
            answer: health_pb2.HealthCheckResponse = check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return "UNREACHABLE"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _name_in_certificate(host: str, port: int, timeout: float, certificate: Path) -> str | None:
    """A name that the server's certificate was issued for; None when it presents another one, or none at all."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the server's own certificate is trust enough
    try:
        with socket.create_connection((host, port), timeout) as plain, context.wrap_socket(plain) as secured:
            presented: Any = secured.getpeercert() or {}
    except OSError:
        return None
    names = [value for kind, value in presented.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    return str(names[0]) if names else None
