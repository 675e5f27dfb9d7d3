"""What became of the sessions that came and went: what their watchers, readers and late joiners have to complain of."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.history import Got, Lost, segments
from tests.faults.ledger import Ack
from tests.faults.lives import Life
from tests.faults.validators import Findings, Log, Truth, session_findings


@dataclass(frozen=True, slots=True)
class LivesFigures:
    """`sound`: everything that must be 0 is."""

    lives: int = 0
    reused: int = 0
    """Of them took the id of a deleted one."""
    reads: int = 0
    """Of whole sessions, half from the database and half through the cache."""
    state_wrong: int = 0
    """Reads and folds whose state, version or beginning is not what was acknowledged."""
    mistaken: int = 0
    """Events of another session with the id that a watcher got, versions that did not go on behind a deletion, and
    watchers who were refused without need."""
    drafts: int = 0
    shown: int = 0
    """Of them were shown to one who joined in the middle, at least in part or as interrupted. Faults may lose them."""
    draft_wrong: int = 0
    """Pieces of another draft, or after the message was there."""
    draft_blocked: int = 0
    """Late joiners who did not get what was stored."""

    @property
    def sound(self) -> bool:
        return not (self.state_wrong or self.mistaken or self.draft_wrong or self.draft_blocked)

    def line(self) -> str:
        return (
            f"lives={self.lives} reused={self.reused} reads={self.reads} state_wrong={self.state_wrong} "
            f"mistaken={self.mistaken} drafts={self.drafts} drafts_shown={self.shown} draft_wrong={self.draft_wrong} "
            f"draft_blocked={self.draft_blocked}"
        )


def lives_figures(lives: Sequence[Life], truth: Truth) -> LivesFigures:
    judged = [life for life in lives if not touched(life, truth)]
    joiners = [joiner for life in lives for joiner in life.joiners]
    of_judged = [joiner for life in judged for joiner in life.joiners]
    return LivesFigures(
        lives=len(lives),
        reused=sum(life.before is not None and bool(life.acks) for life in lives),
        reads=sum(life.reads for life in lives),
        state_wrong=sum(life.misread + life.folded_wrongly for life in judged),
        mistaken=sum(mistaken(life) for life in judged),
        drafts=len(joiners),
        shown=sum(joiner.shown for joiner in joiners),
        draft_wrong=sum(joiner.wrong for joiner in of_judged),
        draft_blocked=sum(joiner.blocked for joiner in of_judged),
    )


def life_complaints(life: Life, truth: Truth) -> Sequence[str]:
    """What is wrong with a session besides its log."""
    figures = lives_figures([life], truth)
    if figures.sound:
        return []
    seen = [record.seq for record in life.records if isinstance(record, Got)]
    told = f"acked {[ack.seq for ack in life.acks]} after {life.base}, delivered {seen}, compacted: {life.compacted}"
    return [f"{life.session_id}, {life.generation}: {figures.line()}", f"{life.session_id}: {told}"]


def touched(life: Life, truth: Truth) -> bool:
    """Whether a failover that loses took something of it, or of those that had its id before."""
    one: Life | None = life
    while one is not None:
        if any(truth.excuses(ack) for ack in one.acks):
            return True
        one = one.before
    return False


def mistaken(life: Life) -> int:
    """How often one session was taken for another one with its id."""
    last = life.deleted.seq if life.deleted is not None else 2**63
    strange = sum(not life.base < record.seq <= last for record in life.records if isinstance(record, Got))
    begun = bool(life.acks) and life.acks[0].seq != life.base + 1
    return strange + begun + (life.compacted and not life.followed and not came_too_late(life))


def came_too_late(life: Life) -> bool:
    """Whether its watcher had got no event when the session was deleted, and was told that they are gone, as
    FEED_START_BEGINNING says: a fault had kept it from beginning earlier."""
    if not life.compacted or life.deleted is None or any(isinstance(record, Got) for record in life.records):
        return False
    return life.records[-1].at >= life.deleted.began


def life_findings(life: Life, truth: Truth) -> tuple[Findings, int]:
    """(what its watcher has to complain of, acknowledged writes that are lost)."""
    log = truth.logs.get(life.session_id)
    lost = sum(not is_left(truth, ack) and not truth.excuses(ack) for ack in life.acks)
    if life.deleted is not None and not truth.excuses(life.deleted):
        lost += log is None or not log.removed(life.base + 1)
    if life.lost:
        # Its watcher was not waited for. Only a failover explains it.
        return Findings(), lost + (not touched(life, truth))
    if came_too_late(life):
        return Findings(), lost
    if life.followed and life.deleted is not None:
        if touched(life, truth):
            return Findings(), lost
        # What the log has now is of the next one.
        gone = life.deleted.seq
        truth = Truth({life.session_id: Log([b""] * gone, [0] * gone, [0] * gone)}, truth.failovers)
    acks = [ack for ack in life.acks if is_left(truth, ack)]
    left = life.records[-1].at if life.records else 0.0
    if any(
        f.ended > left and any(not truth.has(r) for r in life.records if isinstance(r, Got)) for f in truth.failovers
    ):
        # A failover lost events that it had received, and it had left by then, so no server could report the loss.
        life.records.append(Lost(left, ""))
    found = session_findings(segments(life.records), life.session_id, truth, acks) if life.records else Findings()
    found.lost += life.overdue
    return found, lost


def is_left(truth: Truth, ack: Ack) -> bool:
    """Whether the database has it, or its session was deleted after it."""
    log = truth.logs.get(ack.session_id)
    return log is not None and ack.seq <= len(log.event_ids)


def document_findings(lives: Sequence[Life]) -> tuple[int, int]:
    """(puts that happened twice, acknowledged puts that are lost), by the versions that the acknowledgements named.

    Each append put the document of its session once: its n-th put made version n, counted on from the session that had
    the id before. The document that all share got another version with each put. Not for campaigns whose failovers take
    acknowledged writes.
    """
    doubled = lost = 0
    for life in lives:
        for number, (version, _) in enumerate(life.documents, 1 + _puts_before(life)):
            doubled += version > number
            lost += version < number
    shared = [version for life in lives for _, version in life.documents]
    return doubled, lost + len(shared) - len(set(shared))


def _puts_before(life: Life) -> int:
    return 0 if life.before is None else len(life.before.documents) + _puts_before(life.before)
