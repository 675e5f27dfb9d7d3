"""Retention of ended sessions over every store: whose sessions are removed, and when."""

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

from sessiond.v1.summary_pb2 import Summary
from sessiond_server import retiring
from sessiond_server.domain import commands as c
from sessiond_server.domain.commands import Scope
from sessiond_server.store.retention import NewHold, Retained
from tests.support.caller import Caller, accepted
from tests.support.store_backend import Backend
from tests.support.wire import DirectWriter

EVERYONE = Scope("tenant")
DAY = 86_400
KEPT_US = 90 * DAY * 1_000_000


async def retire(backend: Backend, default_us: int = 0) -> int:
    return await retiring.retire(backend.retention, DirectWriter(backend.store), default_us)


async def left(backend: Backend, *names: str, scope: Scope = EVERYONE) -> list[str]:
    found = await backend.store.get_sessions(scope, names, content=False)
    return [name for name, each in zip(names, found, strict=True) if each is not None]


async def test_ended_sessions_are_removed_once_nothing_has_changed_for_the_time(
    backend: Backend, caller: Caller
) -> None:
    store, names = backend.store, ("ended", "changed", "held", "live", "late")
    await backend.retention.set_policy(EVERYONE, KEPT_US, "office")
    await accepted(store, *(caller.create(name, ttl=Duration(seconds=3650 * DAY)) for name in names))
    await accepted(store, caller.append_ids("changed", "m1"))
    await accepted(store, *(caller.end(name) for name in ("ended", "changed", "held")))
    hold = await backend.retention.place_hold(EVERYONE, NewHold("held", "", "case", "counsel", ""))
    await backend.advance(89 * DAY)
    assert await retire(backend) == 0
    summary = c.CreateSummary(Summary(through_seq=2, text="Greetings."), after_end=True)
    await accepted(store, caller.end("late"), caller.command("changed", summary))
    await backend.advance(DAY + 1)
    assert await retire(backend) == 1
    assert await left(backend, *names) == ["changed", "held", "live", "late"]
    await backend.retention.lift_hold(EVERYONE, hold.hold_id, "judge", "")
    assert await retire(backend) == 1
    await backend.advance(89 * DAY)
    assert await retire(backend) == 2
    assert await left(backend, *names) == ["live"]


async def test_a_tenants_policy_goes_before_the_default(backend: Backend) -> None:
    for tenant in ("default", "shorter", "for-good", "taken-back"):
        caller = Caller(Scope(tenant))
        await accepted(backend.store, caller.create("s"))
        await accepted(backend.store, caller.end("s"))
    for tenant, kept_us in (("shorter", KEPT_US // 3), ("for-good", 0), ("taken-back", KEPT_US // 3)):
        await backend.retention.set_policy(Scope(tenant), kept_us, "office")
    await backend.retention.set_policy(Scope("taken-back"), None, "office")
    found = await backend.retention.retained_tenants(KEPT_US, after="", limit=10)
    assert found == [Retained("default", KEPT_US), Retained("shorter", KEPT_US // 3), Retained("taken-back", KEPT_US)]
    assert await backend.retention.retained_tenants(KEPT_US, after="default", limit=1) == found[1:2]
    assert await backend.retention.retained_tenants(0, after="", limit=10) == found[1:2]
    await backend.advance(31 * DAY)
    assert await retire(backend, KEPT_US) == 1
    await backend.advance(60 * DAY)
    assert await retire(backend) == 0
    assert await retire(backend, KEPT_US) == 2
    assert await left(backend, "s", scope=Scope("for-good")) == ["s"]


async def test_many_ended_sessions_are_removed_in_pages(
    backend: Backend, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retiring, "SESSIONS", 2)
    names = [f"s{number}" for number in range(5)]
    await accepted(backend.store, *(caller.create(name) for name in names))
    await accepted(backend.store, *(caller.end(name) for name in names))
    await backend.advance(2)
    kept = Retained("tenant", 1_000_000)
    page = await backend.retention.ended_sessions(kept, after=None, limit=2)
    assert (page.due, page.next_key is not None) == ([("s0", 2), ("s1", 2)], True)
    assert await retire(backend, kept.kept_us) == 5


async def test_a_session_that_has_the_id_by_now_is_left_alone(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    await accepted(backend.store, caller.end("s"))
    await backend.advance(2)
    page = await backend.retention.ended_sessions(Retained("tenant", 1_000_000), after=None, limit=2)
    await accepted(backend.store, caller.delete("s"))
    await accepted(backend.store, caller.create("s", reuse=True))

    class Late:
        """Answers with what was due before."""

        async def retained_tenants(self, default_us: int, *, after: str, limit: int) -> list[Retained]:
            return [] if after else [Retained("tenant", 1_000_000)]

        async def ended_sessions(self, kept: Retained, *, after: object, limit: int) -> object:
            return page

    assert page.due == [("s", 2)]
    assert await retiring.retire(Late(), DirectWriter(backend.store), 0) == 0  # type: ignore[arg-type]
    assert await left(backend, "s") == ["s"]


async def test_a_policy_is_kept_with_who_set_it(backend: Backend) -> None:
    retention = backend.retention
    assert not (await retention.get_policy(EVERYONE)).ListFields()
    await retention.set_policy(EVERYONE, KEPT_US, "office")
    policy = await retention.get_policy(EVERYONE)
    assert (policy.ended_retention.ToTimedelta(), policy.actor) == (timedelta(days=90), "office")
    assert policy.update_time.seconds > 0
    assert not policy.HasField("effective_ended_retention")
    await retention.set_policy(EVERYONE, None, "other")
    policy = await retention.get_policy(EVERYONE)
    assert (policy.HasField("ended_retention"), policy.actor) == (False, "other")
    assert not (await retention.get_policy(Scope("another"))).ListFields()
