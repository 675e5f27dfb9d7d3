"""The client's methods for messages."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from collections.abc import Iterable, Mapping
from datetime import datetime

from sessiond.fields import (
    ConsistencyLike,
    Fence,
    MessageOrderLike,
    RoleLike,
    SessionChanges,
    StructUpdateLike,
    enum_value,
    run_fence,
    timestamp,
)
from sessiond.pages import MessagePages
from sessiond.part_calls import PartCalls
from sessiond.request_ids import new_request_id
from sessiond.session_update import session_update
from sessiond.v1.document_pb2 import DocumentWrite
from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.message_service_pb2 import (
    AppendMessagesRequest,
    AppendMessagesResponse,
    DeleteMessagesRequest,
    DeleteMessagesResponse,
    GetMessageRequest,
    ListMessagesRequest,
    ListMessagesResponse,
    MessageFilter,
    MessageIds,
    MessageOrder,
    RedactMessageRequest,
    SeqRange,
)
from sessiond.v1.session_pb2 import Consistency


class MessageCalls(PartCalls):
    """MessageService; see `Client` for what all methods have in common."""

    async def append_messages(
        self,
        session_id: str,
        messages: Iterable[Message],
        *,
        update: SessionChanges | None = None,
        struct_update: StructUpdateLike = "replace",
        remove_keys: Iterable[str] = (),
        documents: Iterable[DocumentWrite] = (),
        offload_above: int | None = None,
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> AppendMessagesResponse:
        """Appends 1 to 256 messages in order, all or none, and returns their ids and `seq`. `run` is the run that
        writes.

        `update`, such as `{"state": {"step": 2}}`, and `remove_keys` change the session in the same transaction; they
        and `struct_update` are as in `update_session`. `documents`, at most 16 made by `sessiond.document_put` and
        `document_delete`, are written in that transaction too; the answer's `documents` say what was done to each.

        Parts of more than `offload_above` bytes, where it is given, are put into attachments first, by `offload_parts`,
        whose uploads have the deadlines of uploads and raise as `upload` does.

        Raises SessionNotFound, SessionNotActive, SessionEnded, MessageAlreadyExists, MessageLimitReached, ToolBlocked,
        RunFenced; DocumentVersionMismatch, DocumentReadOnly, DocumentLocked; ValueError for an update that names no
        field.
        """
        request_id = request_id or new_request_id()
        if offload_above is not None:
            messages = await self.offload_parts(
                session_id, messages, above=offload_above, run=run, request_id=request_id
            )
        request = AppendMessagesRequest(
            session_id=session_id,
            messages=messages,
            documents=documents,
            run=run_fence(run),
            request_id=request_id,
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
        labels: Mapping[str, str] | None = None,
        roles: Iterable[RoleLike] = (),
        name: str = "",
        run_id: str = "",
        client_time_from: datetime | None = None,
        client_time_until: datetime | None = None,
        as_of_seq: int = 0,
        as_of_time: datetime | None = None,
        include_rewound: bool = False,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> MessagePages:
        """Lists a session's messages between two `seq` (both exclusive; 0: no bound), for `async for`; see Pages.

        Only those that have all `labels`, one of `roles`, this `name`, were written in the run `run_id`, and in this
        range of `client_time` (from inclusive, until exclusive), as far as these are given. Pages of such a list may be
        short or empty and still be followed by others.

        With `as_of_seq` (0: now) or `as_of_time`, lists what it would have listed when the session was at that
        version, or at that time, but for redactions and deletions since; raises InvalidFields for a place that the
        session has not.

        `include_rewound`: also those that a rewind has hidden, each with `rewound` set.

        `page_size` 0 means 50; the maximum is 1000. `timeout` applies to each page. Raises, when it is read:
        SessionNotFound, InvalidPageToken, VersionNotReached.
        """
        order = enum_value(MessageOrder.DESCRIPTOR, order_by)
        freshness = enum_value(Consistency.DESCRIPTOR, consistency)
        moment = None if as_of_time is None else timestamp(as_of_time)
        where = MessageFilter(
            labels=labels,
            roles=[enum_value(Role.DESCRIPTOR, role) for role in roles],
            name=name,
            run_id=run_id,
            client_time_from=None if client_time_from is None else timestamp(client_time_from),
            client_time_until=None if client_time_until is None else timestamp(client_time_until),
        )

        async def fetch(token: str) -> ListMessagesResponse:
            request = ListMessagesRequest(
                session_id=session_id,
                order_by=order,
                page_size=page_size,
                page_token=token,
                after_seq=after_seq,
                before_seq=before_seq,
                include_rewound=include_rewound,
                min_version=min_version,
                consistency=freshness,
                as_of_seq=as_of_seq,
                as_of_time=moment,
                filter=where,
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

    async def delete_messages(
        self,
        session_id: str,
        *,
        message_ids: Iterable[str] = (),
        from_seq: int = 0,
        to_seq: int = 0,
        last_n: int = 0,
        return_messages: bool = False,
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> DeleteMessagesResponse:
        """Deletes messages for ever, all that are selected or none: up to 1000 `message_ids`, those with `seq` from
        `from_seq` through `to_seq`, or the `last_n` newest ones. Exactly one of the three must be given.

        `return_messages` answers with the deleted messages, oldest first; the service then keeps them for retries of
        this request, for 24 hours by default. `run` is the run that writes.

        Raises SessionNotFound, MessageNotFound (one of `message_ids` is not there), SessionEnded, DeletionTooLarge,
        RunFenced; ValueError for no selection or several.
        """
        ids = tuple(message_ids)
        if sum((bool(ids), bool(from_seq or to_seq), bool(last_n))) != 1:
            raise ValueError("give one of message_ids, from_seq with to_seq, and last_n")
        request = DeleteMessagesRequest(
            session_id=session_id,
            return_messages=return_messages,
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        if ids:
            request.ids.CopyFrom(MessageIds(message_ids=ids))
        elif last_n:
            request.last_n = last_n
        else:
            request.range.CopyFrom(SeqRange(from_seq=from_seq, to_seq=to_seq))
        call = self._connection.messages.DeleteMessages
        return await self._connection.call(call, request, timeout, request.request_id)

    async def pop_messages(
        self,
        session_id: str,
        n: int = 1,
        *,
        run: Fence | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> list[Message]:
        """Deletes the `n` newest messages (1 to 1000) and returns them, oldest first; fewer where the session has
        fewer. Safe to retry with the same `request_id`. Raises as `delete_messages`."""
        answer = await self.delete_messages(
            session_id, last_n=n, return_messages=True, run=run, request_id=request_id, timeout=timeout
        )
        return list(answer.messages)
