"""Ids of every allowed kind, in every place of every store."""

import asyncio
import hashlib
import random
from uuid import uuid4

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.message_pb2 import Message
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain import commands as c
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.store.contract import Store
from tests.support.caller import Caller, accepted, one, whole_log
from tests.support.odd_ids import ODD_IDS
from tests.support.run_actions import begin, complete, request
from tests.support.store_backend import Backend

CREATE_ASC = SessionOrder.SESSION_ORDER_CREATE_TIME_ASC


async def test_sessions_of_every_id_are_kept_apart(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, *(caller.create(i, user_id=i, agent_id=i, summary=i) for i in ODD_IDS))
    await asyncio.gather(*(accepted(backend.store, caller.append_ids(i, *ODD_IDS)) for i in ODD_IDS))
    for store in (backend.store, backend.other):
        found = await store.get_sessions(caller.scope, ODD_IDS, content=True)
        for session_id, snapshot in zip(ODD_IDS, found, strict=True):
            assert snapshot is not None
            session = Session.FromString(snapshot.core + snapshot.content)
            assert (session.session_id, session.user_id, session.summary) == (session_id,) * 3
            assert session.version == session.message_count + 1 == len(ODD_IDS) + 1
            assert await store.get_session(caller.scope, session_id, content=True) == snapshot
            page = await store.list_messages(
                caller.scope, session_id, after_seq=0, before_seq=0, descending=False, limit=1000
            )
            assert [Message.FromString(data).message_id for data in page.messages] == list(ODD_IDS)
            _, data = await store.get_message(caller.scope, session_id, session_id)
            assert Message.FromString(data).message_id == session_id
    for session_id in random.Random(7).sample(ODD_IDS, 5):
        assert [e.session_id for e in await whole_log(backend.store, caller.scope, session_id)] == [session_id] * 41
        of_user = SessionFilter(user_id=session_id)
        assert await backend.store.count_sessions(caller.scope, of_user) == 1


async def test_sessions_that_tie_in_time_are_in_the_order_of_code_points(store: Store, caller: Caller) -> None:
    await accepted(store, *(caller.create(session_id) for session_id in ODD_IDS))
    found: list[tuple[int, str]] = []
    after = None
    while True:
        page = await store.list_sessions(caller.scope, SessionFilter(), CREATE_ASC, after=after, limit=3, content=False)
        sessions = [Session.FromString(item.core) for item in page.sessions]
        found += [(session.create_time.ToMicroseconds(), session.session_id) for session in sessions]
        after = page.next_key
        if after is None:
            break
    assert found == sorted(found)
    assert sorted(session_id for _, session_id in found) == sorted(ODD_IDS)


async def test_runs_tool_calls_and_attachments_of_every_id(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    for name in ODD_IDS:
        begun = await one(backend.store, caller.command("s", begin(name)), c.RunWritten)
        fence = c.Fence(name, Run.FromString(begun.run).fence)
        await accepted(
            backend.store,
            caller.command("s", request(name), fence=fence),
            caller.command("s", c.StartToolCall(name), fence=fence),
            caller.command("s", complete(name, "done"), fence=fence),
            caller.command("s", c.CancelRun(name)),
        )
        content = name.encode()
        declared = Attachment(attachment_id=name, size_bytes=len(content), sha256=hashlib.sha256(content).digest())
        piece = Piece(caller.scope.tenant_id, str(uuid4()))
        upload = await backend.attachments.begin_upload(caller.scope, "s", declared, piece)
        assert upload is not None
        completion = c.CompleteUpload(name, upload.epoch, declared.sha256, declared.size_bytes)
        await one(backend.store, caller.command("s", completion), c.AttachmentUploaded)
        file = await backend.other_attachments.get_file(caller.scope, "s", name)
        assert [extent.piece for extent in file.extents] == [piece]
    log = await whole_log(backend.store, caller.scope, "s")
    assert [e.attachment.attachment_id for e in log if e.HasField("attachment")] == list(ODD_IDS)
    assert list(dict.fromkeys(e.run.run_id for e in log if e.HasField("run"))) == list(ODD_IDS)
    assert list(dict.fromkeys(e.tool_call.tool_call_id for e in log if e.HasField("tool_call"))) == list(ODD_IDS)


async def test_two_forms_of_one_text_are_two_ids(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("\u00e9"), caller.create("e\u0301"), caller.delete("\u00e9"))
    (gone, kept) = await store.get_sessions(caller.scope, ["\u00e9", "e\u0301"], content=False)
    assert gone is None
    assert kept is not None
    assert Session.FromString(kept.core).session_id == "e\u0301"
