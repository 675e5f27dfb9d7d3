"""DocumentService. Each RPC makes four moves: check, authorise, call, answer."""

from typing import cast

from sessiond.v1.document_pb2 import DocumentChange, DocumentScope
from sessiond.v1.document_service_pb2 import (
    BatchGetDocumentsRequest,
    DeleteDocumentRequest,
    DeleteDocumentResponse,
    GetDocumentRequest,
    ListDocumentsRequest,
    PutDocumentRequest,
)
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.domain.commands import DocumentWrite, DocumentWritten
from sessiond_server.domain.documents.changes import parts
from sessiond_server.domain.documents.rows import SESSION
from sessiond_server.errors import DocumentNotFound
from sessiond_server.rpc import answers
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.documents import checks as requests
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.store.commits import Writer
from sessiond_server.store.documents import DocumentReads


class DocumentServicer:
    """The RPCs of sessiond.v1.DocumentService."""

    def __init__(self, documents: DocumentReads, writer: Writer, tokens: PageTokens) -> None:
        self._documents = documents
        self._writer = writer
        self._tokens = tokens

    async def get_document(self, request: GetDocumentRequest, call: Call) -> bytes:
        name = requests.get_document(request, call.scope)
        scope = call.admit(SESSIONS_READ)
        (document,) = await self._documents.get_documents(scope, [name])
        if document is None:
            raise DocumentNotFound(DocumentScope.Name(name[0]), name[1], name[2])
        return document

    async def batch_get_documents(self, request: BatchGetDocumentsRequest, call: Call) -> bytes:
        names = requests.batch_get_documents(request, call.scope)
        scope = call.admit(SESSIONS_READ)
        return answers.batch_of_documents(request.names, await self._documents.get_documents(scope, names))

    async def put_document(self, request: PutDocumentRequest, call: Call) -> bytes:
        action = requests.put_document(request, call.scope)
        change = await self._write(request, action, call)
        return b"".join(parts(request.document, change))

    async def list_documents(self, request: ListDocumentsRequest, call: Call) -> bytes:
        read = requests.list_documents(request, call.scope)
        scope = call.admit(SESSIONS_READ)
        selection = ListDocumentsRequest()
        selection.CopyFrom(request)
        selection.ClearField("page_token")
        selection.ClearField("page_size")
        tokens = self._tokens.of(scope, call.method.path, selection.SerializeToString(deterministic=True))
        # A token that this list has sealed holds a key.
        after = cast("list[str] | None", tokens.open(request.page_token))
        page = await self._documents.list_documents(
            scope,
            read.owner,
            key_prefix=request.key_prefix,
            labels=request.labels,
            after=after[0] if after else "",
            limit=read.limit,
            values=not request.omit_values,
        )
        return answers.listed_documents(page.documents, tokens.seal([page.next_key]) if page.next_key else "")

    async def delete_document(self, request: DeleteDocumentRequest, call: Call) -> bytes:
        change = await self._write(request, requests.delete_document(request, call.scope), call)
        return DeleteDocumentResponse(version=change.version, seq=change.seq).SerializeToString()

    async def _write(
        self, request: PutDocumentRequest | DeleteDocumentRequest, action: DocumentWrite, call: Call
    ) -> DocumentChange:
        scope = call.admit(SESSIONS_WRITE)
        session_id = action.scope_id if action.scope == SESSION else ""
        outcome = await self._writer.write(call.command(scope, request, session_id, action))
        return DocumentChange.FromString(answers.outcome(DocumentWritten, outcome).change)
