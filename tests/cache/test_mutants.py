"""Each safeguard is removed, one at a time: the schedules of test_races.py detect it and name the fault."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sessiond_server.domain.commands import Command, Result
from sessiond_server.domain.sessions import rules as session_rules
from sessiond_server.memory import cache as memory
from sessiond_server.memory.cache import MemoryCache, MemoryServer
from sessiond_server.store.cached import changes
from sessiond_server.store.cached import store as cached
from sessiond_server.store.cached.batched_reads import BatchedReads
from sessiond_server.store.cached.contract import Copy, Forget, Put
from sessiond_server.store.cached.dirty import DirtySessions
from sessiond_server.store.cached.store import CachedSessions
from sessiond_server.store.session_reads import Freshness
from tests.support import virtual_time
from tests.support.cache_simulation import Schedule, Verdict
from tests.support.effort import quick_and_long

Mutation = Callable[[pytest.MonkeyPatch], None]
SEEDS = range(1000)
"""Of the schedules that must find every mutant."""
WORTHY = (2, 3, 7, 9, 25, 55, 83, 84, 101, 118, 284, 387, 462)
"""Those of them that found one first, when all were tried in turn; they are tried before the rest."""


def plain_set(patch: pytest.MonkeyPatch) -> None:
    """SET in place of compare-and-set."""

    def put(self: MemoryServer, epoch: int, put: Put) -> bool:
        self.entries.pop((epoch, put.key), None)
        return original(self, epoch, put)

    original = MemoryServer.put
    patch.setattr(MemoryServer, "put", put)


def plain_delete(patch: pytest.MonkeyPatch) -> None:
    """DEL without a tombstone."""

    def forget(self: MemoryServer, epoch: int, forget: Forget) -> None:
        held = self.held((epoch, forget.key))
        if isinstance(held, Copy) and held.version < forget.version:
            del self.entries[epoch, forget.key]

    patch.setattr(MemoryServer, "forget", forget)


def no_version_check(patch: pytest.MonkeyPatch) -> None:
    """`min_version` is not compared with what the cache has."""
    for name in ("get_session", "get_sessions", "list_messages"):
        patch.setattr(CachedSessions, name, _without_min_version(getattr(CachedSessions, name)))


def _without_min_version(read: Any) -> Any:
    async def anything(*args: Any, freshness: Freshness, **more: Any) -> Any:
        return await read(*args, freshness=Freshness(strong=freshness.strong), **more)

    return anything


def any_flight_joined(patch: pytest.MonkeyPatch) -> None:
    """A reader takes the answer of a read that had left before it came."""
    original = BatchedReads.ask

    def ask(self: Any, key: Any) -> Any:
        away = self.__dict__.setdefault("away", {})
        if key in away and not away[key].done():
            waiter = asyncio.get_running_loop().create_future()

            def landed(leader: Any) -> None:
                if not waiter.done():
                    if leader.cancelled():
                        waiter.cancel()
                    else:
                        waiter.set_result(leader.result())

            away[key].add_done_callback(landed)
            return waiter
        away[key] = original(self, key)
        return away[key]

    patch.setattr(BatchedReads, "ask", ask)


def no_epoch(patch: pytest.MonkeyPatch) -> None:
    """Entries of the server are served, although it may be another server or may have lost entries."""

    def greet(self: MemoryServer, begin_new: bool) -> int:
        self.epoch = (self.run_id, 1)
        return 1

    patch.setattr(MemoryServer, "greet", greet)


def no_new_epoch_after_a_failover(patch: pytest.MonkeyPatch) -> None:
    """The epoch of the old server continues on the new one."""
    original = MemoryServer.restart_from

    def restart_from(self: MemoryServer, snapshot: memory.Snapshot) -> None:
        run_id = self.run_id
        original(self, snapshot)
        self.run_id = run_id

    patch.setattr(MemoryServer, "restart_from", restart_from)


def no_dirty_set(patch: pytest.MonkeyPatch) -> None:
    """A failed invalidation is not retried."""
    patch.setattr(DirtySessions, "add", lambda self, key, version: True)


def no_new_epoch_after_an_overflow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryCache, "new_epoch", lambda self: None)


def late_puts_taken(patch: pytest.MonkeyPatch) -> None:
    """However long ago it was read."""
    patch.setattr(memory, "MAX_AGE", 10**9)


def repeated_commands_not_told(patch: pytest.MonkeyPatch) -> None:
    """A commit whose connection broke does not update the cache when the retry finds it."""

    def of_repeated(commands: Sequence[Command], results: Sequence[Result], written: object) -> list[Forget]:
        return []

    patch.setattr(changes, "of_repeated", of_repeated)
    patch.setattr(cached, "EMBARGO", 0)


def redactions_extended(patch: pytest.MonkeyPatch) -> None:
    """Copies keep the messages that they had before a redaction."""
    original = changes._of_head

    def of_head(row: Any, events: Any, *, rewritten: bool, as_of: Any) -> Any:
        return original(row, events, rewritten=False, as_of=as_of)

    patch.setattr(changes, "_of_head", of_head)


def versions_begin_anew(patch: pytest.MonkeyPatch) -> None:
    """The log of a session that takes the id of a deleted one begins at 1 again."""
    original = session_rules.create
    patch.setattr(session_rules, "create", lambda step, action, known, _: original(step, action, known, 0))


def windows_joined_at_a_creation(patch: pytest.MonkeyPatch) -> None:
    """Where one batch deletes a session and takes its id again, the window goes on with the messages of the next."""
    patch.setattr(changes, "CREATED", ())


def dirty_sessions_read(patch: pytest.MonkeyPatch) -> None:
    """A session is read from the cache although its last invalidation is known to have failed."""
    patch.setattr(CachedSessions, "_mark_dirty", lambda self, key, version: None)


MUTANTS: list[tuple[Mutation, set[str]]] = [
    (plain_set, {"stale"}),
    (plain_delete, {"stale", "resurrected"}),
    (no_version_check, {"below_min_version"}),
    (any_flight_joined, {"below_min_version"}),
    (no_epoch, {"stale"}),
    (no_new_epoch_after_a_failover, {"stale"}),
    (no_dirty_set, {"stale"}),
    (no_new_epoch_after_an_overflow, {"stale"}),
    (late_puts_taken, {"stale", "resurrected"}),
    (repeated_commands_not_told, {"stale"}),
    (redactions_extended, {"wrong"}),
    (dirty_sessions_read, {"stale"}),
    (versions_begin_anew, {"stale"}),
    (windows_joined_at_a_creation, {"wrong"}),
]
QUICK = (plain_delete, any_flight_joined, no_epoch, redactions_extended)
"""Those of `make test`: one of each kind of finding."""


@pytest.mark.parametrize(("mutate", "findings"), quick_and_long(MUTANTS, QUICK))
def test_missing_safeguard_is_detected(mutate: Mutation, findings: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    found = Verdict()
    for seed in (*WORTHY, *SEEDS):
        found.add(virtual_time.run(Schedule(seed).run()))
        if any(getattr(found, finding) for finding in findings):
            return
    pytest.fail(f"{len(SEEDS)} schedules found {found}")
