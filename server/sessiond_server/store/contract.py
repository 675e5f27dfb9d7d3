"""The contract of a store, divided by ability. Every implementation passes tests/conformance.

    Commits         commits.py         decide and commit commands; end what has expired
    SessionReads    session_reads.py   reads that a cache may answer
    SessionQueries  session_reads.py   reads that always go to the primary
    HistoryReads    history.py         reads of a session as it was at an earlier place of its log
    LogReads        log_reads.py       reads of logs and feeds
    Upkeep          upkeep.py          retention, the token key, liveness
    WorkStore       work.py            reads of runs and tool calls
    AttachmentStore attachments.py     attachments and uploads
    DocumentReads   documents.py       reads of documents

A component depends only on the abilities that it uses. The decorators (announcing.py, cached/) wrap Commits and
SessionReads, and do not know the others.

Reads and writes take a Scope; rows outside it do not exist for the call (G11). Callers pass valid identifiers, limits
and filters. Times are microseconds since 1970-01-01 UTC, by the store's own clock: the database's for Postgres, an
injected one for the memory store. Returned bytes are serialised `sessiond.v1` messages and belong to the caller.

Every method raises `StoreUnavailable` if the database cannot be reached. Cancelling a read abandons it. Cancelling
`apply` before the commit was sent undoes everything; after that, the commit continues without the caller.
"""

from typing import Protocol

from sessiond_server.store.commits import Commits
from sessiond_server.store.history import HistoryReads
from sessiond_server.store.log_reads import LogReads
from sessiond_server.store.session_reads import SessionQueries, SessionReads
from sessiond_server.store.upkeep import Upkeep


class Store(Commits, SessionReads, SessionQueries, HistoryReads, LogReads, Upkeep, Protocol):
    """The log of every session and the projections of it: all that a database implements."""
