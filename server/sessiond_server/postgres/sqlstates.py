"""Classifies Postgres' errors: which of them a retry, now or later, can resolve.

The table is keyed by SQLSTATE; the longest matching prefix counts. An error without a row is a defect or a wrong
installation, and callers get INTERNAL. docs/reliability.md has the table for operators.
"""

from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

import asyncpg


class Meaning(Enum):
    AWAY = auto()
    """The database cannot be used now. The outcome of a commit is unknown, so the same batch is applied again."""
    TOO_MUCH = auto()
    """The statement failed for lack of resources, and nothing was written. A smaller batch may succeed."""
    RACED = auto()
    """The transaction lost a race against another one. It is run again at once."""
    LOCKED = auto()
    """Another transaction holds a lock that this one needs. Nothing was written."""


TABLE: Final[Mapping[str, Meaning]] = MappingProxyType(
    {
        "08": Meaning.AWAY,  # connection exceptions
        "25006": Meaning.AWAY,  # read-only: the server has become a standby, or was made so by its operator
        "25P03": Meaning.AWAY,  # idle in a transaction for too long: this process was paused
        "25P04": Meaning.AWAY,  # transaction_timeout
        "28": Meaning.AWAY,  # authentication or authorisation failed
        "3D000": Meaning.AWAY,  # no such database
        "40": Meaning.RACED,  # serialization failure, deadlock and their like
        "40003": Meaning.AWAY,  # statement completion unknown
        "53": Meaning.TOO_MUCH,  # out of memory, temp_file_limit and their like
        "53100": Meaning.AWAY,  # disk full
        "53300": Meaning.AWAY,  # too many connections
        "55000": Meaning.AWAY,  # not in the right state: the database takes no connections
        "55006": Meaning.LOCKED,  # object in use
        "55P03": Meaning.LOCKED,  # lock_timeout
        "57014": Meaning.TOO_MUCH,  # statement_timeout, or cancelled by an operator
        "57P01": Meaning.AWAY,  # administrator shut it down, or ended this connection
        "57P02": Meaning.AWAY,  # crash of another server process
        "57P03": Meaning.AWAY,  # starting or recovering
        "57P04": Meaning.AWAY,  # the database was dropped
        "57P05": Meaning.AWAY,  # idle_session_timeout
        "58000": Meaning.AWAY,  # system error
        "58030": Meaning.AWAY,  # I/O error
    }
)


LASTING: Final = ("0L", "0P", "28", "3D000", "42501")
"""Refusals of a connection that no wait mends: the role, its password, its right to connect, the database."""


def lasts(error: BaseException) -> bool:
    """Whether the error, met in connecting, stays until an operator changes something. A service that runs already
    goes on asking: what is restored or renamed in its place comes back."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(LASTING)


def meaning(error: BaseException) -> Meaning | None:
    """The meaning of the error; None if no retry can resolve it."""
    if isinstance(error, (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)):
        # A migration changed a table under a cached statement; asyncpg has dropped it from its cache.
        return Meaning.RACED
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        return next((TABLE[sqlstate[:size]] for size in (5, 2) if sqlstate[:size] in TABLE), None)
    if isinstance(error, asyncpg.InternalClientError):
        # No server of the DSN is the primary; or the server sent its last error while the connection was idle, so that
        # the driver cannot use the connection but has not seen it close yet.
        return Meaning.AWAY
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg has no separate class for the use of a connection or pool that was closed meanwhile, by the server or
        # by us. Its pool has then taken the connection back.
        return Meaning.AWAY if any(word in str(error) for word in ("clos", "released back to the pool")) else None
    return Meaning.AWAY if isinstance(error, OSError) else None


def cause(error: BaseException) -> str:
    """The name of the error in logs and metrics: its SQLSTATE, or its class if it has none.

    For a closed connection it is the SQLSTATE of the server's last error.
    """
    if isinstance(error, asyncpg.ConnectionDoesNotExistError) and isinstance(error.__cause__, asyncpg.PostgresError):
        error = error.__cause__
    sqlstate = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
    return sqlstate or type(error).__name__
