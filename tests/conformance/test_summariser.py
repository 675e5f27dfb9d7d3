"""Which sessions become due for a summary, and what becomes of them, over both stores and two replicas."""

import asyncio
from typing import cast

import pytest

from sessiond.v1.session_pb2 import EndReason, Session, SessionStatus, TokenUsage
from sessiond.v1.summary_pb2 import Summary
from sessiond_server.domain import commands as c
from sessiond_server.errors import StoreUnavailable
from sessiond_server.summaries import worker
from sessiond_server.summaries.contract import Conversation, SummariserUnavailable, Written
from sessiond_server.summaries.coverage import Bounds
from sessiond_server.summaries.queue import When
from sessiond_server.summaries.worker import FIRST_RETRY
from tests.support.caller import Caller, accepted
from tests.support.rows import table
from tests.support.store_backend import Backend
from tests.support.summaries import AnyStore, Scripted, Site
from tests.support.waiting import until

pytestmark = pytest.mark.parametrize("place", ["memory", "postgres"], indirect=True)

OFTEN = When(4, 0, True)


def plain(backend: Backend) -> AnyStore:
    return cast(AnyStore, backend.work)


async def begun(backend: Backend, summariser: Scripted | None = None, when: When = OFTEN) -> Site:
    """A store whose feeds are followed from now on."""
    site = Site(plain(backend), summariser or Scripted(), when)
    await site.follow()
    return site


async def test_sessions_are_due_by_messages_by_size_and_at_their_end(backend: Backend, caller: Caller) -> None:
    with table() as rows:
        for number, (when, texts, ends, due) in enumerate(
            (
                (When(4, 0, False), ["a"] * 3, False, 0),
                (When(4, 0, False), ["a"] * 4, False, 1),
                (When(0, 500, False), ["word " * 100] * 3, False, 0),
                (When(0, 500, False), ["word " * 100] * 6, False, 1),
                (When(0, 0, True), ["a"], False, 0),
                (When(0, 0, True), ["a"], True, 1),
                (When(0, 0, False), ["a"] * 9, True, 0),
            )
        ):
            with rows.row(when, len(texts), ends):
                site, session_id = await begun(backend, when=when), f"s{number}"
                await accepted(site.store, caller.create(session_id), caller.append(session_id, *texts))
                if ends:
                    await accepted(site.store, caller.end(session_id))
                assert await site.work() == due
                made = await site.summaries(caller.scope, session_id)
                assert [(one.through_seq, one.text, one.model, one.author, one.actor) for one in made] == [
                    (len(texts) + 1, f"{len(texts)} messages", "m", "sessiond", "sessiond")
                ] * due
                assert await site.work() == 0


async def test_what_came_before_the_first_look_makes_nothing_due(backend: Backend, caller: Caller) -> None:
    """Switching summaries on doesn't summarise all that there is. The next summary of a session has all of it."""
    await accepted(plain(backend), caller.create("s"), caller.append("s", *"abcdef"))
    await Site(plain(backend), Scripted()).committed(caller.scope.tenant_id)
    site = await begun(backend)
    assert await site.work() == 0
    await accepted(site.store, caller.append("s", *"ghij"))
    assert await site.work() == 1
    assert [one.text for one in await site.summaries(caller.scope)] == ["10 messages"]


async def test_each_summary_goes_on_from_the_one_before(backend: Backend, caller: Caller) -> None:
    """A summary keeps the newest messages out, covers no more than a model can read, and counts its tokens."""
    usage = TokenUsage(input_tokens=7, output_tokens=3)
    summariser = Scripted(lambda asked: Written(f"after {asked.previous!r}", usage=usage, token_count=5))
    site = await begun(backend, summariser)
    site = Site(site.store, summariser, When(10, 0, True), Bounds(keep=2, tokens=40))
    await accepted(site.store, caller.create("s"), caller.append("s", *(f"word{n}" for n in range(10))))
    await site.work()
    made = await site.summaries(caller.scope)
    assert made[0].text == "after ''"
    assert made[-1].text == f"after {made[-2].text!r}"
    assert made[-1].through_seq == 9, "all but the two newest of the ten messages behind the creation"
    assert len(summariser.asked[0].messages) < 8
    texts = [message.parts[0].text for asked in summariser.asked for message in asked.messages]
    assert texts == [f"word{n}" for n in range(8)], "each message once"
    session = Session.FromString((await site.store.get_session(caller.scope, "s", content=False)).core)
    assert (session.usage.input_tokens, session.usage.total_tokens) == (7 * len(made), 10 * len(made))
    assert session.summary_seq == made[-1].seq
    await accepted(site.store, caller.end("s"))
    await site.work()
    assert (await site.summaries(caller.scope))[-1].through_seq == 11, "the end covers the rest"


async def test_two_replicas_write_each_summary_once(backend: Backend, caller: Caller) -> None:
    here = await begun(backend)
    there = Site(here.store, Scripted())
    for number in range(8):
        await accepted(here.store, caller.create(f"s{number}"), caller.append(f"s{number}", *"abcd"))
    await asyncio.gather(here.follow(), there.follow(), here.follow(), there.follow())
    await asyncio.gather(here.work(), there.work(), here.work(), there.work())
    for number in range(8):
        assert len(await here.summaries(caller.scope, f"s{number}")) == 1
    asked = [one.session_id for site in (here, there) for one in cast(Scripted, site.summariser).asked]
    assert sorted(asked) == [f"s{number}" for number in range(8)]


async def test_replica_that_dies_behind_its_write_leaves_one_summary(backend: Backend, caller: Caller) -> None:
    """Its claim ends by itself. So does one of a replica that stalls, which then has nothing to give back."""
    site = await begun(backend)
    await accepted(site.store, caller.create("s"), caller.append("s", *"abcd"))
    (claim,) = await site.claimed()
    await site.worker._attempt(claim)
    assert await site.claimed() == []
    await backend.advance(61.0)
    (again,) = await site.claimed()
    assert (again.number, again.attempt) == (2, 2)
    await site.worker.summarise(claim)  # the replica that was taken for dead
    assert await site.store.summary_queue.claim(1.0, 10) == [], "the new claim holds"
    await site.worker.summarise(again)
    assert len(await site.summaries(caller.scope)) == 1
    await backend.advance(3600.0)
    assert await site.claimed() == []


async def test_failures_delay_their_session_only_and_end(backend: Backend, caller: Caller) -> None:
    rude: list[object] = [
        SummariserUnavailable(),
        ValueError("what the session says"),
        None,
        Written(""),
        Written("x" * 65_537),
        Written("a\0b"),
        Written("\ud800"),
        Written("fine", "model\nname"),
        Written("fine", usage=TokenUsage(input_tokens=-1)),
        Written("fine", token_count=2**60),
    ]

    def answer(asked: Conversation) -> Written:
        if asked.session_id.startswith("good"):
            return Written("fine")
        found = rude[0]
        if isinstance(found, Exception):
            raise found
        return cast(Written, found)

    site = await begun(backend, Scripted(answer))
    await accepted(site.store, caller.create("bad"), caller.append("bad", *"abcd"))
    with table() as rows:
        for attempt in range(1, 21):
            with rows.row(attempt, rude[0]):
                await accepted(site.store, caller.create(f"good{attempt}"), caller.append(f"good{attempt}", *"abcd"))
                assert await site.work() >= 1
                assert await site.claimed() == [], "it is not tried again at once"
                await backend.advance(1.26 * min(FIRST_RETRY * 2 ** (attempt - 1), 3600.0))
                rude.append(rude.pop(0))
    outcomes = site.summarising.state.outcomes
    assert outcomes["given_up"] >= 1
    assert await site.summaries(caller.scope, "bad") == []
    await backend.advance(7200.0)
    assert [one.session_id for one in await site.claimed()] == []
    rude[:] = [Written("at last")]
    await accepted(site.store, caller.append("bad", "e"))
    await site.work()
    assert [one.text for one in await site.summaries(caller.scope, "bad")] == ["at last"]


async def test_summary_is_made_anew_after_redactions_deletions_and_summaries_of_others(
    backend: Backend, caller: Caller
) -> None:
    """Messages that come meanwhile are no reason."""
    by_hand = c.CreateSummary(Summary(through_seq=3, text="by hand"))
    with table() as rows:
        for session_id, meanwhile, texts in (
            ("a", [caller.append("a", "more")], ["m0 m1 m2 m3 m4"]),
            ("b", [caller.redact("b", "m1")], ["m0 m2 m3 m4"]),
            ("c", [caller.delete_messages("c", "m1")], ["m0 m2 m3 m4"]),
            ("d", [caller.command("d", by_hand)], ["by hand"]),
            ("e", [caller.rewind("e", before="m4")], ["m0 m1 m2 m3"]),
        ):
            with rows.row(session_id):

                async def answer(asked: Conversation, meanwhile: list[c.Command] = meanwhile) -> Written:
                    if meanwhile:
                        await accepted(plain(backend), meanwhile.pop())
                    return Written(" ".join(one.parts[0].text.split()[-1] for one in asked.messages))

                site = await begun(backend, Scripted(answer))
                await accepted(
                    site.store, caller.create(session_id), caller.append_ids(session_id, "m0", "m1", "m2", "m3", "m4")
                )
                await site.work()
                await backend.advance(2.0)
                await site.work()
                assert [one.text for one in await site.summaries(caller.scope, session_id)] == texts


async def test_same_messages_are_summarised_again_after_a_rewind_before_their_summary(
    backend: Backend, caller: Caller
) -> None:
    site = await begun(backend)
    await accepted(site.store, caller.create("s"), caller.append_ids("s", "m0", "m1", "m2", "m3", "m4"))
    await site.work()
    (first,) = await site.summaries(caller.scope, "s")
    await accepted(site.store, caller.rewind("s", "m4"))
    assert await site.summaries(caller.scope, "s") == []
    await accepted(site.store, caller.end("s"))
    await site.work()
    (again,) = await site.summaries(caller.scope, "s")
    assert (again.through_seq, again.text) == (first.through_seq, first.text)
    assert again.seq > first.seq


async def test_ended_deleted_and_used_anew(backend: Backend, caller: Caller) -> None:
    async def answer(asked: Conversation) -> Written:
        await accepted(site.store, *meanwhile)
        return Written("made")

    site = await begun(backend, Scripted(answer))
    meanwhile = [caller.end("ended")]
    await accepted(site.store, caller.create("ended"), caller.append("ended", *"abcd"))
    (claim,) = await site.claimed()
    await site.worker.summarise(claim)
    meanwhile = []
    await site.work()
    session = Session.FromString((await site.store.get_session(caller.scope, "ended", content=False)).core)
    assert (session.status, session.end_reason) == (
        SessionStatus.SESSION_STATUS_ENDED,
        EndReason.END_REASON_CLIENT,
    )
    assert [one.through_seq for one in await site.summaries(caller.scope, "ended")] == [5]

    meanwhile = [caller.delete("gone"), caller.create("gone", reuse=True)]
    await accepted(site.store, caller.create("gone"), caller.append("gone", *"abcd"))
    (claim,) = await site.claimed()
    await site.worker.summarise(claim)
    meanwhile = []
    assert await site.work() == 0
    assert await site.summaries(caller.scope, "gone") == []


async def test_store_that_does_not_answer_leaves_the_claim(backend: Backend, caller: Caller) -> None:
    def fails(_: c.Command) -> None:
        raise StoreUnavailable

    site = await begun(backend)
    broken = Site(site.store, Scripted(), before_write=fails)
    await accepted(site.store, caller.create("s"), caller.append("s", *"abcd"))
    (claim,) = await site.claimed()
    with pytest.raises(StoreUnavailable):
        await broken.worker.summarise(claim)
    assert await site.claimed() == []
    await backend.advance(61.0)
    assert await site.work() == 1
    assert len(await site.summaries(caller.scope)) == 1


async def test_running_worker_bounds_what_it_does_at_once_and_rests_when_it_is_told_to(
    backend: Backend, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session whose summary takes long keeps one place; the others go on. Cancelling ends them all."""
    monkeypatch.setattr(worker, "PAUSE", 0.01)
    answers, most, now = asyncio.Event(), 0, 0
    refusals = [SummariserUnavailable(retry_after=1e9)]

    async def answer(asked: Conversation) -> Written:
        nonlocal most, now
        now += 1
        most = max(most, now)
        try:
            if asked.session_id == "refused" and refusals:
                raise refusals.pop()
            if asked.session_id == "slow" or not answers.is_set():
                await (asyncio.Event() if asked.session_id == "slow" else answers).wait()
            return Written("made")
        finally:
            now -= 1

    clock = 1000.0
    site = await begun(backend, Scripted(answer))
    site.worker._clock = lambda: clock
    running = asyncio.create_task(site.worker.run())
    await accepted(site.store, caller.create("slow"), caller.append("slow", *"abcd"))
    for number in range(10):
        await accepted(site.store, caller.create(f"s{number}"), caller.append(f"s{number}", *"abcd"))
    await until(lambda: now == 4)
    assert site.summarising.state.in_progress == 4
    answers.set()
    await until(lambda: site.summarising.state.outcomes["written"] == 10)
    assert most == 4

    await accepted(site.store, caller.create("refused"), caller.append("refused", *"abcd"))
    await until(lambda: not refusals and site.summarising.state.outcomes["unavailable"])
    await accepted(site.store, caller.create("waits"), caller.append("waits", *"abcd"))
    await site.follow()
    rounds = site.summarising.rounds.done
    await until(lambda: site.summarising.rounds.done > rounds + 20)
    assert await site.summaries(caller.scope, "waits") == [], "no session is worked on until then"
    clock += worker.LONGEST_REST
    await until(lambda: site.summarising.state.outcomes["written"] == 11)
    assert [one.text for one in await site.summaries(caller.scope, "waits")] == ["made"]
    assert now == 1
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert now == 0


async def test_callers_ask_for_a_summary(backend: Backend, caller: Caller) -> None:
    """Whatever the operator has set; with as many of the newest messages left out as the caller wants."""
    site = await begun(backend, when=When(0, 0, False))
    site = Site(site.store, site.summariser, When(0, 0, False), Bounds(keep=2, tokens=10_000))
    queue, tenant_id = site.store.summary_queue, caller.scope.tenant_id
    await accepted(site.store, caller.create("s"), caller.append("s", *"abcdefgh"))
    assert await site.work() == 0
    with table() as rows:
        for keep, through in ((None, 7), (None, 7), (1, 8), (0, 9), (0, 9)):
            with rows.row(keep, through):
                assert await queue.request(tenant_id, "s", keep, 1)
                await site.work()
                assert (await site.summaries(caller.scope))[-1].through_seq == through
    await accepted(site.store, caller.append("s", "i"))
    assert await site.work() == 0, "what was asked for is done"


async def test_request_for_a_session_of_which_no_event_was_looked_at(backend: Backend, caller: Caller) -> None:
    site = Site(plain(backend), Scripted(), When(4, 0, False))
    await accepted(site.store, caller.create("s"), caller.append("s", *"abc"))
    assert await site.store.summary_queue.request(caller.scope.tenant_id, "s", 0, 1)
    await site.work()
    assert [one.text for one in await site.summaries(caller.scope)] == ["3 messages"]
    await accepted(site.store, caller.append("s", *"def"))
    assert await site.work() == 0
    await accepted(site.store, caller.append("s", "g"))
    assert await site.work() == 1, "counts go on from what was covered"


async def test_request_while_the_session_is_summarised_is_another_one(backend: Backend, caller: Caller) -> None:
    """It may be for messages that the one under way has not seen. It does not shorten the claim."""
    site = await begun(backend)
    queue, tenant_id = site.store.summary_queue, caller.scope.tenant_id
    await accepted(site.store, caller.create("s"), caller.append("s", *"abcd"))
    (claim,) = await site.claimed()
    assert await queue.request(tenant_id, "s", 0, 1)
    assert await site.claimed() == []
    await accepted(site.store, caller.append("s", "e"))
    await site.worker.summarise(claim)
    assert await site.work() == 1
    assert (await site.summaries(caller.scope))[-1].through_seq == 6


async def test_request_ends_the_rest_after_failures(backend: Backend, caller: Caller) -> None:
    site = await begun(backend)
    await accepted(site.store, caller.create("s"), caller.append("s", *"abcd"))
    (claim,) = await site.claimed()
    await site.store.summary_queue.postpone(claim, None)
    assert await site.claimed() == []
    assert await site.store.summary_queue.request(caller.scope.tenant_id, "s", None, 1)
    (claim,) = await site.claimed()
    assert claim.attempt == 1


async def test_bounded_number_of_sessions_of_a_tenant_waits(backend: Backend, caller: Caller) -> None:
    queue = plain(backend).summary_queue
    asked = [await queue.request("t", f"s{number}", None, 3) for number in range(5)]
    assert asked == [True, True, True, False, False]
    assert await queue.request("t", "s0", 0, 3), "it waits already"
    assert await queue.request("other", "s4", None, 3)
