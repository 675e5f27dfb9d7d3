"""Documents, patches, ids that are taken again and drafts, raced and flooded through two servers on one Postgres and
one Redis."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

import sessiond
from sessiond_server.domain.sessions.validation import STATE_BYTES
from sessiond_server.events.drafts import DraftLimits
from tests.support.replica import Replica
from tests.support.waiting import until

WRITERS = 20


@asynccontextmanager
async def two_servers(postgres_dsn: str, redis_url: str, folder: Path) -> AsyncIterator[Sequence[sessiond.Client]]:
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(2):
            replica = Replica(postgres_dsn, folder / f"server-{number}.log", {"SESSIOND_REDIS_URL": redis_url})
            await replica.start()
            stack.push_async_callback(replica.stop)
            client = sessiond.Client(replica.address, timeout=60.0, wait_for_ready=True)
            clients.append(await stack.enter_async_context(client))
        yield clients


@pytest.mark.long
async def test_documents_raced_by_20_writers_of_one_key_and_of_different_ones(
    postgres_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    async with two_servers(postgres_dsn, redis_url, tmp_path) as clients:
        session_id = (await clients[0].create_session(active=True)).session_id

        async def add(number: int) -> int:
            """Adds one to the number that all share, and appends to the session."""
            client = clients[number % 2]
            own = sessiond.document_put(f"own-{number}", number, agent_id="race")
            while True:
                value, version = 0, 0
                with suppress(sessiond.DocumentNotFound):
                    found = await client.get_document("shared", agent_id="race")
                    value, version = sessiond.document_value(found), found.version
                shared = sessiond.document_put("shared", value + 1, agent_id="race", expected_version=version)
                try:
                    answer = await client.append_messages(
                        session_id, [sessiond.user(str(number))], documents=[shared, own]
                    )
                except sessiond.DocumentVersionMismatch:
                    continue
                return answer.documents[0].version

        versions = await asyncio.gather(*(add(number) for number in range(WRITERS)))
        assert sorted(versions) == list(range(1, WRITERS + 1))
        documents = [document async for document in clients[1].list_documents(agent_id="race", key_prefix="")]
        assert {each.key: sessiond.document_value(each) for each in documents} == {
            "shared": WRITERS, **{f"own-{number}": number for number in range(WRITERS)},
        }  # fmt: skip
        # One message for each number that was added: those who lost appended nothing.
        said = [sessiond.text_of(message) async for message in clients[1].list_messages(session_id)]
        assert sorted(said, key=int) == [str(number) for number in range(WRITERS)]


@pytest.mark.long
async def test_patch_above_the_limit_changes_nothing(postgres_dsn: str, redis_url: str, tmp_path: Path) -> None:
    async with two_servers(postgres_dsn, redis_url, tmp_path) as (here, there):
        session_id = (await here.create_session(active=True, state={"a": "x" * (STATE_BYTES - 20_000)})).session_id
        refused: list[sessiond.InvalidFields] = []

        async def add(number: int) -> int:
            """Half alone, half with a message."""
            client, state = (here, there)[number % 2], {f"k{number}": "y" * 2_000}
            try:
                if number % 4 < 2:
                    await client.update_session(session_id, state=state, struct_update="set_keys", view="basic")
                else:
                    await client.append_messages(
                        session_id, [sessiond.user("y")], update={"state": state}, struct_update="set_keys"
                    )
            except sessiond.InvalidFields as refusal:
                refused.append(refusal)
                return 0
            return 1

        taken = sum(await asyncio.gather(*(add(number) for number in range(WRITERS))))
        assert {refusal.violations[0].field for refusal in refused} == {"session.state", "update.session.state"}
        assert 5 <= taken < 10
        for client in (here, there):
            for consistency in ("strong", "cached"):
                found = await client.get_session(session_id, consistency=consistency, min_version=1 + taken)
                assert len(found.state.fields) == 1 + taken
                assert found.version == 1 + taken + found.message_count
                assert STATE_BYTES - 3_000 < found.state.ByteSize() <= STATE_BYTES
        # What is removed makes room.
        await here.update_session(
            session_id, state={"more": "z" * 20_000}, struct_update="set_keys", remove_keys=["state.a"]
        )


@pytest.mark.long
async def test_id_is_taken_again_under_old_watchers_cached_copies_and_positions(
    postgres_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    async with two_servers(postgres_dsn, redis_url, tmp_path) as (here, there):
        session_id, version = "again", 0
        positions: list[str] = []
        for life in range(5):
            made = await here.create_session(session_id, active=True, state={"life": life}, reuse_deleted=True)
            assert (made.base_version, made.version) == (version, version + 1)
            await here.append_messages(session_id, [sessiond.user(f"life {life}")])
            version += 2
            async with AsyncExitStack() as stack:
                watches = [
                    await stack.enter_async_context(client.watch(session_id, from_beginning=True))
                    for client in (here, there)
                ]
                for watch in watches:
                    assert [(await anext(watch)).seq for _ in range(2)] == [version - 1, version]
                # Both servers have copies of it.
                for client in (here, there):
                    found = await client.get_session(session_id, min_version=version)
                    assert found.state["life"] == life
                version = (
                    (await there.delete_session(session_id)) if life % 2 else (await here.delete_session(session_id))
                )
                await there.create_session(session_id, active=True, state={"life": -1}, reuse_deleted=True)
                version += 1
                for client in (here, there):
                    found = await client.get_session(session_id, min_version=version)
                    assert (found.version, found.state["life"]) == (version, -1)
                    assert [message async for message in client.list_messages(session_id, min_version=version)] == []
                for watch in watches:
                    # The end of its own session, or word that the position is of none; nothing of the next one.
                    seen: list[int] = []
                    try:
                        async with asyncio.timeout(60):
                            seen.extend([event.seq async for event in watch])
                    except sessiond.PositionCompacted:
                        pass
                    assert seen in ([], [version - 1])
                    positions.append(watch.position)
            for position in positions:
                with pytest.raises(sessiond.PositionCompacted):
                    async with there.watch(session_id, position=position) as late:
                        await anext(late)
            version = await here.delete_session(session_id)


@pytest.mark.long
async def test_flood_of_drafts_holds_up_no_write_and_no_late_watcher(
    postgres_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    most = DraftLimits().session_drafts
    async with two_servers(postgres_dsn, redis_url, tmp_path) as (here, there):
        quiet, flooded = [(await here.create_session(active=True)).session_id for _ in range(2)]
        flooding = True

        async def flood(number: int) -> None:
            """Begins one draft after the other, and ends none."""
            count = 0
            while flooding:
                count += 1
                piece = sessiond.Delta(message_id=f"flood-{number}-{count}", text="x" * 30_000)
                try:
                    await (here, there)[number % 2].publish_delta(flooded, [piece])
                except sessiond.Exhausted:
                    await asyncio.sleep(0.01)

        floods = [asyncio.create_task(flood(number)) for number in range(8)]
        try:
            async with there.watch(quiet, deltas=True) as early:
                async with here.draft(quiet, message_id="answer", interval=0.0) as draft:
                    await draft.write("To be, ")
                    while (item := await anext(early)) and not (isinstance(item, sessiond.Delta) and item.text):
                        pass
                    async with there.watch(quiet, deltas=True) as late:
                        shown = ""
                        while shown != "To be, ":
                            item = await anext(late)
                            assert isinstance(item, sessiond.Delta)
                            shown += item.text
                    await draft.write("or not.")
                assert draft.appended is not None
                async with asyncio.timeout(60):
                    while not isinstance(item := await anext(early), sessiond.Event):
                        pass
                assert item.message.message_id == "answer"
            # In the flooded session, too: writes go on, and one who joins gets few drafts and what is stored.
            await here.append_messages(flooded, [sessiond.user("durable")])
            async with there.watch(flooded, deltas=True, from_beginning=True) as joined:
                async with asyncio.timeout(60):
                    seqs: list[int] = []
                    while len(seqs) < 2:
                        if isinstance(item := await anext(joined), sessiond.Event):
                            seqs.append(item.seq)
                assert seqs == [1, 2]
        finally:
            flooding = False
            await asyncio.gather(*floods)

        async def few_are_kept() -> bool:
            async with there.watch(flooded, deltas=True) as after:
                await here.append_messages(flooded, [sessiond.user("end")])
                ids = set()
                async with asyncio.timeout(60):
                    while not isinstance(item := await anext(after), sessiond.Event):
                        ids.add(item.message_id)
            return len(ids) <= most

        await until(few_are_kept)  # what is still on its way between the servers comes to the watcher as well
