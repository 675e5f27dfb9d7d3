"""The result of a campaign: compares the final database with the acknowledgements, and the histories with both."""

import math
import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import asyncpg

import sessiond
from sessiond.v1.event_pb2 import Event
from sessiond.v1.session_pb2 import Session
from sessiond_server.errors import SessionNotFound
from sessiond_server.postgres.store import PostgresStore
from tests.faults.history import Closed, Opened, got, read, segments
from tests.faults.ledger import Ack, Ledger, Verdict, judge
from tests.faults.lives import Life
from tests.faults.lives_judgement import (
    LivesFigures,
    document_findings,
    is_left,
    life_complaints,
    life_findings,
    lives_figures,
)
from tests.faults.silence import PROMISED
from tests.faults.subscribers import Place
from tests.faults.validators import (
    Failover,
    Findings,
    Folding,
    Log,
    Truth,
    bookmarked,
    feed_findings,
    feed_starts,
    missing,
    session_findings,
)

TENANT = "default"
RESUMED = ("kills", "redis", "restarts")
"""Faults after which every subscriber is to have its next event within 3 s (p99)."""
ENDING = ("kills", "drains", "failpoints", "proxy")
"""Faults that affect those whose streams they end."""
NOTICED = 15.0
"""Seconds after which the end of a stream has nothing to do with a fault any more."""


@dataclass(frozen=True, slots=True)
class Silence:
    """What a campaign of silence came to besides."""

    longest_outage: float
    """Seconds: see silence.longest_outage."""
    files: int
    files_lost: int
    longest: str
    """Whose it was, and when."""

    @property
    def sound(self) -> bool:
        return self.longest_outage <= PROMISED and not self.files_lost and self.files > 0

    def line(self) -> str:
        return f"longest_outage_s={self.longest_outage:.1f} files={self.files} files_lost={self.files_lost}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The figures. `sound`: everything that must be 0 is."""

    faults: int
    acked: int
    verdict: Verdict
    forfeited: int
    """Acknowledged writes that asynchronous failovers and restores took, as they must be expected to."""
    told: int
    """Number of times that a subscriber got POSITION_LOST."""
    delivered: int
    bookmarks: int
    streams: int
    findings: Findings
    folds_wrong: int
    resumes: Mapping[str, Sequence[float]]
    """Seconds, by kind of fault; one for each subscriber that it affected."""
    complaints: Sequence[str]
    """One for each subscriber who has any."""
    unforeseen: Sequence[str]
    """Errors that writers were given and no fault explains."""
    seconds: float
    silence: "Silence | None" = None
    """Of a campaign of silence."""
    lives: LivesFigures = field(default_factory=LivesFigures)
    """Of the sessions that came and went."""

    @property
    def sound(self) -> bool:
        zeros = self.verdict.sound and self.findings.sound and not self.folds_wrong and not self.unforeseen
        zeros = zeros and self.lives.sound
        endured = self.silence is None or self.silence.sound
        return zeros and endured and self.acked > 0 and self.delivered > 0

    def line(self) -> str:
        v, f = self.verdict, self.findings
        # A campaign without any of these tells of what it has.
        kinds = [kind for kind in RESUMED if kind in self.resumes] or self.resumes
        resumes = [seconds for kind in kinds for seconds in self.resumes[kind]]
        return (
            f"faults={self.faults} acked={self.acked} lost={v.lost} doubled={v.doubled} "
            f"gaps={v.gaps + v.invented + self.folds_wrong} delivered={self.delivered} "
            f"ev_lost={f.lost + f.unfounded + f.restarted + f.false_bookmarks} ev_duplicated={f.duplicated} "
            f"ev_reordered={f.reordered} silent_divergence={f.diverged} {self.lives.line()} "
            f"resume_p99_s={p99(resumes):.2f} "
            f"{self.silence.line() + ' ' if self.silence else ''}seconds={self.seconds:.0f}"
        )

    def details(self) -> Sequence[str]:
        """What the line leaves out."""
        lines = [
            f"{self.streams} streams, {self.bookmarks} bookmarks; failovers and restores took {self.forfeited} "
            f"acknowledged writes, {self.told} subscribers were told"
        ]
        lines += [
            f"next event after {kind}: p50 {statistics.median(took):.2f} s, p99 {p99(took):.2f} s, "
            f"longest {max(took):.2f} s, {len(took)} times"
            for kind, took in sorted(self.resumes.items())
            if took
        ]
        if self.silence is not None:
            lines.append(f"the longest outage: {self.silence.longest}")
        broken = {**vars(self.verdict), **vars(self.findings), "folds_wrong": self.folds_wrong}
        if any(broken.values()):
            lines.append("broken: " + ", ".join(f"{name} {count}" for name, count in broken.items() if count))
        if self.unforeseen:
            lines.append(
                f"{len(self.unforeseen)} errors that no fault explains: {', '.join(sorted(set(self.unforeseen)))}"
            )
        return [*lines, *self.complaints]


def p99(values: Sequence[float]) -> float:
    return sorted(values)[len(values) * 99 // 100] if values else math.nan


@dataclass
class Heard:
    """One subscriber's history, in short."""

    findings: Findings
    delivered: int = 0
    bookmarks: int = 0
    streams: int = 0
    told: int = 0
    moments: list[float] = field(default_factory=list)
    """When each event arrived, ascending."""
    written: list[float] = field(default_factory=list)
    """When its writer had begun to write it; 0: unknown."""
    ends: list[float] = field(default_factory=list)
    """When streams ended."""


async def judged(
    client: sessiond.Client,
    postgres_dsn: str,
    ledger: Ledger,
    histories: Mapping[Place, Path],
    failovers: Sequence[Failover],
    *,
    lives: Sequence[Life],
    quiet: Iterable[str],
    times: Sequence[tuple[str, float]],
    faults: int,
    unforeseen: Sequence[str],
    seconds: Callable[[], float],
    beside: Sequence[str] = (),
    silence: Silence | None = None,
) -> Judgement:
    """`quiet`: sessions that are written to too rarely to tell how long a resumption took. `times`: (kind, when) of the
    faults. `beside`: sessions that were written to besides, which feeds have too."""
    snapshots = _snapshots(histories)
    found = [await _log(client, postgres_dsn, one, snapshots.get(one, {})) for one in ledger.attempted]
    stay = {one.session_id: one.log for one in found}
    logs = {**stay, **await _logs_of(postgres_dsn, [*(life.session_id for life in lives), *beside])}
    truth = Truth(logs, failovers)
    forfeited = [ack for ack in ledger.acks if not _kept(truth, ack) and truth.excuses(ack)]
    kept = ledger.without(forfeited)
    verdict = Verdict()
    for one in found:
        verdict += judge(kept, one.session_id, one.row.version, one.messages, one.events)
    owed = sorted(kept.acks + [ack for life in lives for ack in life.acks if is_left(truth, ack)])
    writes = {(ack.session_id, ack.seq): ack.began for ack in kept.acks}
    acks: dict[str, list[Ack]] = {}
    for ack in kept.acks:
        acks.setdefault(ack.session_id, []).append(ack)
    total, complaints, resumes = Heard(Findings()), [], dict[str, list[float]]()
    for place, path in histories.items():
        if place.session_id:
            heard = _heard(place, path, truth, acks.get(place.session_id, ()), writes)
        else:
            selected = {one: logs[one] for one in place.only or logs}
            due = [ack for ack in owed if ack.session_id in selected]
            heard = _heard(place, path, Truth(selected, failovers), due, writes)
        if not heard.findings.sound:
            broken = {name: count for name, count in vars(heard.findings).items() if count}
            kind = f"{'library' if place.library else 'raw'}, {place.session_id or 'feed'}"
            never = _never(place, path, truth, owed)
            complaints.append(f"{place.name} ({kind}): {broken}{never}{_falsely_marked(place, path, acks, owed)}")
        total.findings += heard.findings
        for name in ("delivered", "bookmarks", "streams", "told"):
            setattr(total, name, getattr(total, name) + getattr(heard, name))
        if place.session_id not in quiet and not place.absent:
            for (kind, moment), (_, following) in pairwise([*times, ("", math.inf)]):
                took = resumed(kind, moment, min(following, moment + NOTICED), heard)
                if took is not None:
                    resumes.setdefault(kind, []).append(took)
    for life in lives:
        findings, lost = life_findings(life, truth)
        total.findings += findings
        verdict.lost += lost
        if lost or not findings.sound:
            broken = {name: count for name, count in vars(findings).items() if count}
            name = f"{life.session_id}, {life.generation}"
            complaints.append(f"{name}: {broken}, {lost} acknowledged writes lost, overdue: {life.overdue}")
        complaints += life_complaints(life, truth)
    if not failovers:
        doubled, lost = document_findings(lives)
        verdict.doubled += doubled
        verdict.lost += lost
        if doubled or lost:
            complaints.append(f"documents: {doubled} puts happened twice, {lost} acknowledged puts lost")
    return Judgement(
        faults=faults, acked=ledger.count + sum(len(life.acks) for life in lives), verdict=verdict,
        forfeited=len(forfeited), told=total.told,
        delivered=total.delivered, bookmarks=total.bookmarks, streams=total.streams, findings=total.findings,
        folds_wrong=sum(one.folds_wrong for one in found), resumes=resumes, complaints=complaints,
        unforeseen=unforeseen, seconds=seconds(), silence=silence, lives=lives_figures(lives, truth),
    )  # fmt: skip


def _never(place: Place, path: Path, truth: Truth, acks: Sequence[Ack]) -> str:
    """The first events that a feed's subscriber never got, and when they were written."""
    if place.session_id:
        return ""
    times = {(ack.session_id, ack.seq): (ack.began, ack.at) for ack in acks}
    return "".join(
        f"; never {session_id} {seq}, written {times.get((session_id, seq))}, from {segment.first and segment.first.at}"
        for segment in segments(read(path))
        for session_id, seq in missing(segment, truth, feed_starts(segment, truth, acks))[:5]
    )


def _falsely_marked(place: Place, path: Path, acks: Mapping[str, Sequence[Ack]], owed: Sequence[Ack]) -> str:
    """The first bookmarks that a subscriber should not have got."""
    session_id = place.session_id or None
    due = (
        acks.get(session_id, ())
        if session_id
        else [ack for ack in owed if not place.only or ack.session_id in place.only]
    )
    return "".join(f"; {text}" for segment in segments(read(path)) for text in bookmarked(segment, due, session_id)[:3])


async def _logs_of(postgres_dsn: str, session_ids: Sequence[str]) -> dict[str, Log]:
    """What is left of sessions, such as came and went, by id. Each of 1 000 events at most."""
    logs: dict[str, Log] = {}
    async with PostgresStore(postgres_dsn) as store:
        for session_id in session_ids:
            with suppress(SessionNotFound):
                page = await store.read_log((TENANT, session_id), after_seq=0, limit=1000)
                events = [got(0.0, Event.FromString(entry.data)) for entry in page.entries]
                removed = page.head.version - len(events)
                logs[session_id] = Log(
                    [b""] * removed + [event.event_id for event in events],
                    [0] * page.head.version,
                    [0] * removed + [event.text for event in events],
                )
    return logs


@dataclass(frozen=True, slots=True)
class _Found:
    """One session in the end."""

    session_id: str
    row: Session
    log: Log
    messages: Sequence[sessiond.Message]
    events: Sequence[Event]
    folds_wrong: int


async def _log(
    client: sessiond.Client, postgres_dsn: str, session_id: str, snapshots: Mapping[int, Sequence[Session]]
) -> _Found:
    row = await client.get_session(session_id, consistency="strong", timeout=60.0)
    messages = [m async for m in client.list_messages(session_id, page_size=1000, consistency="strong", timeout=60.0)]
    events: list[Event] = []
    folding = Folding(snapshots)
    async with PostgresStore(postgres_dsn) as store:
        while page := (await store.read_log((TENANT, session_id), after_seq=len(events), limit=1000)).entries:
            for entry in page:
                event = Event.FromString(entry.data)
                folding.add(event)
                events.append(event)
    connection = await asyncpg.connect(postgres_dsn)
    try:
        xids = await connection.fetch(
            "SELECT commit_xid::text::bigint FROM events WHERE session_id = $1 ORDER BY seq", session_id
        )
    finally:
        await connection.close()
    records = [got(0.0, event) for event in events]
    log = Log([record.event_id for record in records], [xid for (xid,) in xids], [record.text for record in records])
    return _Found(session_id, row, log, messages, events, folding.end(row))


def _snapshots(histories: Mapping[Place, Path]) -> dict[str, dict[int, list[Session]]]:
    """Whatever sessions watchers were shown, by session and version."""
    found: dict[str, dict[int, list[Session]]] = {}
    for place, path in histories.items():
        for record in read(path):
            if isinstance(record, Opened) and record.snapshot:
                session = Session.FromString(record.snapshot)
                found.setdefault(place.session_id, {}).setdefault(session.version, []).append(session)
    return found


def _kept(truth: Truth, ack: Ack) -> bool:
    log = truth.logs[ack.session_id]
    return ack.seq <= len(log.texts) and log.texts[ack.seq - 1] == ack.crc


def _heard(
    place: Place, path: Path, truth: Truth, acks: Sequence[Ack], writes: Mapping[tuple[str, int], float]
) -> Heard:
    history = list(segments(read(path)))
    if place.session_id:
        heard = Heard(session_findings(history, place.session_id, truth, acks))
    else:
        heard = Heard(feed_findings(history, truth, acks))
    for segment in history:
        kinds = Counter(type(record).__name__ for record in segment.records)
        heard.delivered += kinds["Got"]
        heard.bookmarks += kinds["Marked"]
        heard.streams += kinds["Opened"]
        heard.told += segment.lost is not None
        for event in segment.events:
            heard.moments.append(event.at)
            heard.written.append(writes.get((event.session_id, event.seq), 0.0))
        heard.ends += [record.at for record in segment.records if isinstance(record, Closed)]
    return heard


def resumed(kind: str, fault: float, until: float, heard: Heard) -> float | None:
    """Seconds from the fault to the arrival of an event that was written after it.

    None when the fault did not affect the subscriber: had no stream of it end before `until`, where faults end streams.
    """
    since = fault
    if kind in ENDING:
        place = bisect_right(heard.ends, fault)
        if place == len(heard.ends) or heard.ends[place] > until:
            return None
        since = heard.ends[place] - 1e-9
    for place in range(bisect_right(heard.moments, since), len(heard.moments)):
        if heard.written[place] > fault:
            return heard.moments[place] - fault
    return None
