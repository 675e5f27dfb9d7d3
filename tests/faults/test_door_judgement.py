"""The judgement of what readers by HTTP were given: silent on what is right, loud on every kind of damage."""

from dataclasses import asdict
from typing import Any

from tests.faults.door_judgement import Logged, Told, Verdict, judge_runs, judge_session
from tests.support.rows import table

LOG = [Logged("e1", "", ""), Logged("e2", "m1", "é 日本"), Logged("e3", "m2", "two"), Logged("e4", "", "")]
TOLD = [Told("s", "r1", ["é 日本", "two"], [["c", "look", {"q": 1}, {"output": "x"}]], "completed")]
LEFT = {"left": True, "broken": 2, "why": None}


def event(number: int, **changed: Any) -> dict[str, Any]:
    logged = LOG[number - 1]
    return {"event_id": logged.event_id, "message_id": logged.message_id, "text": logged.text, **changed}


def piece(offset: int, text: str) -> dict[str, Any]:
    return {"message_id": "m1", "offset": offset, "piece": text}


def damage(verdict: Verdict) -> dict[str, int]:
    assert verdict.sound is not bool(verdict.complaints)
    return {name: value for name, value in asdict(verdict).items() if name != "complaints" and value}


def test_readers_of_sessions() -> None:
    one, two, three, four = (event(number) for number in range(1, 5))
    with table() as rows:
        for name, lines, expected in (
            ("all of it", [one, two, three, four, LEFT], {}),
            ("drafts", [one, piece(0, "é "), piece(3, "日"), piece(0, "é 日"), two, three, four, LEFT], {}),
            ("a gap", [one, three, four, LEFT], {"lost": 1}),
            ("nothing", [LEFT], {"lost": 4}),
            ("again", [one, two, two, three, one, four, LEFT], {"doubled": 2}),
            ("out of order", [one, three, two, four, LEFT], {"reordered": 1}),
            ("invented", [one, event(1, event_id="e9"), two, three, four, LEFT], {"reordered": 1}),
            ("another text", [one, event(2, text="e"), three, four, LEFT], {"text_wrong": 1}),
            ("another draft", [one, piece(0, "e "), piece(2, "日"), two, three, four, LEFT], {"draft_wrong": 2}),
            ("a draft behind its message", [one, two, piece(0, "é "), three, four, LEFT], {"draft_wrong": 1}),
            ("no end", [one, two, three, four], {"gave_up": 1}),
            ("gave up", [one, two, three, four, {**LEFT, "why": "503"}], {"gave_up": 1}),
        ):
            with rows.row(name):
                verdict = Verdict()
                judge_session(verdict, name, LOG, lines)
                assert damage(verdict) == expected


def test_readers_of_runs() -> None:
    shown = {"session": "s", "run": "r1", "broken": 1, "ending": "completed"}
    shown |= {"texts": list(TOLD[0].texts), "calls": list(TOLD[0].calls)}
    with table() as rows:
        for name, lines, expected in (
            ("right", [shown], {}),
            ("not there", [{**shown, "run": "r2"}], {"runs_lost": 1}),
            ("a text lacks", [{**shown, "texts": ["é 日本"]}], {"runs_wrong": 1}),
            ("a text twice", [{**shown, "texts": ["é 日本", "two", "two"]}], {"runs_wrong": 1}),
            ("a call twice", [{**shown, "calls": [*TOLD[0].calls, *TOLD[0].calls]}], {"runs_wrong": 1}),
            ("no result", [{**shown, "calls": [["c", "look", {"q": 1}, None]]}], {"runs_wrong": 1}),
            ("another ending", [{**shown, "ending": "cancelled"}], {"runs_wrong": 1}),
        ):
            with rows.row(name):
                verdict = Verdict()
                judge_runs(verdict, name, TOLD, lines)
                assert damage(verdict) == expected
