"""The campaign of the event stream: everything is hurt under writes and subscribers, and every history is judged.

G1, G2, G4 and G7 to G10: nothing acknowledged is lost, and every subscriber has been given everything, once, in order,
or been told what was lost.
"""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg

import sessiond
from sessiond.pipes import PipeUse
from tests.faults.audience import Audience, seats
from tests.faults.files_load import FilesLoad
from tests.faults.history import End
from tests.faults.judgement import Judgement, Silence, judged
from tests.faults.ledger import Ledger
from tests.faults.lives import Life, Lives
from tests.faults.load import Load
from tests.faults.schedule import ALONE, Fault, Mix, schedule
from tests.faults.silence import LONGEST, Silences, Wait, longest_outage, possible
from tests.faults.site import Site
from tests.faults.validators import Failover
from tests.support.piped import calls_through_pipes

BOOKMARKS = 1.0
"""Seconds between the bookmarks of an idle stream."""
AGE = 30.0
"""Seconds after which a stream is sent away."""
SILENCE = 3.0
"""Seconds without a frame after which a subscriber looks for another replica."""
STARTING = 300.0
"""Seconds that the replicas may take to be up: the machine may be busy."""
STANDSTILL = 60.0
"""Seconds without an acknowledged write after which the campaign gives up."""
PATIENCE = 30.0
"""Seconds that subscribers have in the end to receive the rest."""


KEEPALIVE = sessiond.Keepalive(interval=10.0, timeout=3.0)
"""How soon the writers' client gives up a connection that is silent."""
FILE_SESSIONS = FILE_WORKERS = 4
"""In a campaign of silence: whose files are uploaded, and by how many."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much goes on meanwhile."""

    sessions: int = 20
    quiet: int = 2
    """Of the sessions: written to every other second, so that their watchers get bookmarks."""
    hot_share: float = 0.3
    """Of the writes, to the first session."""
    hot_watchers: int = 12
    watchers: int = 48
    """Of the other sessions."""
    lives: int = 4
    """Sessions that come and go at a time, besides."""
    workers: int = 64
    pause: tuple[float, float] = (1.0, 3.0)
    """Seconds between two faults."""


@dataclass(frozen=True, slots=True)
class Done:
    """A fault, and when."""

    fault: Fault
    at: float


async def campaign(
    folder: Path,
    log: Path,
    *,
    mix: Mix,
    seed: int,
    rate: float,
    progress: Callable[[str], None],
    scale: Scale | None = None,
    longest: float = LONGEST,
    pipe: PipeUse = "off",
    workers: int = 1,
) -> Judgement:
    """Does the faults of `mix` in the order of `seed`, with `rate` appends a second. Main thread only. `longest`:
    seconds that a silence lasts at most. With several `workers`, half of the kills are of one of a replica's."""
    scale = scale or Scale()
    began = time.monotonic()
    settings = {"SESSIOND_BOOKMARK_INTERVAL": f"{BOOKMARKS:g}s", "SESSIOND_WATCH_AGE": f"{AGE:g}s"}
    progress("starting a Postgres primary and its standby, Valkey, three replicas")
    async with (
        Site(
            folder,
            log,
            settings,
            random.Random(seed),
            storage=mix.silences > 0,
            restored=mix.restores > 0,
            workers=workers,
        ) as site,
        sessiond.Client(
            f"ipv4:{','.join(site.addresses)}", timeout=5.0, wait_for_ready=True, keepalive=KEEPALIVE, pipe=pipe
        ) as client,
    ):
        sessions = [await _new_session(client) for _ in range(scale.sessions)]
        beside = [await _new_session(client) for _ in range(FILE_SESSIONS if mix.silences else 0)]
        places = seats(sessions, scale.hot_watchers, scale.watchers)
        histories = folder / "histories"
        histories.mkdir()
        async with Audience(histories, site.addresses, places, SILENCE) as audience:
            progress(f"{len(places)} subscribers of {scale.sessions} sessions; writing {rate:g} messages a second")
            run = _Run(site, client, sessions, rate, scale, seed, beside, longest, workers)
            await run.all(
                schedule(mix, seed, longest), lambda text: progress(f"{text}, {audience.delivered} delivered")
            )
            ends = await _ends(client, [*sessions, *beside])
            progress("the writers have stopped; waiting for the subscribers to have everything")
            await audience.finish(ends, PATIENCE)
            if audience.late:
                progress(f"late: {', '.join(audience.late)}")
        if pipe == "on":
            progress(f"{calls_through_pipes(client)} calls were answered through pipes")
            assert calls_through_pipes(client)
        progress("comparing logs, acknowledgements and histories")
        await run.rebuilt()
        return await judged(
            client, site.pair.dsn(), run.ledger, {place: histories / place.name for place in places}, run.failovers,
            lives=run.lives, quiet=run.quiet, times=run.times(), faults=len(run.done), unforeseen=run.unforeseen(),
            seconds=lambda: time.monotonic() - began, beside=beside, silence=await run.silence(),
        )  # fmt: skip


class _Run:
    """Writers and faults."""

    def __init__(
        self,
        site: Site,
        client: sessiond.Client,
        sessions: Sequence[str],
        rate: float,
        scale: Scale,
        seed: int,
        beside: Sequence[str],
        longest: float,
        workers: int,
    ) -> None:
        self._workers = workers
        self.ledger = Ledger()
        self.done: list[Done] = []
        self.failovers: list[Failover] = []
        self.quiet = frozenset(sessions[len(sessions) - scale.quiet :])
        self._site = site
        self._client = client
        self._sessions = sessions
        self._chance = random.Random(seed + 1)
        self._pause = scale.pause
        self._moment = 0.0
        """When the fault that is under way struck."""
        busy = list(sessions[1 : len(sessions) - scale.quiet])
        # The hot session stands among the others as often as its share asks for.
        often = max(1, round(scale.hot_share * len(busy) / (1 - scale.hot_share)))
        turns = busy + [sessions[0]] * often
        random.Random(seed).shuffle(turns)
        self._load = Load(client, turns, rate=rate, workers=scale.workers, ledger=self.ledger, delete_every=7)
        quiet = sorted(self.quiet) or turns[:1]
        self._lives = Lives(client, workers=scale.lives, seed=seed, patience=STANDSTILL + longest)
        self._quiet_load = Load(client, quiet, rate=len(quiet) / 2, workers=1, ledger=self.ledger, name="quiet")
        self._files = FilesLoad(client, beside, workers=FILE_WORKERS if beside else 0, seed=seed)
        self._silences = Silences(site, sessions, random.Random(seed + 2), asyncio.get_running_loop().time)
        self._rebuilding: asyncio.Task[None] | None = None

    def times(self) -> Sequence[tuple[str, float]]:
        """(kind, when it began) of every fault; of one in which nothing could go on, when it could."""
        offset = time.time() - asyncio.get_running_loop().time()
        spans = sorted((span.began + offset, span.ended + offset) for span in self._silences.spans)
        return [(done.fault.kind, possible(done.at, spans)) for done in self.done]

    @property
    def lives(self) -> Sequence[Life]:
        return self._lives.lives

    def unforeseen(self) -> Sequence[str]:
        """See Load."""
        return self._load.unforeseen + self._quiet_load.unforeseen + self._files.unforeseen

    async def silence(self) -> Silence | None:
        """What came of silence, where there was any."""
        if not self._files.stored:
            return None
        waits = [Wait(*long) for load in (self._load, self._quiet_load) for long in load.long]
        spans = self._silences.spans
        longest = max(waits, key=lambda wait: longest_outage([wait], spans), default=None)
        return Silence(
            longest_outage(waits, spans),
            len(self._files.stored),
            await self._files.lost(),
            "none" if longest is None else self._story(longest),
        )

    def _story(self, wait: Wait) -> str:
        """What went on while a writer waited."""
        offset = time.time() - asyncio.get_running_loop().time()
        began, ended = wait.began + offset, wait.ended + offset
        faults = [
            f"{done.fault} from {done.at - began:+.1f} s on for {done.fault.seconds:.1f} s"
            for done in self.done
            if done.at < ended and done.at + done.fault.seconds > began
        ]
        return f"{wait.session_id}, {ended - began:.1f} s; {', '.join(faults)}"

    async def all(self, faults: Sequence[Fault], progress: Callable[[str], None]) -> None:
        """Returns when all faults are done and all writes that were begun are acknowledged."""
        began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = [
                    tasks.create_task(load.run()) for load in (self._load, self._quiet_load, self._lives, self._files)
                ]
                lasting: list[asyncio.Task[None]] = []
                for number, fault in enumerate(faults, start=1):
                    least, most = self._pause
                    await asyncio.sleep(least + fault.pause * (most - least))
                    if fault.kind in ALONE:
                        await self.rebuilt()
                    self._moment = time.time()
                    if fault.overlaps:
                        lasting.append(tasks.create_task(self._suffer(fault)))
                    else:
                        await self._suffer(fault)
                    self.done.append(Done(fault, self._moment))
                    await self._going_on(1)
                    seconds, calm = time.monotonic() - began, time.time() - self._moment
                    progress(
                        f"{seconds:6.1f} s: {number} of {len(faults)}: {fault}, written again after {calm:.1f} s, "
                        f"{self.ledger.count} acknowledged"
                    )
                await asyncio.gather(*lasting)
                await asyncio.sleep(self._pause[1])
                await self._going_on(1)
                self._load.stop()
                self._quiet_load.stop()
                self._lives.stop()
                self._files.stop()
                async with asyncio.timeout(STANDSTILL):
                    await asyncio.gather(*writing)
            await self._last_words()
        finally:
            if self._rebuilding is not None and not self._rebuilding.done():
                # The standby in the making is of no use any more, unless it must be waited for.
                with suppress(Exception):
                    await asyncio.wait([self._rebuilding], timeout=STANDSTILL)

    async def rebuilt(self) -> None:
        """Returns when the standby follows the primary."""
        if self._rebuilding is not None:
            await self._rebuilding
            self._rebuilding = None

    async def _suffer(self, fault: Fault) -> None:
        if fault.kind == "kills" and self._workers > 1 and self._chance.randrange(2):
            await self._site.kill_a_worker(int(fault.target))
        elif fault.kind == "kills":
            await self._site.kill(int(fault.target))
        elif fault.kind == "drains":
            await self._site.drain(int(fault.target))
        elif fault.kind == "failpoints":
            await self._site.kill(int(fault.target), fault.how)
            await asyncio.sleep(fault.seconds)
            await self._site.kill(int(fault.target))
        elif fault.kind == "redis":
            await self._site.hurt_redis(fault.how, fault.seconds)
        elif fault.kind == "restarts":
            await self._site.pair.restart(signal.SIGINT if fault.how == "fast" else signal.SIGQUIT)
        elif fault.kind == "silences":
            await self._silences.suffer(fault.how, fault.target, fault.seconds)
            if fault.how in ("lock", "hang"):
                self._moment = time.time()  # nothing could go on before
        elif fault.kind == "failovers":
            await self._fail_over(synchronous=fault.how == "synchronous")
        elif fault.kind == "restores":
            await self._restore(fault.how)
        else:
            await self._site.hurt_link(fault.target, fault.how, fault.seconds)

    async def _fail_over(self, *, synchronous: bool) -> None:
        survived: dict[str, int] = {}

        async def survey(connection: asyncpg.Connection) -> None:
            survived.update(await _versions_in(connection))

        began = time.time()

        async def meanwhile() -> None:
            await self._going_on(self._chance.randrange(10, 100))
            self._moment = time.time()

        await self._site.pair.fail_over(meanwhile, survey, synchronous=synchronous)
        if not synchronous:
            self.failovers.append(Failover(began, time.time(), survived))
        self._rebuilding = asyncio.create_task(self._site.pair.rebuild())

    async def _restore(self, how: str) -> None:
        survived: dict[str, int] = {}
        owed: Mapping[str, int] = {}
        ended = began = time.time()

        async def before() -> None:
            nonlocal owed
            if how == "log":
                await self._going_on(self._chance.randrange(10, 100))
                owed = self._acknowledged()

        async def behind() -> None:
            await self._going_on(self._chance.randrange(10, 100))

        async def survey(connection: asyncpg.Connection) -> None:
            nonlocal ended
            survived.update(await _versions_in(connection))
            ended = time.time()

        await self._site.pair.primary.age(0)
        owed = self._acknowledged()
        await self._site.restore(how, before, behind, survey)
        # What the backup had to have is not excused.
        least = {one: max(survived.get(one, 0), owed.get(one, 0)) for one in survived.keys() | owed.keys()}
        self.failovers.append(Failover(began, ended, least))
        self._rebuilding = asyncio.create_task(self._site.pair.rebuild())

    def _acknowledged(self) -> Mapping[str, int]:
        """The last version of each session that was acknowledged since the last restore."""
        since = max((failover.ended for failover in self.failovers), default=0.0)
        return dict(sorted((ack.session_id, ack.seq) for ack in self.ledger.acks if ack.began >= since))

    async def _going_on(self, more: int) -> None:
        async with asyncio.timeout(STANDSTILL):
            await self._load.acknowledged(more)

    async def _last_words(self) -> None:
        """One more write to every session, so that a feed which begins late has something of each."""
        for number, session_id in enumerate(self._sessions):
            await self._load.append(session_id, f"last words, {number}")


async def _new_session(client: sessiond.Client) -> str:
    """Its id. Waits for the replicas to be up."""
    request_id = sessiond.new_request_id()
    async with asyncio.timeout(STARTING):
        while True:
            with suppress(sessiond.Unavailable, sessiond.DeadlinePassed):
                return (await client.create_session(active=True, request_id=request_id)).session_id
            await asyncio.sleep(0.1)


async def _versions_in(connection: asyncpg.Connection) -> Mapping[str, int]:
    return dict(await connection.fetch("SELECT session_id, version FROM session_heads"))


async def _ends(client: sessiond.Client, sessions: Sequence[str]) -> Mapping[str, End]:
    found = {}
    for one in sessions:
        session = await client.get_session(one, consistency="strong", timeout=60.0)
        found[one] = (session.version, session.last_event_id)
    return found
