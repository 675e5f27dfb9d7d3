"""Which web pages may call (CORS), and by which names of this host."""

import ipaddress
from collections.abc import Mapping
from typing import Final

from sessiond_server.http.problems import Problem

ANY: Final = "*"
_ALLOWED: Final = ", ".join(
    (
        *("authorization", "content-type", "db-id", "idempotency-key", "if-match", "if-none-match", "last-event-id"),
        *("x-request-id", "x-timeout-ms", "content-range", "range", "if-range", "repr-digest"),
    )
)
_EXPOSED: Final = ", ".join(
    (
        *("etag", "location", "retry-after", "x-request-id"),
        *("accept-ranges", "content-disposition", "content-range", "range", "repr-digest"),
    )
)
_MAX_AGE: Final = "600"


class Origins:
    """The origins whose pages may call; those of the door itself always may."""

    def __init__(self, allowed: frozenset[str], *, local: bool) -> None:
        """`allowed`: such as `https://app.example`, or ANY. `local`: there are no keys, and only this machine can
        connect; a page that lets its own name point to this machine must not get in."""
        self._allowed = allowed
        self._local = local

    def check(self, scheme: str, headers: Mapping[str, str]) -> None:
        """Raises Problem for a call by a foreign page, or by a foreign name of this host."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._local and host and not _is_this_machine(host):
            raise Problem(421, "HOST_REFUSED", "without keys, the host must be localhost or an address of loopback")
        if origin is not None and not self._lets(origin) and origin != f"{scheme}://{host}":
            raise Problem(403, "ORIGIN_REFUSED", "pages of this origin may not call; see --http-cors-origins")

    def headers(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """What tells a browser that the page may read the answer."""
        origin = headers.get("origin")
        if not self._allowed:
            return []
        if origin is None or not self._lets(origin):
            return [("vary", "origin")]
        allowed = ANY if ANY in self._allowed else origin
        return [
            ("vary", "origin"),
            ("access-control-allow-origin", allowed),
            ("access-control-expose-headers", _EXPOSED),
        ]

    def preflight(self, headers: Mapping[str, str], methods: set[str]) -> list[tuple[str, str]]:
        """The headers of the answer to a browser that asks before it calls."""
        return [
            *self.headers(headers),
            ("access-control-allow-methods", ", ".join(sorted(methods))),
            ("access-control-allow-headers", _ALLOWED),
            ("access-control-max-age", _MAX_AGE),
        ]

    def _lets(self, origin: str) -> bool:
        return ANY in self._allowed or origin in self._allowed


def _is_this_machine(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
