"""`sessiond healthcheck`: a probe for containers. Exits with 0 if the server reports SERVING, else with 1."""

from sessiond_server.rpc import probe
from sessiond_server.settings import Address, Settings

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def run(settings: Settings, timeout: float) -> int:
    address = reachable(settings.listen)
    tls = settings.tls_cert_file is not None
    status = probe.health(address.host, address.port, timeout, tls=tls, identity=identity(settings))
    print(f"{address}: {status}")
    return 0 if status == "SERVING" else 1


def identity(settings: Settings) -> probe.Identity | None:
    """The client certificate for a server that requires one; None if it requires none or the files cannot be read."""
    if settings.tls_client_ca_file is None or settings.tls_key_file is None or settings.tls_cert_file is None:
        return None
    try:
        return settings.tls_key_file.read_bytes(), settings.tls_cert_file.read_bytes()
    except OSError:
        return None


def reachable(listen: Address) -> Address:
    """The address at which this machine can reach a server that listens on `listen`."""
    return Address(_EVERY_INTERFACE.get(listen.host, listen.host), listen.port)
