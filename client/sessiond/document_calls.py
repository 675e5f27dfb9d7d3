"""The client's methods for documents."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from sessiond.connection import Connection
from sessiond.documents import owner, to_document
from sessiond.pages import Pages
from sessiond.request_ids import new_request_id
from sessiond.v1.document_pb2 import Document, DocumentName
from sessiond.v1.document_service_pb2 import (
    BatchGetDocumentsRequest,
    BatchGetDocumentsResponse,
    DeleteDocumentRequest,
    GetDocumentRequest,
    ListDocumentsRequest,
    ListDocumentsResponse,
    PutDocumentRequest,
)


class DocumentCalls:
    """DocumentService; see `Client` for what all methods have in common.

    Each method takes at most one of `agent_id`, `user_id` and `session_id`: whose the document is. Without one it is
    the tenant's. With a key that is bound to a user, `user_id=""` is that user.
    """

    _connection: Connection

    async def put_document(
        self,
        key: str,
        value: Any,
        *,
        agent_id: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        json_text: bool = False,
        media_type: str = "",
        labels: Mapping[str, str] | None = None,
        ttl: timedelta | float | None = None,
        user_readable: bool = False,
        expected_version: int | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Document:
        """Creates or replaces a document, and returns it.

        `value` is stored as JSON, or as bytes if it is bytes; `sessiond.document_value` gives it back. With
        `json_text` it is a JSON text (str), which is kept byte for byte. `ttl` is in seconds, if a number.
        `user_readable` lets keys that are bound to a user read a document of the tenant or an agent.
        `expected_version` 0 means that there must be no such document, None any version.

        Raises DocumentVersionMismatch, DocumentReadOnly, DocumentLocked; SessionNotFound, SessionEnded; TypeError and
        ValueError for a value that JSON cannot have.
        """
        document = to_document(
            key,
            value,
            agent_id=agent_id,
            user_id=user_id,
            session_id=session_id,
            json_text=json_text,
            media_type=media_type,
            labels=labels,
            ttl=ttl,
            user_readable=user_readable,
        )
        request = PutDocumentRequest(
            document=document, expected_version=expected_version, request_id=request_id or new_request_id()
        )
        call = self._connection.documents.PutDocument
        return await self._connection.call(call, request, timeout, request.request_id)

    async def get_document(
        self,
        key: str,
        *,
        agent_id: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        timeout: float | None = None,
    ) -> Document:
        """Returns a document. Raises DocumentNotFound."""
        scope, scope_id = owner(agent_id, user_id, session_id)
        request = GetDocumentRequest(scope=scope, scope_id=scope_id, key=key)
        return await self._connection.call(self._connection.documents.GetDocument, request, timeout)

    async def batch_get_documents(
        self, names: Iterable[DocumentName], *, timeout: float | None = None
    ) -> BatchGetDocumentsResponse:
        """Returns 1 to 100 documents of any owners, named by `sessiond.document_name`. The answer names the documents
        that were not found, and those to request again."""
        request = BatchGetDocumentsRequest(names=names)
        return await self._connection.call(self._connection.documents.BatchGetDocuments, request, timeout)

    def list_documents(
        self,
        *,
        agent_id: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        key_prefix: str = "",
        labels: Mapping[str, str] | None = None,
        omit_values: bool = False,
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> Pages[ListDocumentsResponse, Document]:
        """Lists the documents of one owner whose keys begin with `key_prefix` and that have all `labels`, by ascending
        key, for `async for`; see Pages.

        `page_size` 0 means 20; the maximum is 100. `timeout` applies to each page. Raises, when it is read:
        SessionNotFound, InvalidPageToken.
        """
        scope, scope_id = owner(agent_id, user_id, session_id)

        async def fetch(token: str) -> ListDocumentsResponse:
            request = ListDocumentsRequest(
                scope=scope,
                scope_id=scope_id,
                key_prefix=key_prefix,
                labels=labels,
                omit_values=omit_values,
                page_size=page_size,
                page_token=token,
            )
            return await self._connection.call(self._connection.documents.ListDocuments, request, timeout)

        return Pages(fetch, lambda page: page.documents, page_token)

    async def delete_document(
        self,
        key: str,
        *,
        agent_id: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> int:
        """Deletes a document, and returns its last version.

        Raises DocumentNotFound, DocumentVersionMismatch, DocumentReadOnly, DocumentLocked; SessionNotFound,
        SessionEnded.
        """
        scope, scope_id = owner(agent_id, user_id, session_id)
        request = DeleteDocumentRequest(
            scope=scope,
            scope_id=scope_id,
            key=key,
            expected_version=expected_version,
            request_id=request_id or new_request_id(),
        )
        call = self._connection.documents.DeleteDocument
        return (await self._connection.call(call, request, timeout, request.request_id)).version
