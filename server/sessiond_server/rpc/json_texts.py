"""The JSON texts of requests, and the check that they are JSON."""

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Final

from sessiond.v1.document_service_pb2 import PutDocumentRequest
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from sessiond_server.domain import json_text
from sessiond_server.domain.validation import FieldViolations


def _of_append(request: AppendMessagesRequest) -> Iterator[tuple[str, str]]:
    for index, message in enumerate(request.messages):
        for place, part in enumerate(message.parts):
            if part.HasField("json"):
                yield f"messages[{index}].parts[{place}].json", part.json
    for index, write in enumerate(request.documents):
        if write.put.HasField("json"):
            yield f"documents[{index}].put.json", write.put.json


def _of_put(request: PutDocumentRequest) -> Iterator[tuple[str, str]]:
    if request.document.HasField("json"):
        yield "document.json", request.document.json


TEXTS: Final[Mapping[str, Callable[[Any], Iterator[tuple[str, str]]]]] = {
    AppendMessagesRequest.DESCRIPTOR.full_name: _of_append,
    PutDocumentRequest.DESCRIPTOR.full_name: _of_put,
}
"""(path, text) of each JSON text of a request, by the name of its type."""


def check(texts: Iterator[tuple[str, str]]) -> Generator[None, None, None]:
    """Checks the texts; yields where other calls may have a turn. Raises InvalidFields at the end."""
    found, room = FieldViolations(), json_text.Room()
    for path, text in texts:
        found.add(path, (yield from json_text.walk(text, room)))
        if found.enough:
            break
    found.check()
