# ruff: noqa: RUF001 (sentences in other scripts)
"""What a summary covers, and what an extractive one says: pure rules."""

from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond_server.domain.context.conversation import Shape, said
from sessiond_server.summaries.coverage import Bounds, Covered, covered
from sessiond_server.summaries.extractive import CHARACTERS, summary
from sessiond_server.summaries.queue import When
from sessiond_server.summaries.transcript import NOTHING, line_of
from tests.support.rows import table

ROLES = {"u": Role.ROLE_USER, "a": Role.ROLE_ASSISTANT, "t": Role.ROLE_TOOL}


def messages(roles: str, tokens: int = 10) -> list[Message]:
    return [Message(role=ROLES[role], token_count=tokens, seq=2 + place) for place, role in enumerate(roles)]


def test_summary_covers_whole_turns_within_its_bounds() -> None:
    """(roles, keep, most tokens, how: more, asked, ended) -> (covered, more)."""
    with table() as rows:
        for roles, keep, tokens, how, expected in (
            ("uaua", 0, 999, "", (0, False)),  # not due: fewer than five
            ("uauau", 0, 999, "", (5, False)),
            ("uaua", 0, 999, "asked", (4, False)),
            ("uaua", 0, 999, "more", (4, True)),
            ("uaua", 2, 999, "ended", (4, False)),
            ("", 0, 999, "ended", (0, False)),
            ("uauaua", 3, 999, "", (2, False)),  # what stays begins with a user's message
            ("uatatata", 3, 999, "", (5, False)),  # there is none: no result leaves its call
            ("uatttttt", 3, 999, "asked", (1, False)),
            ("uauaua", 9, 999, "", (0, False)),
            ("uauaua", 0, 30, "", (3, True)),
            ("uauaua", 0, 5, "", (1, True)),  # a message that is too long by itself
            ("uattau", 0, 30, "asked", (1, True)),
            ("attttt", 0, 30, "asked", (6, False)),  # results that alone exceed the bound go with their call
        ):
            with rows.row(roles, keep, tokens, how):
                conversation = [said(message, Shape()) for message in messages(roles)]
                flags = {name: name == how for name in ("more", "asked", "ended")}
                found = covered(conversation, When(5, 0, True), Bounds(keep, tokens), **flags)
                assert found == Covered(*expected)


def test_extractive_summary_has_what_a_conversation_is_about_in_every_script() -> None:
    chats = {
        "train": "The train to Nara leaves at nine. Lunch was fine. Is the train to Nara late? The weather is mild.",
        "奈良": "奈良への列車は九時に出ます。昼食は良かった。奈良への列車は遅れますか？天気は穏やかです。",
        "القطار": "القطار إلى نارا يغادر في التاسعة. كان الغداء جيدا. هل القطار إلى نارا متأخر؟ الطقس معتدل.",
        "поезд": "Утренний поезд в Нару уходит в девять. Обед был хорош. Опоздает ли поезд в Нару? Погода мягкая.",
        "रेलगाड़ी": "नारा की रेलगाड़ी नौ बजे जाती है। खाना अच्छा था। क्या नारा की रेलगाड़ी देर से है? मौसम सुहाना है।",
    }
    with table() as rows:
        for word, text in chats.items():
            with rows.row(word):
                talk = [Message(role=Role.ROLE_USER, parts=[Part(text=text)])]
                made = summary("", talk)
                assert made == summary("", talk)
                assert len(made.splitlines()) == 4, "sentences, a line each"
                assert all(line.startswith("user: ") for line in made.splitlines())
                long = summary(
                    "",
                    [*talk, *(Message(role=Role.ROLE_ASSISTANT, parts=[Part(text=f"{n} " * 90)]) for n in range(50))],
                )
                assert len(long) <= CHARACTERS
                assert summary(made, []) == made, "the summary before counts as sentences"


def test_extractive_summary_is_bounded_and_never_empty() -> None:
    with table() as rows:
        for name, text in (
            ("nothing", ""),
            ("spaces", " \n\t "),
            ("symbols", "... !!! ???"),
            ("one long word", "x" * 1_000_000),
            ("many sentences", "word one two. " * 70_000),
            ("emoji", "\U0001f684" * 100_000),
            ("marks", "a" + "\u0301" * 200_000),
            ("lines", "\n" * 200_000),
        ):
            with rows.row(name):
                made = summary("", [Message(role=Role.ROLE_USER, parts=[Part(text=text)])] * 20)
                assert 0 < len(made) <= CHARACTERS
                assert name not in ("nothing", "spaces", "symbols") or made == NOTHING


def test_transcript_has_calls_and_results_and_cuts_what_is_long() -> None:
    call = Message(role=Role.ROLE_ASSISTANT, parts=[Part(text="I look."), Part(thinking="secretly")])
    call.parts.add().tool_call.name = "find"
    call.parts[2].tool_call.arguments_json = '{"city":"奈良"}'
    result = Message(role=Role.ROLE_TOOL)
    result.parts.add().tool_result.data.update({"seat": "7A"})
    assert line_of(call, 100) == 'assistant: I look.\n[calls find {"city":"奈良"}]'
    assert line_of(result, 100) == 'tool: [result: {"seat": "7A"}]'
    assert line_of(Message(role=Role.ROLE_USER), 100) == ""
    long = line_of(Message(role=Role.ROLE_USER, parts=[Part(text="begin " + "word " * 10_000 + "end")]), 100)
    assert long.startswith("user: begin")
    assert long.endswith("end")
    assert len(long) < 1000
