"""What a store is: the abilities that it has, each with a contract of its own. Every implementation passes
tests/conformance.

    Commits         commits.py         decides, commits; ends what is due
    SessionReads    session_reads.py   reads that a cache may answer
    SessionQueries  session_reads.py   reads of the truth
    LogReads        log_reads.py       logs and feeds
    Upkeep          upkeep.py          retention, the key of tokens, a sign of life
    WorkStore       work.py            runs and tool calls
    AttachmentStore attachments.py     attachments and uploads

Who needs one ability asks for that one. Decorators (announcing.py, cached/) wrap commits and session reads, and know
nothing of the others.

Reads and writes take a Scope; what lies outside it does not exist (G11). Identifiers, limits, filters come valid.
Times are microseconds since 1970-01-01 UTC, by the store's own clock: the database's for Postgres, an injected one for
the memory store. Bytes that come back are serialised `sessiond.v1` messages and belong to the caller.

Any method raises `StoreUnavailable` when the database cannot be reached. Cancelling a read abandons it. Cancelling
`apply` before its commit was sent undoes everything; after that the commit goes on without the caller.
"""

from typing import Protocol

from sessiond_server.store.commits import Commits
from sessiond_server.store.log_reads import LogReads
from sessiond_server.store.session_reads import SessionQueries, SessionReads
from sessiond_server.store.upkeep import Upkeep


class Store(Commits, SessionReads, SessionQueries, LogReads, Upkeep, Protocol):
    """The log of every session, and what is projected from it: what a database does."""
