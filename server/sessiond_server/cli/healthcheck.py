"""`sessiond healthcheck`: the probe of containers. Exits with 0 when the server serves, else with 1."""

from sessiond_server.rpc import probe
from sessiond_server.settings import Address, Settings

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def run(settings: Settings, timeout: float) -> int:
    address = reachable(settings.listen)
    status = probe.health(address.host, address.port, timeout, settings.tls_cert_file)
    print(f"{address}: {status}")
    return 0 if status == "SERVING" else 1


def reachable(listen: Address) -> Address:
    """Where a server that listens there can be reached from this machine."""
    return Address(_EVERY_INTERFACE.get(listen.host, listen.host), listen.port)
