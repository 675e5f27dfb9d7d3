"""DocumentService over the wire: bounds, keys that are bound to a user, pages, and appends with documents."""

import uuid
from typing import Any

import pytest
from grpc import StatusCode

from sessiond.v1 import document_service_pb2 as d
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.document_pb2 import Document, DocumentName, DocumentScope, DocumentWrite
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond_server.domain.json_text import NOT_JSON
from tests.support.wire import ALICE, BOB, OTHER_TENANT, Wire, said

TENANT = DocumentScope.DOCUMENT_SCOPE_TENANT
AGENT = DocumentScope.DOCUMENT_SCOPE_AGENT
USER = DocumentScope.DOCUMENT_SCOPE_USER
SESSION = DocumentScope.DOCUMENT_SCOPE_SESSION
LONGEST = "\U0001f600" * 63 + "abc"
"""255 bytes."""


def document(scope: DocumentScope.ValueType = TENANT, scope_id: str = "", key: str = "k", **fields: Any) -> Document:
    return Document(scope=scope, scope_id=scope_id, key=key, **(fields or {"json": "1"}))


async def put(wire: Wire, given: Document, *, key: str = "", **request: Any) -> Any:
    more = {"key": key} if key else {}
    return await wire.call("PutDocument", d.PutDocumentRequest(document=given, **request), **more)


async def get(wire: Wire, given: Document, **more: Any) -> Any:
    request = d.GetDocumentRequest(scope=given.scope, scope_id=given.scope_id, key=given.key)
    return await wire.call("GetDocument", request, **more)


async def reason(wire: Wire, rpc: str, request: Any, **more: Any) -> str:
    return (await wire.failure(rpc, request, **more)).reason


ACCEPTED = [
    document(key=LONGEST),
    document(key="a b/\u00fc"),
    document(AGENT, LONGEST),
    document(USER, LONGEST),
    document(json=f'"{"x" * 262_142}"'),
    document(json='"' + "\u00fc" * 131_071 + '"'),
    document(data=b"\0" * 262_144),
    document(json=" null\n", media_type="x" * 255),
    document(json="1", user_readable=True),
    document(AGENT, "a", json="1", user_readable=True),
    document(json="1", labels={f"l{i}": "x" for i in range(16)}),
    document(json="1", ttl={"seconds": 1}),
    document(json="1", ttl={"seconds": 3650 * 86_400}),
    document(json="1", version=99, seq=7, create_time={"seconds": 5}),
]


@pytest.mark.parametrize("given", ACCEPTED, ids=range(len(ACCEPTED)))
async def test_a_put_document_is_got(wire: Wire, given: Document) -> None:
    answer = await put(wire, given)
    assert answer == await get(wire, given)
    assert (answer.json, answer.data, answer.version, answer.seq) == (given.json, given.data, 1, 0)


REFUSED = {
    "scope": Document(key="k", json="1"),
    "scope_id": document(TENANT, "x"),
    "scope_id ": document(AGENT),
    "scope_id  ": document(USER),
    "scope_id   ": document(SESSION),
    "scope_id    ": document(USER, "x" * 256),
    "key": document(key=""),
    "key ": document(key=LONGEST + "d"),
    "key  ": document(key=" k"),
    "key   ": document(key="k\n"),
    "value": Document(scope=TENANT, key="k"),
    "json": document(json=f'"{"x" * 262_143}"'),
    "json ": document(json='"' + "\u00fc" * 131_072 + '"'),
    "json  ": document(json='"a\0"'),
    "json   ": document(json=""),
    "json    ": document(json="{'a': 1}"),
    "json     ": document(json="[" * 129 + "]" * 129),
    "data": document(data=b"\0" * 262_145),
    "media_type": document(json="1", media_type="x" * 256),
    "labels": document(json="1", labels={f"l{i}": "x" for i in range(17)}),
    "ttl": document(json="1", ttl={"nanos": 1}),
    "ttl ": document(json="1", ttl={"seconds": 3650 * 86_400, "nanos": 1}),
    "user_readable": document(USER, "ann", json="1", user_readable=True),
}


@pytest.mark.parametrize("field", REFUSED)
async def test_a_field_beyond_its_bounds_is_named(wire: Wire, field: str) -> None:
    failure = await wire.failure("PutDocument", d.PutDocumentRequest(document=REFUSED[field]))
    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert failure.violations.keys() == {f"document.{field.strip()}"}


async def test_lists_have_bounds_and_pages(wire: Wire) -> None:
    names = [f"k{i:03}" for i in range(101)]
    for name in names:
        await put(wire, document(key=name, json="1", labels={"kind": "x"}))
    found: list[str] = []
    request = d.ListDocumentsRequest(scope=TENANT, page_size=40, labels={"kind": "x"}, key_prefix="k")
    while True:
        page = await wire.call("ListDocuments", request)
        found += [item.key for item in page.documents]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == names
    assert len((await wire.call("ListDocuments", d.ListDocumentsRequest(scope=TENANT))).documents) == 20
    whole = await wire.call("ListDocuments", d.ListDocumentsRequest(scope=TENANT, page_size=1000, omit_values=True))
    assert len(whole.documents) == 100
    assert not any(item.WhichOneof("value") for item in whole.documents)
    token = whole.next_page_token
    for other in (
        d.ListDocumentsRequest(scope=TENANT, page_token=token),
        d.ListDocumentsRequest(scope=TENANT, page_token=token, omit_values=True, key_prefix="k"),
        d.ListDocumentsRequest(scope=AGENT, scope_id="a", page_token=token, omit_values=True),
    ):
        assert await reason(wire, "ListDocuments", other) == "INVALID_PAGE_TOKEN"
    for wrong in ({"page_size": -1}, {"key_prefix": "x" * 256}, {"key_prefix": "\n"}, {"labels": {"a b": ""}}):
        assert await reason(wire, "ListDocuments", d.ListDocumentsRequest(scope=TENANT, **wrong)) == "INVALID_FIELD"


async def test_batches_name_each_document_once(wire: Wire) -> None:
    names = [DocumentName(scope=USER, scope_id="ann", key=f"k{i}") for i in range(101)]
    answer = await wire.call("BatchGetDocuments", d.BatchGetDocumentsRequest(names=names[:100]))
    assert list(answer.not_found) == names[:100]
    for wrong in (names, [names[0], names[0]], [DocumentName(scope=USER, key="k")]):
        assert await reason(wire, "BatchGetDocuments", d.BatchGetDocumentsRequest(names=wrong)) == "INVALID_FIELD"


async def test_a_bound_key_has_the_documents_of_its_user_only(wire: Wire) -> None:
    """The same answer for what another user has and for what no user has."""
    await put(wire, document(USER, "bob", json="1"))
    mine = await put(wire, document(USER, json="2"), key=ALICE)
    assert mine.scope_id == "alice"
    assert (await get(wire, document(USER), key=ALICE)).json == "2"
    assert (await get(wire, document(USER, "alice"))).json == "2"
    for key in ("k", "none"):
        failure = await wire.failure(
            "GetDocument", d.GetDocumentRequest(scope=USER, scope_id="bob", key=key), key=ALICE
        )
        assert (failure.code, failure.reason) == (StatusCode.NOT_FOUND, "DOCUMENT_NOT_FOUND")
    listed = d.ListDocumentsRequest(scope=USER, scope_id="bob")
    assert not (await wire.call("ListDocuments", listed, key=ALICE)).documents
    assert [x.json for x in (await wire.call("ListDocuments", listed, key=BOB)).documents] == ["1"]
    name = DocumentName(scope=USER, scope_id="bob", key="k")
    batch = await wire.call("BatchGetDocuments", d.BatchGetDocumentsRequest(names=[name]), key=ALICE)
    assert list(batch.not_found) == [name]
    writes: list[tuple[str, Any, str]] = [
        ("PutDocument", d.PutDocumentRequest(document=document(USER, "bob")), "document.scope_id"),
        ("DeleteDocument", d.DeleteDocumentRequest(scope=USER, scope_id="bob", key="k"), "scope_id"),
    ]
    for rpc, request, field in writes:
        assert (await wire.failure(rpc, request, key=ALICE)).violations.keys() == {field}
    assert await reason(
        wire, "GetDocument", d.GetDocumentRequest(scope=USER, scope_id="bob", key="k"), key=OTHER_TENANT
    ) == ("DOCUMENT_NOT_FOUND")


@pytest.mark.parametrize(("scope", "scope_id"), [(TENANT, ""), (AGENT, "app")])
async def test_a_bound_key_reads_shared_documents_that_say_so_and_writes_none(
    wire: Wire, scope: DocumentScope.ValueType, scope_id: str
) -> None:
    hidden, shown = (
        document(scope, scope_id, "hidden"),
        document(scope, scope_id, "shown", json="2", user_readable=True),
    )
    await put(wire, hidden)
    await put(wire, shown)
    assert (await get(wire, shown, key=ALICE)).json == "2"
    for key in ("hidden", "none"):
        get_it = d.GetDocumentRequest(scope=scope, scope_id=scope_id, key=key)
        assert await reason(wire, "GetDocument", get_it, key=ALICE) == "DOCUMENT_NOT_FOUND"
    listed = await wire.call("ListDocuments", d.ListDocumentsRequest(scope=scope, scope_id=scope_id), key=ALICE)
    assert [item.key for item in listed.documents] == ["shown"]
    names = [DocumentName(scope=scope, scope_id=scope_id, key=key) for key in ("hidden", "shown")]
    batch = await wire.call("BatchGetDocuments", d.BatchGetDocumentsRequest(names=names), key=ALICE)
    assert ([x.key for x in batch.documents], [x.key for x in batch.not_found]) == (["shown"], ["hidden"])
    await wire.create("alice~1", key=ALICE)
    writes: list[tuple[str, Any]] = [
        ("PutDocument", d.PutDocumentRequest(document=document(scope, scope_id, "shown"))),
        ("PutDocument", d.PutDocumentRequest(document=document(scope, scope_id, "none"))),
        ("DeleteDocument", d.DeleteDocumentRequest(scope=scope, scope_id=scope_id, key="hidden")),
        ("DeleteDocument", d.DeleteDocumentRequest(scope=scope, scope_id=scope_id, key="none")),
        (
            "AppendMessages",
            m.AppendMessagesRequest(
                session_id="alice~1",
                messages=[said("x")],
                documents=[DocumentWrite(put=document(scope, scope_id, "shown"))],
            ),
        ),
    ]
    for rpc, request in writes:
        failure = await wire.failure(rpc, request, key=ALICE)
        assert (failure.code, failure.reason) == (StatusCode.PERMISSION_DENIED, "DOCUMENT_READ_ONLY")
    await put(wire, document(scope, scope_id, "shown", json="3"))
    assert await reason(
        wire, "GetDocument", d.GetDocumentRequest(scope=scope, scope_id=scope_id, key="shown"), key=ALICE
    ) == ("DOCUMENT_NOT_FOUND")


async def test_a_bound_key_writes_documents_of_its_own_sessions(wire: Wire) -> None:
    await wire.create("alice~1", key=ALICE)
    answer = await put(wire, document(SESSION, "alice~1"), key=ALICE)
    assert (answer.version, answer.seq) == (1, 2)
    assert (await get(wire, document(SESSION, "alice~1"), key=ALICE)).seq == 2
    assert await reason(
        wire, "GetDocument", d.GetDocumentRequest(scope=SESSION, scope_id="alice~1", key="k"), key=BOB
    ) == ("DOCUMENT_NOT_FOUND")
    assert await reason(wire, "ListDocuments", d.ListDocumentsRequest(scope=SESSION, scope_id="alice~1"), key=BOB) == (
        "SESSION_NOT_FOUND"
    )


async def test_an_append_writes_three_scopes_under_one_request_id(wire: Wire) -> None:
    """What ADK's append_event does with app:, user: and session state."""
    await wire.create("s", user_id="ann", agent_id="app")
    request = m.AppendMessagesRequest(
        session_id="s",
        messages=[said("x")],
        request_id=str(uuid.uuid4()),
        documents=[
            DocumentWrite(put=document(AGENT, "app", json="1"), expected_version=0),
            DocumentWrite(put=document(USER, "ann", json="2")),
            DocumentWrite(put=document(SESSION, json="3")),
        ],
    )
    first = await wire.call("AppendMessages", request)
    assert [(x.scope, x.scope_id, x.version, x.seq) for x in first.documents] == [
        (AGENT, "app", 1, 0),
        (USER, "ann", 1, 0),
        (SESSION, "s", 1, 2),
    ]
    assert await wire.call("AppendMessages", request) == first
    assert (await get(wire, document(SESSION, "s"))).json == "3"
    metrics = await wire.call("GetSessionMetrics", s.GetSessionMetricsRequest(session_id="s"))
    assert (metrics.version, metrics.message_count) == (2, 1)
    # A key bound to the user names neither it nor the session.
    await wire.create("alice~1", key=ALICE)
    request = m.AppendMessagesRequest(
        session_id="alice~1",
        messages=[said("x")],
        documents=[DocumentWrite(put=document(USER)), DocumentWrite(put=document(SESSION))],
    )
    answer = await wire.call("AppendMessages", request, key=ALICE)
    assert [x.scope_id for x in answer.documents] == ["alice", "alice~1"]


@pytest.mark.parametrize(
    ("documents", "field"),
    [
        ([DocumentWrite(put=document(key=f"k{i}")) for i in range(17)], "documents"),
        ([DocumentWrite(put=document(key=f"k{i}", json=f'"{"x" * 262_142}"')) for i in range(2)], "documents"),
        ([DocumentWrite(put=document()), DocumentWrite(delete=DocumentName(scope=TENANT, key="k"))], "documents[1]"),
        ([DocumentWrite()], "documents[0]"),
        ([DocumentWrite(put=document(), expected_version=-1)], "documents[0].expected_version"),
        ([DocumentWrite(put=document(SESSION, "other"))], "documents[0].put.scope_id"),
        ([DocumentWrite(put=document(key=""))], "documents[0].put.key"),
        ([DocumentWrite(delete=DocumentName(scope=AGENT, key="k"))], "documents[0].delete.scope_id"),
        ([DocumentWrite(put=document(USER, "bob"))], "documents[0].scope_id"),
    ],
    ids=range(9),
)
async def test_documents_of_an_append_have_bounds(wire: Wire, documents: list[DocumentWrite], field: str) -> None:
    await wire.create("s", user_id="ann")
    request = m.AppendMessagesRequest(session_id="s", messages=[said("x")], documents=documents)
    failure = await wire.failure("AppendMessages", request)
    assert (failure.reason, set(failure.violations)) == ("INVALID_FIELD", {field})
    good = [DocumentWrite(put=document(key=f"k{i}", json=f'"{"x" * 29_998}"')) for i in range(16)]
    good[0].put.json += " " * (512 * 1024 - sum(write.ByteSize() for write in good))
    assert sum(write.ByteSize() for write in good) == 512 * 1024
    request = m.AppendMessagesRequest(session_id="s", messages=[said("x")], documents=good)
    assert len((await wire.call("AppendMessages", request)).documents) == 16
    request.documents[0].put.json += " "
    failure = await wire.failure("AppendMessages", request)
    assert (failure.reason, set(failure.violations)) == ("INVALID_FIELD", {"documents"})


async def test_json_texts_of_an_append_must_be_json_and_stay_as_they_are(wire: Wire) -> None:
    """Small requests, and those that are parsed and checked in slices."""
    await wire.create("s")
    for padding in ("", " " * 100_000):
        text = f'{{"n": 9007199254740993, "a": 1.0,{padding}"n": "\\ud800"}}\n'
        parts = [Part(json=text), Part(text="{")]
        put = DocumentWrite(put=document(SESSION, json=text))
        request = m.AppendMessagesRequest(
            session_id="s", messages=[Message(role=Role.ROLE_USER, parts=parts)], documents=[put]
        )
        answer = await wire.call("AppendMessages", request)
        got = await wire.call("GetMessage", m.GetMessageRequest(session_id="s", message_id=answer.message_ids[0]))
        assert [part.json for part in got.parts] == [text, ""]
        request.messages[0].parts.add(json=text[:-2])
        request.documents[0].put.json = f"[{padding}"
        failure = await wire.failure("AppendMessages", request)
        assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert failure.violations == dict.fromkeys(["messages[0].parts[2].json", "documents[0].put.json"], NOT_JSON)
