"""Ports of loopback for the servers that tests start again and again on one address."""

import socket
from contextlib import suppress
from random import SystemRandom

# Below the ports that systems hand out by themselves: no connection and no other server gets one of these by chance.
_PORTS = range(20_000, 32_000)
_held: list[int] = []


def free_port(*, beside: int = 0) -> int:
    """A port that no other process of any run of these tests gets while this process lives. With `beside`, the port
    that is so much higher is kept as well."""
    while True:
        port = SystemRandom().choice(_PORTS[: len(_PORTS) - beside])
        if all(_hold(each) for each in {port, port + beside}):
            return port


def _hold(port: int) -> bool:
    """Whether it is ours now: as a UDP port of the same number, which leaves the TCP port to the server."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier server do not matter
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            with socket.socket(type=socket.SOCK_DGRAM) as reservation:
                reservation.bind(("127.0.0.1", port))
                _held.append(reservation.detach())
                return True
    return False
