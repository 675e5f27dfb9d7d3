"""Whether traces are exported, by the standard environment variables of OpenTelemetry.

The SDK reads the others itself: endpoint, headers, certificates, sampler, queue, resource.
"""

from collections.abc import Mapping
from typing import Final

PROTOCOLS: Final = ("grpc", "http/protobuf")


def protocol_of(environ: Mapping[str, str]) -> str | None:
    """The protocol by which traces are exported; None: they are not. Raises ValueError.

    They are if OTEL_TRACES_EXPORTER is `otlp`, or if it is not set and an endpoint is; and never if OTEL_SDK_DISABLED
    is true.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter not in ("", "otlp", "none"):
        raise ValueError("OTEL_TRACES_EXPORTER: must be otlp or none")
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if exporter == "none" or (not exporter and not endpoint):
        return None
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environ.get(name, "").strip():
            if protocol not in PROTOCOLS:
                raise ValueError(f"{name}: must be {' or '.join(PROTOCOLS)}")
            return protocol
    return "grpc"
