"""Stores put together from decorated abilities, for suites that take a whole Store."""

from typing import Any, cast

from sessiond_server.store.commits import Commits
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import SessionReads

_COMMITS = ("apply", "expire_due")
_SESSION_READS = ("get_session", "get_sessions", "list_messages")


class _Composed:
    def __init__(self, truth: Store, commits: Commits, sessions: SessionReads) -> None:
        self._parts = dict.fromkeys(_COMMITS, commits) | dict.fromkeys(_SESSION_READS, sessions)
        self._truth = truth

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parts.get(name, self._truth), name)


def composed(truth: Store, commits: Commits, sessions: SessionReads) -> Store:
    """A Store that commits through `commits`, reads sessions and newest messages from `sessions`, all else from
    `truth`."""
    return cast(Store, _Composed(truth, commits, sessions))
