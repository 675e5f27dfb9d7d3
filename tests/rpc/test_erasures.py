"""EraseUser and GetErasure over the wire: whom a key may erase, and what callers see of an erasure."""

from sessiond.v1 import document_service_pb2 as d
from sessiond.v1 import retention_service_pb2 as h
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.document_pb2 import Document, DocumentScope
from sessiond.v1.erasure_pb2 import Erasure, ErasureReport, ErasureState
from sessiond_server import erasing
from sessiond_server.memory.store import MemoryStore
from tests.support.wire import ALICE, BOB, OTHER_TENANT, TENANT, DirectWriter, Wire, serving

USER = DocumentScope.DOCUMENT_SCOPE_USER


async def check_report(wire: Wire, report: ErasureReport) -> None:
    """Nothing but the report as it is, and nobody but who may see the erasure, makes it valid."""
    longer = ErasureReport(json=report.json + " ", signature=report.signature)
    shorter = ErasureReport(json=report.json, signature=report.signature[:-1])
    for shown, key, valid in (
        (report, ALICE, True),
        (report, TENANT, True),
        (report, BOB, False),
        (report, OTHER_TENANT, False),
        (longer, TENANT, False),
        (shorter, TENANT, False),
    ):
        request = h.VerifyErasureReportRequest(report=shown)
        assert (await wire.call("VerifyErasureReport", request, key=key)).valid == valid


async def test_a_key_of_a_user_erases_that_user_and_no_other() -> None:
    store = MemoryStore()
    async with serving(store) as wire:
        await wire.create("alice~s", key=ALICE)
        await wire.create("bob~s", key=BOB)
        for user, key in (("alice", ALICE), ("bob", BOB)):
            put = d.PutDocumentRequest(document=Document(scope=USER, scope_id=user, key="k", json="1"))
            await wire.call("PutDocument", put, key=key)
        for rpc, request in (
            ("EraseUser", s.EraseUserRequest(user_id="bob")),
            ("GetErasure", s.GetErasureRequest(user_id="bob")),
        ):
            failure = await wire.failure(rpc, request, key=ALICE)
            assert (failure.reason, list(failure.violations)) == ("INVALID_FIELD", ["user_id"])
        failure = await wire.failure("GetErasure", s.GetErasureRequest(), key=BOB)
        assert failure.reason == "ERASURE_NOT_FOUND"
        begun: Erasure = await wire.call("EraseUser", s.EraseUserRequest(), key=ALICE)
        assert (begun.user_id, begun.state) == ("alice", ErasureState.ERASURE_STATE_RUNNING)
        assert await erasing.erase_one(store.erasures, DirectWriter(store))
        ended: Erasure = await wire.call("GetErasure", s.GetErasureRequest(user_id="alice"), key=ALICE)
        assert (ended.state, ended.session_count) == (ErasureState.ERASURE_STATE_DONE, 1)
        await check_report(wire, ended.report)
        failure = await wire.failure("GetSession", s.GetSessionRequest(session_id="alice~s"), key=ALICE)
        assert failure.reason == "SESSION_NOT_FOUND"
        await wire.call("GetSession", s.GetSessionRequest(session_id="bob~s"), key=BOB)
        await wire.call("GetDocument", d.GetDocumentRequest(scope=USER, scope_id="bob", key="k"), key=BOB)
