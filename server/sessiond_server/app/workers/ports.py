"""The ports that workers share: each is taken by the supervisor, so that no other service gets it between workers.

On the port of gRPC every worker listens by itself (SO_REUSEPORT), since grpc takes no socket that listens already; the
kernel gives each new connection to one of them. The port of HTTP has one listening socket, which workers inherit.
"""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from sessiond_server.app.errors import CannotListen
from sessiond_server.settings import Address

PATIENCE: Final = 3.0
"""Seconds for which a taken port is tried again: workers of a supervisor that was killed close theirs in that time."""
_PAUSE: Final = 0.1
_BACKLOG: Final = 1024


@contextmanager
def reserved(address: Address, flag: str) -> Iterator[Address]:
    """Keeps the port for this process and its workers, who may listen on it with SO_REUSEPORT; yields the address,
    with the port that was free for port 0. Blocks up to PATIENCE seconds. Raises CannotListen."""
    with ExitStack() as stack:
        port, held = address.port, 0
        for family, host in _hosts(address, flag):
            with suppress(OSError):
                kept = _patiently(family, host, port)
                stack.callback(kept.close)
                port, held = kept.getsockname()[1], held + 1
        # As grpc, which serves a name like `localhost` at those of its addresses that can be had.
        if not held:
            raise CannotListen(address, flag)
        yield Address(address.host, port)


@contextmanager
def listening(address: Address, flag: str) -> Iterator[socket.socket]:
    """A listening socket for workers to inherit. Raises CannotListen."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CannotListen(address, flag) from error
    with listener:
        yield listener


def _hosts(address: Address, flag: str) -> list[tuple[socket.AddressFamily, str]]:
    if address.host in ("0.0.0.0", "::"):
        # grpc takes both families for either.
        return [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CannotListen(address, flag) from error
    return [(family, str(host)) for family, _, _, _, (host, *_) in found]


def _patiently(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return _taken(family, host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() + _PAUSE > until:
                raise
        time.sleep(_PAUSE)


def _taken(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """A socket that keeps the port, without listening on it. Raises OSError if another process has the port."""
    with socket.socket(family) as claim, ExitStack() as stack:
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier server do not matter
        _separate(claim)
        claim.bind((host, port))
        # Only listening excludes others: two services that start at the same time could both bind.
        claim.listen(1)
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept = stack.enter_context(socket.socket(family))
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            kept.setsockopt(socket.SOL_SOCKET, option, 1)
        _separate(kept)
        kept.bind((host, claim.getsockname()[1]))
        # With it, others could bind the port that no worker listens on.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        stack.pop_all()
        return kept


def _separate(made: socket.socket) -> None:
    """Each family has its socket."""
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
