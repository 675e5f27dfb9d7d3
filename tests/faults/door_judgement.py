"""What readers by HTTP were given, against the log and what the writers were told (docs/reliability.md, KIND=door).

Pure functions over records.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Line = Mapping[str, Any]
"""What a reader printed; see tests/faults/node."""


@dataclass(frozen=True, slots=True)
class Logged:
    """An event, as the log has it."""

    event_id: str
    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """A run that has ended, as its writer was acknowledged it."""

    session_id: str
    run_id: str
    texts: Sequence[str]
    calls: Sequence[Sequence[Any]]
    """Of each: id, name, arguments, what came of it."""
    ending: str
    """completed, cancelled, or the error it failed with."""


@dataclass(slots=True)
class Verdict:
    lost: int = 0
    """Events that a reader of a session was not given."""
    doubled: int = 0
    """Those that it was given again."""
    reordered: int = 0
    """Those that it was given before an earlier one, or that are in no log."""
    text_wrong: int = 0
    """Messages with another text than the log's."""
    draft_wrong: int = 0
    """Pieces of a draft that are not of its message, or came behind it."""
    runs_lost: int = 0
    """Runs whose end a reader of runs was not shown."""
    runs_wrong: int = 0
    """Runs that it was shown with other texts, calls or another ending."""
    gave_up: int = 0
    """Readers that did not come to the end of their session."""
    complaints: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.complaints


def judge_session(verdict: Verdict, name: str, log: Sequence[Logged], lines: Sequence[Line]) -> None:
    """One reader of one session."""
    places = {event.event_id: place for place, event in enumerate(log)}
    final = {event.message_id: event.text for event in log if event.message_id}
    stored: set[str] = set()
    counts: Counter[str] = Counter()
    reordered = text_wrong = draft_wrong = last = 0
    left: Line | None = None
    for line in lines:
        message_id = line.get("message_id", "")
        if "piece" in line:
            whole = final.get(message_id, "").encode()
            piece, offset = line["piece"].encode(), line["offset"]
            draft_wrong += message_id in stored or whole[offset : offset + len(piece)] != piece
        elif "event_id" in line:
            place = places.get(line["event_id"])
            counts[line["event_id"]] += 1
            if place is None or (counts[line["event_id"]] == 1 and place < last):
                reordered += 1
                continue
            last = max(last, place)
            text_wrong += line["text"] != log[place].text
            stored.add(message_id)
        elif "left" in line:
            left = line
    found = {
        "lost": sum(event_id not in counts for event_id in places),
        "doubled": sum(count - 1 for count in counts.values()),
        "reordered": reordered,
        "text_wrong": text_wrong,
        "draft_wrong": draft_wrong,
        "gave_up": int(left is None or left["why"] is not None),
    }
    for figure, count in found.items():
        setattr(verdict, figure, getattr(verdict, figure) + count)
    if any(found.values()):
        verdict.complaints.append(f"{name}: {found}, left: {left}")


def judge_runs(verdict: Verdict, name: str, told: Sequence[Told], lines: Sequence[Line]) -> None:
    """One reader of runs."""
    shown = {(line["session"], line["run"]): line for line in lines}
    for run in told:
        line = shown.get((run.session_id, run.run_id))
        if line is None:
            verdict.runs_lost += 1
            verdict.complaints.append(f"{name}: the end of {run.session_id}/{run.run_id} was not shown")
            continue
        wrong = [
            f"{what} {line[what]!r} instead of {expected!r}"
            for what, expected in (("texts", list(run.texts)), ("calls", list(run.calls)), ("ending", run.ending))
            if line[what] != expected
        ]
        if wrong:
            verdict.runs_wrong += 1
            verdict.complaints.append(f"{name}: {run.session_id}/{run.run_id}: {'; '.join(wrong)}")
