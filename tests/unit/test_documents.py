"""Documents while a batch is decided: versions, times, ends. And the ranges of keys that a prefix selects."""

import pytest

from sessiond.v1.document_pb2 import Document, DocumentScope
from sessiond_server.domain.documents.changes import DocumentChanges, parts
from sessiond_server.domain.documents.rows import DocumentKey, DocumentRecord
from sessiond_server.domain.times import SECOND, microseconds
from sessiond_server.postgres.documents import behind

SESSION = DocumentScope.DOCUMENT_SCOPE_SESSION
ANNS: DocumentKey = ("t", DocumentScope.DOCUMENT_SCOPE_USER, "ann", "k")
OF_S: DocumentKey = ("t", SESSION, "s", "k")
NOW = 1_700_000_000 * SECOND


def record(version: int = 3, expires: int | None = None, *, deleted: bool = False) -> DocumentRecord:
    return DocumentRecord(version, NOW - 50, NOW - 10, expires, deleted)


def given(ttl: int = 0) -> Document:
    document = Document(json="1")
    if ttl:
        document.ttl.seconds = ttl
    return document


@pytest.mark.parametrize(
    ("stored", "version"),
    [
        (None, 0),
        (record(), 3),
        (record(expires=NOW + 1), 3),
        (record(expires=NOW), 0),
        (record(deleted=True), 0),
    ],
)
def test_a_document_exists_until_it_is_deleted_or_expires(stored: DocumentRecord | None, version: int) -> None:
    changes = DocumentChanges({ANNS: stored} if stored else {}, NOW)
    assert changes.version(ANNS) == version
    change = changes.put(ANNS, given(), 0)
    assert change.version == (stored.version + 1 if stored else 1)
    created = NOW - 50 if version else NOW
    assert (microseconds(change.create_time), microseconds(change.update_time)) == (created, NOW)
    (row,) = changes.rows()
    assert row.created == (stored is None)


def test_times_of_a_document_do_not_go_back_with_the_clock() -> None:
    changes = DocumentChanges({ANNS: record()}, NOW - 1000)
    change = changes.put(ANNS, given(ttl=60), 0)
    assert microseconds(change.update_time) == NOW - 10
    assert microseconds(change.expire_time) == NOW - 10 + 60 * SECOND


def test_a_deletion_keeps_the_version_and_nothing_else() -> None:
    changes = DocumentChanges({ANNS: record(expires=NOW + 5)}, NOW)
    change = changes.delete(ANNS, 0)
    assert (change.version, change.deleted, change.HasField("update_time")) == (3, True, False)
    (row,) = changes.rows()
    assert (row.record.version, row.record.expire_time_us, row.body, row.value, row.labels) == (3, None, b"", b"", {})
    assert changes.delete(ANNS, 0).version == 0
    assert changes.put(ANNS, given(), 0).version == 4


def test_a_deletion_of_what_is_not_there_writes_nothing() -> None:
    changes = DocumentChanges({}, NOW)
    assert changes.delete(ANNS, 0).version == 0
    assert changes.rows() == []


def test_a_session_takes_its_own_documents_along() -> None:
    other: DocumentKey = ("t", SESSION, "other", "k")
    changes = DocumentChanges({OF_S: record(), ANNS: record(), other: record()}, NOW)
    new: DocumentKey = ("t", SESSION, "s", "new")
    changes.put(new, given(), 7)
    changes.end_session("t", "s")
    assert [changes.version(key) for key in (OF_S, new, ANNS, other)] == [0, 0, 3, 3]
    assert [row.key for row in changes.rows()] == [OF_S, new]


def test_rows_are_in_the_order_of_locks() -> None:
    changes = DocumentChanges({}, NOW)
    keys: list[DocumentKey] = [OF_S, ANNS, ("t", SESSION, "s", "a"), ("s", SESSION, "z", "z")]
    for key in keys:
        changes.put(key, given(), 0)
    assert [row.key for row in changes.rows()] == sorted(keys)


def test_the_parts_of_a_document_join_to_the_answer() -> None:
    changes = DocumentChanges({}, NOW)
    document = Document(data=b"\0", media_type="m", labels={"a": "b"}, user_readable=True, version=99, key="no")
    change = changes.put(ANNS, document, 0)
    body, value = parts(document, change)
    (row,) = changes.rows()
    assert (row.body, row.value) == (body, value)
    joined = Document.FromString(body + value)
    assert (joined.data, joined.media_type, joined.version, joined.key, joined.scope_id) == (b"\0", "m", 1, "k", "ann")
    assert Document.FromString(body).WhichOneof("value") is None


@pytest.mark.parametrize(
    ("prefix", "above"),
    [
        ("", ""),
        ("a", "b"),
        ("a/", "a0"),
        ("\ud7ff", "\ue000"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", ""),
        ("é", "ê"),
    ],
)
def test_what_lies_behind_a_prefix(prefix: str, above: str) -> None:
    assert behind(prefix) == above
    assert not above or above > prefix + "\U0010ffff" * 3
