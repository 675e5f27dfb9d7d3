"""Asks a running server for its health, as container and cluster probes do."""

import socket
import ssl
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Identity = tuple[bytes, bytes]
"""(private key, certificate chain), both PEM."""


def health(host: str, port: int, timeout: float, *, tls: bool = False, identity: Identity | None = None) -> str:
    """ "SERVING", "NOT_SERVING" and so on; or "UNREACHABLE" if nothing answers within `timeout` seconds.

    With `tls`, any certificate that the server presents is trusted, for the name to which it was issued: the probe only
    reads the health, sends no secret, and must not depend on the certificates on the disk. `identity` is presented to
    servers that require a client certificate.
    """
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if not tls:
        channel = grpc.insecure_channel(target, options)
    else:
        presented = _presented(host, port, timeout)
        if presented is None:
            return "UNREACHABLE"
        certificate, name = presented
        options.append(("grpc.ssl_target_name_override", name))
        key, chain = identity or (None, None)
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(certificate, key, chain), options)
    with channel:
        try:
            # The stub's types name its methods for asyncio channels only.
            check = cast(Any, health_pb2_grpc.HealthStub(channel)).Check
            answer: health_pb2.HealthCheckResponse = check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return "UNREACHABLE"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _presented(host: str, port: int, timeout: float) -> tuple[bytes, str] | None:
    """(the server's certificate as PEM, a name to which it was issued); None if it presents no valid certificate."""
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout) as plain, anything.wrap_socket(plain) as secured:
            pem = ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"")
        # The ssl module decodes only verified certificates, so a second connection verifies it against itself.
        context = ssl.create_default_context(cadata=pem)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # accepts the server's own certificate as a trust anchor
        with socket.create_connection((host, port), timeout) as plain, context.wrap_socket(plain) as secured:
            presented: Any = secured.getpeercert() or {}
    except OSError:
        return None
    names = [value for kind, value in presented.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    return (pem.encode(), str(names[0])) if names else None
