"""The session token that a browser's EventSource gives in the address, since it can send no headers.

Keys are refused there: addresses get into the logs of proxies and into histories, and a key is valid for long.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from sessiond_server.auth import TOKEN_PREFIX
from sessiond_server.http.problems import invalid

NAME: Final = "access_token"
TAKEN_BY: Final = "WatchSession"
"""The only RPC whose address may have one."""


def taken(query: bytes, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
    """The query without the token, and the headers with it as `authorization`. Raises Problem, without the token."""
    pieces = query.split(b"&")
    found = [piece for piece in pieces if piece.partition(b"=")[0] == NAME.encode()]
    if not found:
        return query, headers
    if len(found) > 1 or "authorization" in headers:
        raise invalid(NAME, "may be given once, and not beside the header authorization")
    token = unquote(found[0].partition(b"=")[2].decode("latin-1"))
    if not token.startswith(TOKEN_PREFIX):
        raise invalid(NAME, "must be a session token; a key belongs into the header authorization")
    return b"&".join(piece for piece in pieces if piece is not found[0]), {
        **headers,
        "authorization": f"Bearer {token}",
    }
