"""The runs of a session with their messages: read for the platform, and written where a session is created with some.

A conversation that was written without runs is shown as runs too, by turns: one begins with a message of the user that
follows an answer, and has the id of its first message.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sessiond.v1.document_pb2 import DOCUMENT_SCOPE_SESSION, Document, DocumentName
from sessiond.v1.document_service_pb2 import BatchGetDocumentsRequest, PutDocumentRequest
from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.message_service_pb2 import AppendMessagesRequest, ListMessagesRequest, MessageOrder
from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.run_service_pb2 import ListRunsRequest
from sessiond.v1.session_pb2 import Session
from sessiond_server.http.agentos import messages as texts
from sessiond_server.http.agentos import runs
from sessiond_server.http.agentos.calls import Calls
from sessiond_server.http.agentos.pages import LARGEST_ANSWER
from sessiond_server.http.agentos.refusals import Json, Refused
from sessiond_server.http.agentos.runs import DOCUMENT, IN_DOCUMENT, Taken

MOST_RUNS: Final = 1000
"""Of a session of which all are read."""
MOST_MESSAGES: Final = 10_000
"""Of a session of which all are read."""
NEWEST: Final = 1000
"""Messages of a session among which those are that its detail shows."""
_APPENDED: Final = 256
"""Messages of one append."""
_APPENDED_BYTES: Final = 2 * 1024 * 1024


async def conversation(calls: Calls, session: Session) -> tuple[list[Json], int]:
    """What users and assistants said, among the newest messages, oldest first, and how many bytes that is. Raises
    Problem."""
    asked = ListMessagesRequest(
        session_id=session.session_id,
        order_by=MessageOrder.MESSAGE_ORDER_NEWEST_FIRST,
        page_size=NEWEST,
        min_version=session.version,
    )
    if not session.message_count:
        return [], 0
    got = (await calls("ListMessages", asked)).messages
    said = [
        each
        for each in reversed(got)
        if each.role in (Role.ROLE_USER, Role.ROLE_ASSISTANT) and texts.MEMBER_LABEL not in each.labels
    ]
    weight = sum(each.ByteSize() for each in said)
    return await calls.run(weight, _shown, said), weight


async def stored_runs(calls: Calls, session: Session) -> tuple[list[Json], int]:
    """The runs as the platform stores them, oldest first, and about how many bytes they have. Raises Refused where they
    are too many or too large, and Problem."""
    begun = await _runs(calls, session)
    spoken = await _messages(calls, session)
    more = await _kept(calls, session, begun)
    weight = sum(each.ByteSize() for each in (*spoken, *begun))
    return await calls.run(weight, _stored, session, begun, spoken, more), weight


def _stored(session: Session, begun: Sequence[Run], spoken: Sequence[Message], more: Mapping[str, Json]) -> list[Json]:
    return [
        runs.shown(run, session, _shown(own), more.get(run.run_id, {})) for run, own in _with_messages(begun, spoken)
    ]


def _shown(spoken: Sequence[Message]) -> list[Json]:
    return [found for message in spoken for found in texts.shown(message)]


async def _runs(calls: Calls, session: Session) -> list[Run]:
    if not session.run_count:
        return []
    asked = ListRunsRequest(session_id=session.session_id, page_size=100, min_version=session.version)
    found: list[Run] = []
    while True:
        got = await calls("ListRuns", asked)
        found += got.runs
        if len(found) > MOST_RUNS:
            raise Refused(413, f"the session has more than {MOST_RUNS} runs; /v1/sessions/ID/runs lists them by pages")
        asked.page_token = got.next_page_token
        if not asked.page_token:
            return found[::-1]


async def _messages(calls: Calls, session: Session) -> list[Message]:
    if session.message_count > MOST_MESSAGES:
        raise Refused(
            413, f"the session has more than {MOST_MESSAGES} messages; /v1/sessions/ID/messages lists them by pages"
        )
    if not session.message_count:
        return []
    asked = ListMessagesRequest(session_id=session.session_id, page_size=1000, min_version=session.version)
    found: list[Message] = []
    size = 0
    while True:
        got = await calls("ListMessages", asked)
        found += got.messages
        size += got.ByteSize()
        if size > LARGEST_ANSWER:
            mib = LARGEST_ANSWER // 1024 // 1024
            raise Refused(
                413, f"the session's messages have more than {mib} MiB; /v1/sessions/ID/messages lists them by pages"
            )
        asked.page_token = got.next_page_token
        if not asked.page_token:
            return found


async def _kept(calls: Calls, session: Session, begun: Sequence[Run]) -> dict[str, Json]:
    """What is kept of runs beside their fields, by their ids. A document that is gone leaves what the fields say."""
    found = {run.run_id: texts.kept(run.metadata) for run in begun}
    waiting = [_document(session, run_id) for run_id, more in found.items() if more.get(IN_DOCUMENT)]
    size = 0
    while waiting:
        asked = BatchGetDocumentsRequest(names=waiting[:100])
        got = await calls("BatchGetDocuments", asked)
        size += got.ByteSize()
        if size > LARGEST_ANSWER:
            raise Refused(
                413, "the session's runs are too large for one answer; /v1/sessions/ID/runs lists them by pages"
            )
        found |= {each.key.removeprefix(DOCUMENT): json.loads(each.json) for each in got.documents}
        found |= {each.key.removeprefix(DOCUMENT): {} for each in got.not_found}
        waiting = [*got.omitted, *waiting[100:]]
    return found


def _document(session: Session, run_id: str) -> DocumentName:
    return DocumentName(scope=DOCUMENT_SCOPE_SESSION, scope_id=session.session_id, key=DOCUMENT + run_id)


@dataclass(slots=True)
class _Turns:
    """Runs with their messages, while the messages are gone through."""

    known: dict[str, Run]
    found: dict[str, tuple[Run, list[Message]]] = field(default_factory=dict)
    loose: list[Message] = field(default_factory=list)
    """Messages of no run that belong to no turn yet."""

    def add(self, message: Message) -> None:
        if run := self.known.get(message.run_id):
            if run.run_id not in self.found:
                # What a person wrote before a run is usually of no run, and is what the run was asked.
                asked = [] if self._answered() else self.loose
                if not asked:
                    self.close()
                self.found[run.run_id] = (run, asked)
                self.loose = []
            self.found[run.run_id][1].append(message)
            return
        if message.role == Role.ROLE_USER and self._answered():
            self.close()
        self.loose.append(message)

    def _answered(self) -> bool:
        return any(each.role == Role.ROLE_ASSISTANT for each in self.loose)

    def close(self) -> None:
        if not self.loose:
            return
        first = self.loose[0]
        run = Run(run_id=first.message_id, status=RunStatus.RUN_STATUS_COMPLETED, create_time=first.create_time)
        self.found.setdefault(run.run_id, (run, self.loose))
        self.loose = []


def _with_messages(begun: Sequence[Run], spoken: Sequence[Message]) -> Iterator[tuple[Run, list[Message]]]:
    """Runs and turns with their messages, in the order in which they were begun."""
    turns = _Turns({run.run_id: run for run in begun})
    for message in spoken:
        turns.add(message)
    turns.close()
    silent = [(run, list[Message]()) for run in begun if run.run_id not in turns.found]
    order = {run.run_id: place for place, run in enumerate(begun)}
    # Runs that a session was created with have one `seq`.
    yield from sorted(
        [*turns.found.values(), *silent],
        key=lambda each: (each[0].seq or each[1][0].seq, order.get(each[0].run_id, 0)),
    )


def taken(given: Sequence[Json], session: Session) -> list[Taken]:
    """What the runs become that a session is created with."""
    ids, run_ids = set[str](), set[str]()
    now = time.time()
    return [runs.taken_run(each, session, ids, run_ids, now) for each in given]


async def write(calls: Calls, session: Session, made: Sequence[Taken], request_id: str) -> None:
    """Writes what runs have beside themselves: messages, and documents. A retry with the same request id goes on where
    an attempt broke off. Raises Problem and Refused."""
    number = 0
    for each in made:
        if each.document:
            name = _document(session, each.run.run_id)
            document = Document(scope=name.scope, scope_id=name.scope_id, key=name.key, json=each.document)
            await calls("PutDocument", PutDocumentRequest(document=document, request_id=part(request_id, number)))
            number += 1
    for chunk in _chunks([message for each in made for message in each.messages]):
        asked = AppendMessagesRequest(
            session_id=session.session_id, messages=chunk, request_id=part(request_id, number)
        )
        await calls("AppendMessages", asked)
        number += 1


def part(request_id: str, number: int) -> str:
    """The request id of one of several writes; none, if the caller gave none."""
    return hashlib.sha256(f"{request_id}:{number}".encode()).hexdigest() if request_id else ""


def _chunks(given: Sequence[Message]) -> Iterator[list[Message]]:
    chunk: list[Message] = []
    size = 0
    for message in given:
        more = message.ByteSize()
        if chunk and (len(chunk) == _APPENDED or size + more > _APPENDED_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += more
    if chunk:
        yield chunk
