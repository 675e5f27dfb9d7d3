"""Summaries through both clients."""

import sessiond
from sessiond.v1.session_pb2 import TokenUsage

BOTH_CLIENTS = True


async def test_summaries_are_written_and_listed(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    said = await sessions.append_messages(session_id, [sessiond.user("Hello."), sessiond.assistant("Hello!")])
    async with sessions.run(session_id) as run:
        first = await sessions.create_summary(
            session_id, "Greetings.", said.first_seq, model="m1", author="cron", usage=TokenUsage(input_tokens=9),
            token_count=2, run=run.fence, request_id="r",
        )  # fmt: skip
        again = await sessions.create_summary(
            session_id, "Greetings.", said.first_seq, model="m1", author="cron", usage=TokenUsage(input_tokens=9),
            token_count=2, run=run.fence, request_id="r",
        )  # fmt: skip
    assert again == first
    assert (first.through_seq, first.model, first.author, first.run_id) == (said.first_seq, "m1", "cron", run.run_id)
    second = await sessions.create_summary(session_id, "More greetings.", said.version)
    assert [each async for each in sessions.list_summaries(session_id, page_size=1)] == [second, first]
    session = await sessions.get_session(session_id)
    assert (session.summary_seq, session.message_count, session.usage.total_tokens) == (second.seq, 2, 9)
