"""What a framework finds in a long session, on Postgres, in one call."""

import pytest

import sessiond
from tests.support.client_service import serving

LENGTH = 100_000
FOUND = 20


@pytest.mark.long
async def test_messages_with_a_label_are_found_among_100_000_in_one_call(postgres_dsn: str) -> None:
    async with (
        serving({"store": "postgres", "postgres_dsn": postgres_dsn}) as service,
        sessiond.Client(service.target) as client,
    ):
        session_id = (await client.create_session(active=True)).session_id
        plain = [sessiond.user("plain") for _ in range(250)]
        spread = LENGTH // FOUND
        for start in range(0, LENGTH, 250):
            some = list(plain)
            if start % spread == 0:
                some[0] = sessiond.user(f"{start}", labels={"topic": "tea", "kind": "note"})
            await client.append_messages(session_id, some)
        for labels in ({"topic": "tea"}, {"topic": "tea", "kind": "note"}):
            page = await client.list_messages(session_id, labels=labels, page_size=50).page()
            assert [sessiond.text_of(message) for message in page.messages] == [
                str(start) for start in range(0, LENGTH, spread)
            ]
            assert page.next_page_token == ""
        (last,) = await client.pop_messages(session_id)
        assert last.seq == LENGTH + 1
        popped = await client.pop_messages(session_id, 300)
        assert [message.seq for message in popped] == list(range(LENGTH - 299, LENGTH + 1))
