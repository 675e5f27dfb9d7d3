"""Random schedules against the pure core of the batcher: callers that cancel, deadlines, poison, lost connections.

The store of the simulation is a log per session with request ids, as the contract asks. Each schedule follows from its
seed; a failure names it, and `SEED=n pytest` with this file runs that schedule alone.
"""

import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random

import pytest

from sessiond_server.domain.commands import Command, MessagesAppended, Scope, TouchSession
from sessiond_server.errors import DeadlinePassed, QueueFull, StoreUnavailable
from sessiond_server.store.batching import Answer, Batching, BatchLimits, Ticket
from sessiond_server.store.turns import EACH
from tests.support.effort import batches

SCHEDULES = 2_500
"""In each of four batches."""


@dataclass(eq=False, slots=True)
class Call:
    """One caller's attempt at a command."""

    command: Command
    submitted: int
    """Place in the order of all submissions."""
    deadline: float
    retries: int
    poison: bool
    ticket: "Ticket[Call] | None" = None
    sent: bool = False
    withdrawn: bool = False
    answers: list[Answer] = field(default_factory=list)
    acknowledged_at: int = 0
    """Submissions made before the acknowledgement."""


class Schedule:
    def __init__(self, seed: int, seen: Counter[str]) -> None:
        self.chance = chance = Random(seed)
        self.seen = seen
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.planned = 0
        self.limits = BatchLimits(
            shards=chance.randint(1, 3),
            queue_commands=chance.choice((2, 5, 50)),
            queue_bytes=chance.choice((30, 200, 10_000)),
            batch_commands=chance.choice((1, 2, 8, 16)),
            batch_bytes=chance.choice((20, 100, 10_000)),
            outage=chance.choice((0.0, 1.0, 5.0)),
            backoff_first=0.1,
            backoff_most=0.8,
            halving=chance.choice((0.0, 0.3, 5.0)),
            linger_from=chance.choice((2, 3, 8)),
            linger_each=0.05,
            linger_most=0.2,
        )
        alone = chance.random() < 0.5
        self.batching: Batching[Call] = Batching(self.limits, chance, alone=lambda: alone)
        self.p_poison = chance.choice((0.0, 0.0, 0.1))
        self.p_lost = chance.choice((0.0, 0.2, 0.6))
        self.p_error = chance.choice((0.0, 0.0, 0.2))
        self.p_locked = chance.choice((0.0, 0.0, 0.2))
        self.p_too_much = chance.choice((0.0, 0.4))
        self.p_cancel = chance.choice((0.0, 0.3))
        self.p_deadline = chance.choice((0.0, 0.3))
        self.calls: list[Call] = []
        self.retry_after: list[float | None] = []
        self.busy: set[int] = set()
        self.repeat: dict[int, list[Ticket[Call]]] = {}
        """The batch that each shard must send again, unchanged."""
        self.logs: dict[tuple[str, str], list[str]] = {}
        self.records: dict[tuple[tuple[str, str], str], int] = {}
        self.applications: Counter[tuple[tuple[str, str], str]] = Counter()

    def run(self) -> None:
        chance = self.chance
        keys = [(f"t{chance.randint(1, 2)}", f"s{chance.randint(1, 9)}") for _ in range(chance.randint(1, 4))]
        for number in range(chance.randint(4, 32)):
            tenant_id, session_id = chance.choice(keys)
            command = Command(
                Scope(tenant_id), session_id, TouchSession(0), "local", f"r{number}", size=chance.choice((1, 10, 40))
            )
            self.at(chance.uniform(0.0, 2.0), lambda c=command: self.submit(c, 0))  # type: ignore[misc]
        while self.events:
            self.now, _, event = heapq.heappop(self.events)
            event()
            self.check_bounds()
        self.check_end()

    def at(self, time: float, event: Callable[[], None]) -> None:
        self.planned += 1
        heapq.heappush(self.events, (time, self.planned, event))

    def submit(self, command: Command, retries: int) -> None:
        chance = self.chance
        deadline = self.now + chance.uniform(0.0, 1.0) if chance.random() < self.p_deadline else inf
        poison = retries == 0 and chance.random() < self.p_poison
        call = Call(command, len(self.calls), deadline, retries, poison)
        try:
            call.ticket = self.batching.submit(command, call, deadline)
        except QueueFull as refusal:
            self.retry_after.append(refusal.retry_after)
            self.seen["refused"] += 1
            return
        self.calls.append(call)
        if chance.random() < self.p_cancel:
            self.at(self.now + chance.uniform(0.0, 0.5), lambda: self.cancel(call))
        self.drive(call.ticket.shard)

    def cancel(self, call: Call) -> None:
        assert call.ticket is not None
        withdrawn = self.batching.withdraw(call.ticket)
        assert withdrawn == (not call.sent and not call.answers), "withdrawn means: neither sent nor answered"
        call.withdrawn = withdrawn
        self.seen["withdrawn" if withdrawn else "too late to withdraw"] += 1

    def drive(self, shard: int) -> None:
        """What the driver's task does when it is not waiting for the store."""
        if shard in self.busy:
            return
        if pause := self.batching.linger(shard, self.chance.random()):
            assert shard not in self.repeat, "a batch of unknown outcome does not wait for more"
            assert pause <= self.limits.linger_most
            self.seen["lingered"] += 1
            self.busy.add(shard)
            self.at(self.now + pause, lambda: self.send(shard))
            return
        self.send(shard)

    def send(self, shard: int) -> None:
        self.busy.discard(shard)
        batch, late = self.batching.next_batch(shard, self.now)
        self.answer(late)
        if not batch:
            return
        self.busy.add(shard)
        self.check_order(shard, batch)
        repeated = self.repeat.pop(shard, None)
        assert repeated is None or repeated == list(batch), "a batch of unknown outcome keeps its members"
        assert len(batch) <= self.limits.batch_commands
        assert len(batch) == 1 or sum(t.command.size for t in batch) <= self.limits.batch_bytes
        for ticket in batch:
            assert not ticket.waiter.withdrawn, "sent after it was withdrawn"
            assert ticket.waiter.sent or ticket.deadline >= self.now, "sent after its deadline"
            ticket.waiter.sent = True
        self.seen["batches of several"] += len(batch) > 1
        self.at(self.now + self.chance.uniform(0.001, 0.3), lambda: self.reply(shard, batch))

    def reply(self, shard: int, batch: Sequence[Ticket[Call]]) -> None:
        chance = self.chance
        luck = chance.random()
        if luck < self.p_lost:
            fate = chance.choice(("never", "now", "later"))
            if any(ticket.waiter.poison for ticket in batch):
                fate = "never"
            if fate == "now":
                self.commit(batch)
            elif fate == "later":
                # The database has it and commits while the server is already trying again.
                self.at(self.now + chance.uniform(0.0, 1.0), lambda: self.commit_unheard(batch))
            self.seen[f"lost, committed {fate}"] += 1
            delay, given_up = self.batching.unknown(shard, self.now)
            assert 0 < delay <= self.limits.backoff_most
            if given_up:
                self.seen["given up"] += 1
                assert {ticket for ticket, _ in given_up} >= set(batch)
            else:
                self.repeat[shard] = list(batch)
            self.answer(given_up)
            self.answer(self.batching.expire(self.now))
            self.at(self.now + delay, lambda: self.free(shard))
            return
        if chance.random() < self.p_locked:
            answers = self.batching.locked(shard)
            assert {ticket for ticket, _ in answers} >= set(batch), "a locked table is there for all of them"
            self.seen["locked"] += 1
            self.answer(answers)
            self.free(shard)
            return
        if chance.random() < self.p_too_much:
            answers = self.batching.failed(shard, StoreUnavailable(divisible=True), self.now)
            answered = {ticket for ticket, _ in answers}
            if len(batch) > 1 and answered:
                assert answered >= set(batch), "once it was halved for long enough, all the rest is refused"
                self.seen["halved for long enough"] += 1
            self.answer(answers)
            self.free(shard)
            return
        poisoned = [ticket for ticket in batch if ticket.waiter.poison]
        if poisoned or luck < self.p_lost + self.p_error:
            answers = self.batching.failed(shard, ValueError("poison" if poisoned else "chance"), self.now)
            assert not answers or [ticket for ticket, _ in answers] == list(batch), "only one alone fails"
            assert len(answers) == (1 if len(batch) == 1 else 0)
            self.seen["failed alone" if answers else "halved"] += 1
            self.answer(answers)
        else:
            self.answer(self.batching.done(shard, self.commit(batch), self.now))
        self.free(shard)

    def free(self, shard: int) -> None:
        self.busy.discard(shard)
        self.drive(shard)

    def commit(self, batch: Sequence[Ticket[Call]]) -> list[MessagesAppended]:
        results = []
        for ticket in batch:
            command = ticket.command
            record = (command.key, command.request_id)
            log = self.logs.setdefault(command.key, [])
            if record not in self.records:
                log.append(command.request_id)
                self.records[record] = len(log)
                self.applications[record] += 1
            results.append(MessagesAppended(self.records[record], self.records[record], (), 0))
        return results

    def commit_unheard(self, batch: Sequence[Ticket[Call]]) -> None:
        self.commit(batch)

    def answer(self, answers: Iterable[tuple[Ticket[Call], Answer]]) -> None:
        for ticket, answer in answers:
            call = ticket.waiter
            call.answers.append(answer)
            self.seen[type(answer).__name__] += 1
            if isinstance(answer, MessagesAppended):
                call.acknowledged_at = len(self.calls)
            elif isinstance(answer, DeadlinePassed):
                assert not call.sent
            elif isinstance(answer, StoreUnavailable) and call.retries < 2 and self.chance.random() < 0.5:
                self.seen["retried"] += 1
                command, retries = call.command, call.retries + 1
                self.at(self.now + 0.1, lambda c=command, r=retries: self.submit(c, r))  # type: ignore[misc]

    def check_order(self, shard: int, batch: Sequence[Ticket[Call]]) -> None:
        """Of each tenant those go that have waited longest, whatever becomes of the turns of tenants."""
        if self.batching.queued() == (0, 0):
            return
        sent = {ticket.waiter for ticket in batch}
        passed_over: set[str] = set()
        for call in self.calls:
            waits = not (call.sent or call.withdrawn or call.answers) and call.ticket is not None
            if waits and call.ticket.shard == shard:  # type: ignore[union-attr]
                tenant_id = call.command.scope.tenant_id
                assert call not in sent or tenant_id not in passed_over, "a tenant's own commands keep their order"
                if call not in sent:
                    passed_over.add(tenant_id)
        self.seen["left to the next batch"] += bool(passed_over)

    def check_bounds(self) -> None:
        waiting: dict[int, list[int]] = {}
        for call in self.calls:
            if not call.sent and not call.withdrawn and not call.answers and call.ticket is not None:
                waiting.setdefault(call.ticket.shard, []).append(call.command.size)
        for sizes in waiting.values():
            assert len(sizes) <= self.limits.queue_commands
            assert len(sizes) == 1 or sum(sizes) <= self.limits.queue_bytes or max(sizes) > self.limits.queue_bytes
        everything = [size for sizes in waiting.values() for size in sizes]
        assert self.batching.queued() == (len(everything), sum(everything)), "the core counts what waits"

    def check_end(self) -> None:
        assert not self.busy
        assert self.batching.queued() == (0, 0)
        assert all(hint is not None and 0 < hint <= 5 for hint in self.retry_after)
        acknowledged: dict[tuple[str, str], list[tuple[int, Call]]] = {}
        for call in self.calls:
            assert len(call.answers) == (0 if call.withdrawn else 1), "answered once, or withdrawn"
            record = (call.command.key, call.command.request_id)
            if not call.answers or isinstance(call.answers[0], DeadlinePassed):
                assert call.retries or record not in self.records, "written although it was never sent"
                continue
            answer = call.answers[0]
            if isinstance(answer, MessagesAppended):
                assert self.logs[call.command.key][answer.version - 1] == call.command.request_id, "acknowledged, lost"
                acknowledged.setdefault(call.command.key, []).append((answer.version, call))
            elif isinstance(answer, ValueError) and self.p_error == 0:
                assert call.poison, "failed for another's poison"
                assert record not in self.records
        assert all(count == 1 for count in self.applications.values()), "written twice"
        for versions in acknowledged.values():
            # A retry's place is that of its first attempt: it may lie before what was submitted in between.
            first_attempts = [version for version, call in versions if not call.retries]
            assert first_attempts == sorted(first_attempts), "reordered within its session"
            for version, call in versions:
                for later_version, later in versions:
                    if later.submitted >= call.acknowledged_at and not later.retries:
                        assert version < later_version, "written before what was already acknowledged"


@pytest.mark.parametrize("batch", batches(1, 4))
def test_schedules_lose_double_and_reorder_nothing(batch: int) -> None:
    chosen = os.environ.get("SEED")
    seen: Counter[str] = Counter()
    for seed in range(batch * SCHEDULES, (batch + 1) * SCHEDULES) if chosen is None else (int(chosen),):
        try:
            Schedule(seed, seen).run()
        except Exception as error:
            error.add_note(f"SEED={seed}")
            raise
    if chosen is not None:
        pytest.skip("one schedule alone cannot reach everything")
    # The schedules are worth something only if they reach all of it.
    for what in (
        *("MessagesAppended", "StoreUnavailable", "DeadlinePassed", "ValueError", "refused", "withdrawn", "retried"),
        *("too late to withdraw", "batches of several", "halved", "failed alone", "given up"),
        *("lingered", "left to the next batch", "locked", "halved for long enough"),
        *("lost, committed never", "lost, committed now", "lost, committed later"),
    ):
        assert seen[what] >= SCHEDULES // 10, what


class Backlog:
    """One shard that is sent batch after batch, while tenants keep it full."""

    def __init__(self, *, batch_commands: int = 8, batch_bytes: int = 1_000_000) -> None:
        limits = BatchLimits(
            queue_commands=100_000, queue_bytes=2**40, batch_commands=batch_commands, batch_bytes=batch_bytes
        )
        self.batching: Batching[str] = Batching(limits, Random(0))
        self.submitted = 0

    def submit(self, tenant_id: str, count: int = 1, size: int = 100) -> None:
        for _ in range(count):
            self.submitted += 1
            name = f"{tenant_id}{self.submitted}"
            self.batching.submit(Command(Scope(tenant_id), "s", TouchSession(0), "local", name, size=size), name)

    def send(self) -> list[str]:
        batch, _ = self.batching.next_batch(0, 0.0)
        if batch:
            self.batching.done(0, [MessagesAppended(1, 1, (), 0)] * len(batch), 0.0)
        return [ticket.waiter for ticket in batch]


def test_tenant_with_a_long_queue_does_not_make_others_wait_behind_it() -> None:
    backlog = Backlog()
    backlog.submit("loud", 1000)
    backlog.submit("quiet", 3)
    assert backlog.send() == ["loud1", "quiet1001", "loud2", "quiet1002", "loud3", "quiet1003", "loud4", "loud5"]


def test_tenant_that_comes_late_is_in_the_next_batch_however_much_others_were_given_before() -> None:
    backlog = Backlog()
    backlog.submit("loud", 10_000)
    for _ in range(100):
        backlog.send()
        backlog.submit("quiet")
        assert any(name.startswith("quiet") for name in backlog.send())


def test_idle_tenant_saves_no_turns_for_later() -> None:
    backlog = Backlog()
    backlog.submit("early")
    backlog.submit("loud", 1000)
    for _ in range(50):
        backlog.send()
    backlog.submit("early", 100)
    assert sum(name.startswith("loud") for name in backlog.send()) == 4


def test_one_tenant_alone_is_served_in_the_order_it_came() -> None:
    backlog = Backlog()
    backlog.submit("only", 100)
    sent = [name for _ in range(13) for name in backlog.send()]
    assert sent == [f"only{number}" for number in range(1, 101)]


def test_large_commands_count_for_their_bytes() -> None:
    backlog = Backlog(batch_commands=10_000, batch_bytes=4_000_000)
    backlog.submit("large", 100, size=400_000)
    backlog.submit("small", 5000)
    sent = Counter(name[:5] for _ in range(2) for name in backlog.send())
    assert sent["small"] > 90 * (sent["large"] - 1) > 0


def test_large_command_that_waits_is_not_passed_over_for_ever() -> None:
    backlog = Backlog(batch_bytes=500_000)
    backlog.submit("small", 1000)
    backlog.submit("large", size=499_999)
    batches = [backlog.send() for _ in range(3)]
    assert ["large1001"] in batches


@pytest.mark.parametrize("seed", batches(5, 20))
def test_tenants_that_all_want_more_are_given_the_same(seed: int) -> None:
    chance = Random(seed)
    backlog = Backlog(batch_commands=chance.randint(1, 40), batch_bytes=chance.randint(1, 300_000))
    tenants = "abcde"[: chance.randint(2, 5)]
    sizes = {tenant_id: chance.choice((10, 1_000, 60_000)) for tenant_id in tenants}
    given: Counter[str] = Counter()
    for _ in range(100):
        for tenant_id in tenants:
            backlog.submit(tenant_id, 41, size=sizes[tenant_id])
        for name in backlog.send():
            given[name[0]] += EACH + sizes[name[0]]
        assert max(given.values()) - min(given[each] for each in tenants) <= 2 * (EACH + max(sizes.values()))


def test_tenant_fills_the_queue_only_so_far_that_others_find_room() -> None:
    limits = BatchLimits(queue_commands=100, queue_bytes=10_000)
    batching: Batching[int] = Batching(limits, Random(0), alone=lambda: False)

    def held(tenant_id: str, size: int) -> int:
        for count in range(1000):
            try:
                batching.submit(Command(Scope(tenant_id), "s", TouchSession(0), "local", "r", size=size), 0)
            except QueueFull:
                return count
        raise AssertionError("the queue has no bound")

    assert held("a", 1) == 75
    assert held("b", 500) == 14  # of bytes: 7 000, three times of what is left beside those of a
    assert held("c", 1) > 0
