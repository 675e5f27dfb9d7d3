"""Session tokens: bearers for one session, made from a key; sealed, and kept nowhere.

A token names the key that made it by its digest, so that it ends with the key. docs/http.md and decision 50 say what
it allows.
"""

import base64
import time
from collections.abc import Callable
from typing import Any, Final

from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import SessionToken
from sessiond_server.auth import LONGEST_TOKEN, TOKEN_PREFIX, Grant, Principal
from sessiond_server.domain.commands import SessionSnapshot
from sessiond_server.domain.sessions.incarnation import Incarnation, incarnation_of
from sessiond_server.domain.times import set_timestamp
from sessiond_server.rpc.seals import Seal, binding

_PURPOSE: Final = binding("session token")


class SessionTokens:
    """Makes and opens tokens. Replicas with the same key accept each other's."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns seconds since 1970."""
        self.key = b""
        """Secret; see Store.token_key of the default database. Until it is set, no token is valid."""
        self._clock = clock

    def make(
        self, principal: Principal, snapshot: SessionSnapshot, *, append: bool, database: str, ttl: float
    ) -> SessionToken:
        """A token for the session of the snapshot as it is now. `database`: the id of the one that the caller named.
        `ttl`: seconds."""
        assert self.key
        core = Session.FromString(snapshot.core)
        expires = self._clock() + ttl
        if principal.expires is not None:
            expires = min(expires, principal.expires)
        expires_ms, incarnation = int(expires * 1000), incarnation_of(core)
        value = [
            core.session_id,
            *incarnation,
            int(append),
            database,
            base64.b64encode(principal.owner + principal.key).decode(),
            expires_ms,
        ]
        made = SessionToken(token=TOKEN_PREFIX + Seal(self.key, _PURPOSE).seal(value))
        set_timestamp(made.expire_time, expires_ms * 1000)
        return made

    def open(self, token: str) -> Grant | None:
        """What the token grants, if it was made by this service; whether it still does, the Authenticator decides."""
        if not self.key:
            return None
        try:
            value: Any = Seal(self.key, _PURPOSE).open(token.removeprefix(TOKEN_PREFIX), LONGEST_TOKEN)
        except ValueError:
            return None
        session_id, base_version, create_time_us, append, database, maker, expires_ms = value
        maker = base64.b64decode(maker)
        return Grant(
            session_id,
            Incarnation(base_version, create_time_us),
            bool(append),
            database,
            maker[:16],
            maker[16:],
            expires_ms / 1000,
        )
