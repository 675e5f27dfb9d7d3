"""Messages found by a filter: every page of every order has what a look at each message would have."""

from itertools import product

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2 import MessageFilter
from sessiond_server.domain import commands as c
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.errors import SessionNotFound
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import PAGE_BYTES, MessagesPage
from tests.support.caller import Caller, accepted

USER, ASSISTANT = Role.ROLE_USER, Role.ROLE_ASSISTANT


def at(seconds: int) -> Timestamp:
    return Timestamp(seconds=seconds)


async def found(
    store: Store, caller: Caller, where: MessageFilter, *, descending: bool = False, limit: int = 3,
    after_seq: int = 0, before_seq: int = 0,
) -> list[Message]:  # fmt: skip
    """All pages."""
    messages: list[Message] = []
    pages = 0
    while True:
        page = await store.find_messages(
            caller.scope, "s", Selection(where),
            after_seq=after_seq, before_seq=before_seq, descending=descending, limit=limit,
        )  # fmt: skip
        assert len(page.messages) <= limit
        messages += map(Message.FromString, page.messages)
        pages += 1
        assert pages < 100
        if not page.more:
            return messages
        if descending:
            before_seq = page.last_seq
        else:
            after_seq = page.last_seq


async def conversation(store: Store, caller: Caller) -> list[Message]:
    """40 messages that differ in everything that a filter may ask for."""
    await accepted(store, caller.create("s"), caller.create("other"))
    made: list[Message] = []
    for n in range(40):
        message = Message(message_id=f"m{n}", role=USER if n % 3 else ASSISTANT, parts=[Part(text=str(n))])
        if n % 2:
            message.labels["parity"] = "odd"
        if n % 5 == 0:
            message.labels["fifth"] = "yes"
        if n % 4 == 0:
            message.name = "ada"
        if n % 7 == 0:
            message.run_id = "r1"
        if n % 3 == 0:
            # Not in the order of the log.
            message.client_time.seconds = 1000 - n
        made.append(message)
    for start in range(0, 40, 8):
        await accepted(store, caller.command("s", c.AppendMessages(made[start : start + 8])))
    same = Message(role=USER, labels={"parity": "odd"}, client_time=at(990))
    await accepted(store, caller.command("other", c.AppendMessages([same])))
    return made


FILTERS = [
    MessageFilter(labels={"parity": "odd"}),
    MessageFilter(labels={"parity": "odd", "fifth": "yes"}),
    MessageFilter(labels={"parity": "even"}),
    MessageFilter(labels={"parity": "odd"}, roles=[ASSISTANT]),
    MessageFilter(roles=[ASSISTANT]),
    MessageFilter(roles=[ASSISTANT, USER], name="ada"),
    MessageFilter(name="ada"),
    MessageFilter(run_id="r1"),
    MessageFilter(client_time_from=at(980)),
    MessageFilter(client_time_until=at(980)),
    MessageFilter(client_time_from=at(970), client_time_until=at(990)),
    MessageFilter(client_time_from=at(970), labels={"fifth": "yes"}),
    MessageFilter(client_time_from=at(970), name="ada"),
    MessageFilter(client_time_from=at(5000)),
]


async def test_every_filter_in_both_orders(store: Store, caller: Caller) -> None:
    made = await conversation(store, caller)
    for where, descending, limit in product(FILTERS, (False, True), (1, 3, 100)):
        expected = [m.message_id for m in made if Selection(where).selects(m)]
        got = [m.message_id for m in await found(store, caller, where, descending=descending, limit=limit)]
        assert got == (expected[::-1] if descending else expected), (where, descending, limit)
        within = await found(store, caller, where, descending=descending, limit=limit, after_seq=10, before_seq=30)
        assert [m.message_id for m in within] == [i for i in got if 10 < int(i[1:]) + 2 < 30]


async def test_what_was_deleted_or_redacted_is_not_found(store: Store, caller: Caller) -> None:
    await conversation(store, caller)
    odd = MessageFilter(labels={"parity": "odd"})
    await accepted(store, caller.delete_messages("s", "m1", "m3"), caller.redact("s", "m5"))
    assert [m.message_id for m in await found(store, caller, odd)][:2] == ["m7", "m9"]
    await accepted(store, caller.delete_messages("s", "m9"), caller.pop("s", 30))
    assert [m.message_id for m in await found(store, caller, odd)] == ["m7"]
    timed = await found(store, caller, MessageFilter(client_time_from=at(0)))
    assert [m.message_id for m in timed] == ["m0", "m6"]
    await accepted(store, caller.delete("s"))
    with pytest.raises(SessionNotFound):
        await found(store, caller, odd)
    with pytest.raises(SessionNotFound):
        await found(store, caller, MessageFilter(labels={"parity": "odd", "fifth": "yes"}))


async def test_a_found_page_stays_within_its_bytes(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"))
    for n in range(4):
        large = Message(message_id=f"m{n}", role=USER, labels={"a": "1"}, parts=[Part(text="x" * 1_000_000)])
        await accepted(store, caller.command("s", c.AppendMessages([large])))
    for where in (MessageFilter(labels={"a": "1"}), MessageFilter(roles=[USER])):
        page = await _first(store, caller, where)
        assert (len(page.messages), page.more) == (3, True)
        assert sum(map(len, page.messages)) <= PAGE_BYTES
        assert len(await found(store, caller, where, limit=100)) == 4


async def test_times_of_many_messages_are_compared_in_order(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"))
    for start in range(0, 1100, 220):
        some = [Message(role=USER, client_time=at(n), parts=[Part(text=str(n))]) for n in range(start, start + 220)]
        await accepted(store, caller.command("s", c.AppendMessages(some)))
    for descending in (False, True):
        every = await found(store, caller, MessageFilter(client_time_from=at(0)), descending=descending, limit=500)
        assert [m.client_time.seconds for m in every] == list(range(1100))[:: -1 if descending else 1]
        some = await found(store, caller, MessageFilter(client_time_from=at(1050)), descending=descending, limit=20)
        assert sorted(m.client_time.seconds for m in some) == list(range(1050, 1100))


async def test_another_users_messages_are_not_there(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", user_id="ada"))
    await accepted(store, caller.command("s", c.AppendMessages([Message(role=USER, labels={"a": "1", "b": "2"})])))
    stranger = Caller(c.Scope("tenant", "bob"))
    for labels in ({"a": "1"}, {"a": "1", "b": "2"}):
        with pytest.raises(SessionNotFound):
            await _first(store, stranger, MessageFilter(labels=labels))
        assert len((await _first(store, Caller(c.Scope("tenant", "ada")), MessageFilter(labels=labels))).messages) == 1


async def test_nothing_found_in_an_empty_session(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"))
    for where in FILTERS:
        page = await _first(store, caller, where)
        assert (page.version, page.messages, page.first_seq, page.more) == (1, [], 0, False)


async def _first(store: Store, caller: Caller, where: MessageFilter) -> MessagesPage:
    return await store.find_messages(
        caller.scope, "s", Selection(where), after_seq=0, before_seq=0, descending=False, limit=100
    )
