"""The client's methods for messages."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from collections.abc import Iterable

from sessiond.connection import Connection
from sessiond.fields import (
    ConsistencyLike,
    Fence,
    MessageOrderLike,
    SessionChanges,
    StructUpdateLike,
    enum_value,
    run_fence,
)
from sessiond.pages import MessagePages
from sessiond.request_ids import new_request_id
from sessiond.session_update import session_update
from sessiond.v1.message_pb2 import Message
from sessiond.v1.message_service_pb2 import (
    AppendMessagesRequest,
    AppendMessagesResponse,
    GetMessageRequest,
    ListMessagesRequest,
    ListMessagesResponse,
    MessageOrder,
    RedactMessageRequest,
)
from sessiond.v1.session_pb2 import Consistency


class MessageCalls:
    """MessageService; see `Client` for what all methods have in common."""

    _connection: Connection

    async def append_messages(
        self,
        session_id: str,
        messages: Iterable[Message],
        *,
        update: SessionChanges | None = None,
        struct_update: StructUpdateLike = "replace",
        remove_keys: Iterable[str] = (),
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> AppendMessagesResponse:
        """Appends 1 to 256 messages in order, all or none, and returns their ids and `seq`. `run` is the run that
        writes.

        `update`, such as `{"state": {"step": 2}}`, and `remove_keys` change the session in the same transaction; they
        and `struct_update` are as in `update_session`.

        Raises SessionNotFound, SessionNotActive, SessionEnded, MessageAlreadyExists, MessageLimitReached, ToolBlocked,
        RunFenced; ValueError for an update that names no field.
        """
        request = AppendMessagesRequest(
            session_id=session_id,
            messages=messages,
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        keys = tuple(remove_keys)
        if update or keys:
            request.update.CopyFrom(session_update(update or {}, struct_update, keys))
        call = self._connection.messages.AppendMessages
        return await self._connection.call(call, request, timeout, request.request_id)

    async def get_message(
        self,
        session_id: str,
        message_id: str,
        *,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> Message:
        """Returns a message. Raises SessionNotFound, MessageNotFound, VersionNotReached."""
        request = GetMessageRequest(
            session_id=session_id,
            message_id=message_id,
            min_version=min_version,
            consistency=enum_value(Consistency.DESCRIPTOR, consistency),
        )
        return await self._connection.call(self._connection.messages.GetMessage, request, timeout)

    def list_messages(
        self,
        session_id: str,
        *,
        order_by: MessageOrderLike = "oldest_first",
        page_size: int = 0,
        page_token: str = "",
        after_seq: int = 0,
        before_seq: int = 0,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> MessagePages:
        """Lists a session's messages between two `seq` (both exclusive; 0: no bound), for `async for`; see Pages.

        `page_size` 0 means 50; the maximum is 1000. `timeout` applies to each page. Raises, when it is read:
        SessionNotFound, InvalidPageToken, VersionNotReached.
        """
        order = enum_value(MessageOrder.DESCRIPTOR, order_by)
        freshness = enum_value(Consistency.DESCRIPTOR, consistency)

        async def fetch(token: str) -> ListMessagesResponse:
            request = ListMessagesRequest(
                session_id=session_id,
                order_by=order,
                page_size=page_size,
                page_token=token,
                after_seq=after_seq,
                before_seq=before_seq,
                min_version=min_version,
                consistency=freshness,
            )
            return await self._connection.call(self._connection.messages.ListMessages, request, timeout)

        return MessagePages(fetch, lambda page: page.messages, page_token)

    async def redact_message(
        self,
        session_id: str,
        message_id: str,
        *,
        reason: str = "",
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Message:
        """Removes a message's content for ever and returns the redacted message. `reason` (at most 200 characters) is
        stored with it.

        Raises SessionNotFound, MessageNotFound, SessionEnded.
        """
        request = RedactMessageRequest(
            session_id=session_id,
            message_id=message_id,
            reason=reason,
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.messages.RedactMessage
        return await self._connection.call(call, request, timeout, request.request_id)
