"""Every method of the client against the whole service, through a real channel."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import sessiond
from sessiond.v1.session_pb2 import AgentMode, EndReason, SessionType
from sessiond_server import auth
from tests.support.chats import CHATS
from tests.support.client_service import serving

BOTH_CLIENTS = True

Status = sessiond.SessionStatus


async def test_a_session_from_beginning_to_end(sessions: sessiond.Client) -> None:
    created = await sessions.create_session(
        "chat-1",
        type="team",
        team_id="t",
        user_id="ada",
        agent_mode="plan",
        labels={"k": "v"},
        state={"step": 1},
        ttl=60,
    )
    assert (created.session_id, created.version, created.status) == ("chat-1", 1, Status.SESSION_STATUS_CREATED)
    assert (created.type, created.agent_mode) == (SessionType.SESSION_TYPE_TEAM, AgentMode.AGENT_MODE_PLAN)
    assert created.ttl.seconds == 60
    assert await sessions.get_session("chat-1") == created
    basic = await sessions.get_session("chat-1", view="basic", min_version=1, consistency="strong")
    assert created.HasField("state")
    assert not basic.HasField("state")
    statuses = [
        (await sessions.activate_session("chat-1", expected_version=1)).status,
        (await sessions.suspend_session("chat-1")).status,
        (await sessions.resume_session("chat-1")).status,
        (await sessions.suspend_session("chat-1")).status,
        (await sessions.activate_session("chat-1")).status,
    ]
    assert statuses == [
        Status.SESSION_STATUS_ACTIVE,
        Status.SESSION_STATUS_SUSPENDED,
        Status.SESSION_STATUS_ACTIVE,
        Status.SESSION_STATUS_SUSPENDED,
        Status.SESSION_STATUS_ACTIVE,
    ]
    ended = await sessions.end_session("chat-1", reason="failed")
    assert (ended.status, ended.end_reason) == (Status.SESSION_STATUS_ENDED, EndReason.END_REASON_FAILED)
    assert await sessions.end_session("chat-1") == ended
    metrics = await sessions.get_session_metrics("chat-1", min_version=ended.version)
    assert (metrics.version, metrics.request_count) == (ended.version, ended.request_count) == (7, 7)
    assert await sessions.delete_session("chat-1", expected_version=7) == 8
    with pytest.raises(sessiond.SessionNotFound):
        await sessions.get_session("chat-1")


async def test_session_without_expiry(sessions: sessiond.Client) -> None:
    usual, alone = await sessions.create_session(), await sessions.create_session(no_expiry=True)
    (batched,) = await sessions.batch_create_sessions([{"no_expiry": True}])
    assert isinstance(batched, sessiond.Session)
    assert [session.HasField("expire_time") for session in (usual, alone, batched)] == [True, False, False]
    assert not alone.HasField("ttl")


async def test_batches(sessions: sessiond.Client) -> None:
    created = await sessions.batch_create_sessions(
        [
            {"session_id": "b-1", "name": "one", "active": True},
            {"session_id": "b-1x", "state": {"n": 1}},
            {"name": "three"},
        ]
    )
    assert [session.name for session in created if isinstance(session, sessiond.Session)] == ["one", "", "three"]
    (again,) = await sessions.batch_create_sessions([{"session_id": "b-1"}])
    assert isinstance(again, sessiond.SessionAlreadyExists)
    assert (again.session_id, again.code, again.reason) == ("b-1", "ALREADY_EXISTS", "SESSION_ALREADY_EXISTS")
    renamed, stale, missing = await sessions.batch_update_sessions(
        [
            {"session_id": "b-1", "name": "uno"},
            {"session_id": "b-1x", "state": {"n": 2}, "struct_update": "set_keys", "expected_version": 9},
            {"session_id": "b-none", "name": "x"},
        ]
    )
    assert isinstance(renamed, sessiond.Session)
    assert renamed.name == "uno"
    assert isinstance(stale, sessiond.VersionMismatch)
    assert stale.current_version == 1
    assert isinstance(missing, sessiond.SessionNotFound)
    with pytest.raises(ValueError, match="no such field: colour"):
        await sessions.batch_create_sessions([{"colour": "red"}])  # type: ignore[typeddict-unknown-key]


async def test_append_with_state(sessions: sessiond.Client) -> None:
    session = await sessions.create_session(state={"step": 1, "draft": "x"}, active=True)
    appended = await sessions.append_messages(
        session.session_id,
        [sessiond.user("hello"), sessiond.assistant("hi")],
        update={"state": {"step": 2, "nothing": None}, "summary": "greeting"},
        struct_update="set_keys",
        remove_keys=["state.draft"],
    )
    assert (appended.first_seq, appended.version) == (3, 4)
    after = await sessions.get_session(session.session_id, min_version=4)
    assert sessiond.from_struct(after.state) == {"step": 2, "nothing": None}
    assert (after.summary, after.name, after.message_count) == ("greeting", "hello", 2)
    removed = await sessions.update_session(session.session_id, struct_update="set_keys", remove_keys=["state.step"])
    assert sessiond.from_struct(removed.state) == {"nothing": None}
    async with sessions.run(session.session_id) as run:
        await run.append_messages([sessiond.assistant("done")], update={"state": {"step": 3}}, struct_update="set_keys")
    assert sessiond.from_struct((await sessions.get_session(session.session_id)).state) == {"nothing": None, "step": 3}
    with pytest.raises(ValueError, match="no such field to change: colour"):
        await sessions.update_session(session.session_id, colour="red")  # type: ignore[call-arg]
    taken = [sessiond.user("again", message_id=appended.message_ids[0])]
    with pytest.raises(sessiond.MessageAlreadyExists):
        await sessions.append_messages(session.session_id, taken, update={"name": "never"})
    assert (await sessions.get_session(session.session_id)).name == "hello"


async def test_updates_merge_replace_and_clear_fields(sessions: sessiond.Client) -> None:
    session = await sessions.create_session(metadata={"a": {"x": 1, "y": 2}, "b": 1}, state={"s": 1}, agent_id="a")
    session_id = session.session_id
    merged = await sessions.update_session(session_id, metadata={"a": {"x": None, "z": [3]}}, struct_update="merge")
    assert sessiond.from_struct(merged.metadata) == {"a": {"y": 2, "z": [3]}, "b": 1}
    assert sessiond.from_struct(merged.state) == {"s": 1}
    replaced = await sessions.update_session(session_id, metadata={"c": True}, state=None, agent_id="", name="n")
    assert sessiond.from_struct(replaced.metadata) == {"c": True}
    assert not replaced.HasField("state")
    assert (replaced.agent_id, replaced.name) == ("", "n")
    whole = await sessions.update_session(
        session_id, config=sessiond.SessionConfig(max_messages=5, system_prompt="p"), summary="s", ttl=timedelta(days=1)
    )
    part = await sessions.update_session(session_id, config={"max_messages": 6, "blocked_tools": ["rm"]}, ttl=None)
    assert part.config == sessiond.SessionConfig(max_messages=6, system_prompt="p", blocked_tools=["rm"])
    assert (whole.ttl.ToTimedelta(), part.HasField("ttl"), part.summary) == (timedelta(days=1), False, "s")
    later = datetime.now(UTC) + timedelta(days=2)
    assert (await sessions.update_session(session_id, expire_time=later)).expire_time.ToDatetime(UTC) == later


async def test_touching_extends(sessions: sessiond.Client) -> None:
    session = await sessions.create_session(ttl=60)
    touched = await sessions.touch_session(session.session_id, extend=3600)
    before, after = session.expire_time.ToDatetime(UTC), touched.expire_time.ToDatetime(UTC)
    assert after - before >= timedelta(seconds=3540)


async def test_messages_are_listed_as_they_were_appended(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    appended = await sessions.append_messages(session_id, map(sessiond.from_chat, CHATS))
    assert (appended.first_seq, appended.version) == (2, 1 + len(CHATS))
    listed = [message async for message in sessions.list_messages(session_id, page_size=4)]
    assert [sessiond.to_chat(message) for message in listed] == CHATS
    assert [message.message_id for message in listed] == list(appended.message_ids)
    assert await sessions.get_message(session_id, appended.message_ids[1], min_version=appended.version) == listed[1]


async def test_messages_are_listed_forwards_and_backwards(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    await sessions.append_messages(session_id, [sessiond.user(str(n)) for n in range(10)])

    def texts(messages: list[sessiond.Message]) -> str:
        return "".join(map(sessiond.text_of, messages))

    oldest = [message async for message in sessions.list_messages(session_id, page_size=3)]
    newest = [message async for message in sessions.list_messages(session_id, page_size=3, order_by="newest_first")]
    assert (texts(oldest), texts(newest)) == ("0123456789", "9876543210")
    bounded = sessions.list_messages(session_id, after_seq=oldest[2].seq, before_seq=oldest[6].seq, page_size=2)
    assert texts([message async for message in bounded]) == "345"

    pages = [page async for page in sessions.list_messages(session_id, page_size=4).pages()]
    assert [texts(list(page.messages)) for page in pages] == ["0123", "4567", "89"]
    back = sessions.list_messages(session_id, page_size=4, page_token=pages[2].previous_page_token)
    assert [texts(list(page.messages)) async for page in back.pages(back=True)] == ["4567", "0123"]


async def test_redaction_removes_content_and_keeps_the_reason(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    appended = await sessions.append_messages(session_id, [sessiond.user("secret", message_id="m")])
    remains = await sessions.redact_message(session_id, "m", reason="asked for", expected_version=appended.version)
    assert (remains.redact_reason, list(remains.parts)) == ("asked for", [])
    assert await sessions.get_message(session_id, "m") == remains
    assert sessiond.to_chat(remains) == {"role": "user", "content": None}


async def test_pop_of_one_and_of_300_messages_is_one_call(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    for start in (0, 200):
        many = [sessiond.user(str(n), message_id=f"m{n}") for n in range(start, start + 200)]
        await sessions.append_messages(session_id, many)
    (last,) = await sessions.pop_messages(session_id)
    assert sessiond.text_of(last) == "399"
    popped = await sessions.pop_messages(session_id, 300, request_id="p")
    assert [sessiond.text_of(message) for message in popped] == [str(n) for n in range(99, 399)]
    assert await sessions.pop_messages(session_id, 300, request_id="p") == popped, "a retry pops nothing more"
    left = [message.message_id async for message in sessions.list_messages(session_id)]
    assert left == [f"m{n}" for n in range(99)]
    with pytest.raises(sessiond.MessageNotFound):
        await sessions.get_message(session_id, "m399")
    assert await sessions.pop_messages(session_id, 1000) != []
    assert await sessions.pop_messages(session_id) == []


async def test_deletion_by_ids_by_range_and_of_the_newest(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    await sessions.append_messages(session_id, [sessiond.user(str(n), message_id=f"m{n}") for n in range(6)])
    assert list((await sessions.delete_messages(session_id, message_ids=["m1", "m0"])).seqs) == [2, 3]
    trimmed = await sessions.delete_messages(session_id, from_seq=1, to_seq=5, return_messages=True)
    assert [message.message_id for message in trimmed.messages] == ["m2", "m3"]
    last = await sessions.delete_messages(session_id, last_n=1)
    assert (list(last.message_ids), list(last.messages)) == (["m5"], [])
    assert [message.message_id async for message in sessions.list_messages(session_id)] == ["m4"]
    for selection in ({}, {"last_n": 1, "from_seq": 1}, {"message_ids": ["m4"], "last_n": 1}):
        with pytest.raises(ValueError, match="one of"):
            await sessions.delete_messages(session_id, **selection)


async def test_messages_are_found_by_what_they_have(sessions: sessiond.Client) -> None:
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    session_id = (await sessions.create_session(active=True, client_time=noon)).session_id
    assert (await sessions.get_session(session_id)).client_time.ToDatetime(UTC) == noon
    messages = [
        sessiond.user("0", labels={"topic": "a"}, client_time=noon),
        sessiond.assistant("1", name="planner", labels={"topic": "a", "kind": "plan"}),
        sessiond.tool("2", tool_call_id="t", client_time=noon + timedelta(hours=1)),
        sessiond.system("3", labels={"topic": "b"}),
    ]
    await sessions.append_messages(session_id, messages)

    async def found(**where: Any) -> str:
        return "".join([sessiond.text_of(m) async for m in sessions.list_messages(session_id, **where)])

    assert await found(labels={"topic": "a"}) == "01"
    assert await found(labels={"topic": "a"}, order_by="newest_first", page_size=1) == "10"
    assert await found(labels={"topic": "a", "kind": "plan"}) == "1"
    assert await found(roles=["system", "tool"]) == "23"
    assert await found(name="planner") == "1"
    assert await found(run_id="r") == ""
    assert await found(client_time_from=noon, client_time_until=noon + timedelta(hours=1)) == "0"
    assert await found(client_time_from=noon, roles=["tool"]) == "2"
    page = await sessions.list_messages(session_id, labels={"topic": "a"}, page_size=1).page()
    with pytest.raises(sessiond.InvalidPageToken):
        await sessions.list_messages(session_id, labels={"topic": "b"}, page_token=page.next_page_token).page()
    with pytest.raises(sessiond.InvalidPageToken):
        await sessions.list_messages(session_id, page_token=page.next_page_token).page()
    updated = await sessions.update_session(session_id, client_time=None)
    assert not updated.HasField("client_time")


async def test_pages_of_a_filter_are_read_back(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    for start in range(0, 2400, 240):
        some = [sessiond.user(str(n), name="x" if n % 400 == 0 else "") for n in range(start, start + 240)]
        await sessions.append_messages(session_id, some)
    pages = [page async for page in sessions.list_messages(session_id, name="x", page_size=2).pages()]
    texts = [[sessiond.text_of(message) for message in page.messages] for page in pages]
    assert [text for page in texts for text in page] == [str(n) for n in range(0, 2400, 400)]
    assert max(map(len, texts)) == 2
    back = sessions.list_messages(session_id, name="x", page_size=2, page_token=pages[-1].previous_page_token)
    before = [[sessiond.text_of(m) for m in page.messages] async for page in back.pages(back=True)]
    earlier = [text for page in texts[:-1] for text in page]
    assert [text for page in reversed(before) for text in page] == earlier


async def test_lists_counts_and_batches_of_sessions(sessions: sessiond.Client) -> None:
    for n in range(5):
        await sessions.create_session(
            f"s{n}", user_id="ada" if n % 2 else "bob", active=n > 2, metadata={"n": n}, name=f"Session {n}"
        )
    everything = [session.session_id async for session in sessions.list_sessions(page_size=2, order_by="name_asc")]
    assert everything == ["s0", "s1", "s2", "s3", "s4"]
    assert [s.session_id async for s in sessions.list_sessions(user_id="ada", statuses=["active"])] == ["s3"]
    assert [s.session_id async for s in sessions.list_sessions(metadata={"n": 2})] == ["s2"]
    assert [p.sessions[0].session_id async for p in sessions.list_sessions(name_contains="ION 4").pages()] == ["s4"]
    assert await sessions.count_sessions(user_id="bob") == 3
    assert await sessions.count_sessions(create_time_from=datetime.now(UTC) + timedelta(days=1)) == 0

    batch = await sessions.batch_get_sessions(["s1", "gone", "s0"], view="full")
    assert [session.session_id for session in batch.sessions] == ["s1", "s0"]
    assert list(batch.not_found) == ["gone"]
    assert sessiond.from_struct(batch.sessions[0].metadata) == {"n": 1}
    deleted = await sessions.batch_delete_sessions(["s4", "gone", "s3"])
    assert (list(deleted.deleted), list(deleted.not_found)) == (["s4", "s3"], ["gone"])
    assert await sessions.count_sessions() == 3


async def test_a_write_sent_twice_acts_once(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    request_id = sessiond.new_request_id()
    first = await sessions.append_messages(session_id, [sessiond.user("hi")], request_id=request_id)
    assert await sessions.append_messages(session_id, [sessiond.user("hi")], request_id=request_id) == first
    with pytest.raises(sessiond.RequestIdReused) as caught:
        await sessions.append_messages(session_id, [sessiond.user("other")], request_id=request_id)
    assert caught.value.metadata == {"request_id": request_id}
    assert (await sessions.get_session(session_id)).message_count == 1


async def test_refusals_have_their_classes(sessions: sessiond.Client) -> None:
    config = sessiond.SessionConfig(max_messages=1, blocked_tools=["rm"])
    session = await sessions.create_session("s", config=config)
    with pytest.raises(sessiond.SessionAlreadyExists):
        await sessions.create_session("s")
    with pytest.raises(sessiond.SessionNotActive) as inactive:
        await sessions.append_messages("s", [sessiond.user("hi")])
    assert inactive.value.status == "CREATED"
    with pytest.raises(sessiond.IllegalTransition) as illegal:
        await sessions.suspend_session("s")
    assert (illegal.value.status, illegal.value.action) == ("CREATED", "suspend")
    with pytest.raises(sessiond.VersionMismatch) as mismatch:
        await sessions.activate_session("s", expected_version=9)
    assert (mismatch.value.current_version, mismatch.value.code) == (session.version, "ABORTED")
    await sessions.activate_session("s")
    with pytest.raises(sessiond.ToolBlocked) as blocked:
        await sessions.append_messages("s", [sessiond.assistant(tool_calls=[sessiond.tool_call("c", "rm")])])
    assert blocked.value.tool == "rm"
    await sessions.append_messages("s", [sessiond.user("hi", message_id="m")])
    with pytest.raises(sessiond.MessageLimitReached) as full:
        await sessions.append_messages("s", [sessiond.user("hi")])
    assert full.value.limit == 1
    await sessions.update_session("s", config=None)
    with pytest.raises(sessiond.MessageAlreadyExists) as taken:
        await sessions.append_messages("s", [sessiond.user("hi", message_id="m")])
    assert taken.value.message_id == "m"
    with pytest.raises(sessiond.MessageNotFound):
        await sessions.get_message("s", "none")
    with pytest.raises(sessiond.VersionNotReached) as behind:
        await sessions.get_session("s", min_version=99)
    assert behind.value.current_version == 4
    with pytest.raises(sessiond.InvalidPageToken):
        await sessions.list_sessions(page_token="forged").page()
    with pytest.raises(sessiond.InvalidFields) as invalid:
        await sessions.append_messages("s", [sessiond.user("\0"), sessiond.Message()])
    assert {violation.field for violation in invalid.value.violations} == {
        "messages[0].parts[0].text",
        "messages[1].role",
    }
    await sessions.end_session("s", reason="completed")
    with pytest.raises(sessiond.SessionEnded) as ended:
        await sessions.touch_session("s")
    assert ended.value.end_reason == "COMPLETED"


async def test_a_request_of_five_mebibytes(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    with pytest.raises(sessiond.InvalidRequest):
        await sessions.append_messages(session_id, [sessiond.user("x" * 1_000_000) for _ in range(5)])
    with pytest.raises(sessiond.RequestTooLarge):
        await sessions.append_messages(session_id, [sessiond.user("x" * 1_000_000) for _ in range(9)])
    assert (await sessions.get_session(session_id)).message_count == 0


async def test_tasks_share_a_client(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    await asyncio.gather(*(sessions.append_messages(session_id, [sessiond.user(str(n))]) for n in range(50)))
    listed = [message async for message in sessions.list_messages(session_id, page_size=7)]
    assert sorted(int(sessiond.text_of(message)) for message in listed) == list(range(50))
    assert [message.seq for message in listed] == list(range(2, 52))


async def test_keys_grant_their_scopes_only(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    writer, entry = auth.new_key("writer", "acme")
    reader, second = auth.new_key("reader", "acme", scopes=[auth.SESSIONS_READ])
    keys.write_text(entry + second, encoding="utf-8")
    async with serving({"keys_file": str(keys)}) as service:
        async with sessiond.Client(service.target, api_key=writer) as client:
            session = await client.create_session()
        async with sessiond.Client(service.target, api_key=reader) as client:
            assert await client.get_session(session.session_id) == session
            with pytest.raises(sessiond.ScopeMissing) as missing:
                await client.end_session(session.session_id)
        for wrong in (None, "sd_unknown"):
            async with sessiond.Client(service.target, api_key=wrong) as client:
                with pytest.raises(sessiond.Unauthenticated):
                    await client.get_session(session.session_id)
    assert missing.value.scope == "sessions:write"


async def test_an_id_is_cleared_and_taken_anew(sessions: sessiond.Client) -> None:
    """What a framework does to clear a session: in one call, with a watch of the new one from its beginning."""
    await sessions.create_session("s", active=True)
    await sessions.append_messages("s", [sessiond.user("one")])
    with pytest.raises(sessiond.SessionAlreadyExists):
        await sessions.create_session("s", reuse_deleted=True)
    gone = await sessions.delete_session("s")
    with pytest.raises(sessiond.SessionAlreadyExists):
        await sessions.create_session("s")
    created = await sessions.create_session("s", active=True, reuse_deleted=True)
    assert (created.version, created.base_version, created.message_count) == (gone + 1, gone, 0)
    appended = await sessions.append_messages("s", [sessiond.user("two")])
    async with sessions.watch("s", from_beginning=True) as watch:
        seqs = []
        async for event in watch:
            seqs.append(event.seq)
            if event.seq == appended.version:
                break
    assert seqs == [gone + 1, gone + 2]
    assert [event.seq async for event in sessions.list_events("s")] == seqs
    assert [sessiond.text_of(m) async for m in sessions.list_messages("s")] == ["two"]
    await sessions.delete_session("s")
    (again,) = await sessions.batch_create_sessions([{"session_id": "s", "reuse_deleted": True}])
    assert isinstance(again, sessiond.Session)
    assert again.base_version == appended.version + 1
