"""MessageService. Each RPC makes four moves: check, authorise, call, answer."""

from dataclasses import replace

from sessiond.v1.message_service_pb2 import (
    AppendMessagesRequest,
    DeleteMessagesRequest,
    GetMessageRequest,
    ListMessagesRequest,
    ListMessagesResponse,
    RedactMessageRequest,
)
from sessiond.v1.session_pb2 import Session
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.domain.commands import MessageRedacted, MessagesAppended, MessagesDeleted, Scope
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rewinds.ranges import Ranges
from sessiond_server.rpc import answers, as_of, fields
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.messages import checks as requests
from sessiond_server.rpc.messages.pages import MessagePages
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.store.commits import Writer
from sessiond_server.store.history import HistoryReads
from sessiond_server.store.session_reads import Freshness, MessagesPage, SessionQueries, SessionReads


class MessageServicer:
    """The RPCs of sessiond.v1.MessageService."""

    def __init__(
        self,
        sessions: SessionReads,
        queries: SessionQueries,
        history: HistoryReads,
        writer: Writer,
        tokens: PageTokens,
        largest: int,
    ) -> None:
        """`largest`: most bytes of one message."""
        self._largest = largest
        self._sessions = sessions
        self._queries = queries
        self._history = history
        self._writer = writer
        self._tokens = tokens

    async def append_messages(self, request: AppendMessagesRequest, call: Call) -> bytes:
        action = requests.append_messages(request, call.scope, self._largest)
        scope = call.admit(SESSIONS_WRITE)
        fence = fields.fence_of(request)
        command = call.command(scope, request, request.session_id, action, request.expected_version, fence)
        return answers.appended(answers.outcome(MessagesAppended, await self._writer.write(command)))

    async def get_message(self, request: GetMessageRequest, call: Call) -> bytes:
        fields.named_read(request, "message_id")
        scope = call.admit(SESSIONS_READ)
        version, message = await self._queries.get_message(scope, request.session_id, request.message_id)
        answers.not_before(request.min_version, request.session_id, version)
        return message

    async def list_messages(self, request: ListMessagesRequest, call: Call) -> bytes:
        read = requests.list_messages(request)
        scope = call.admit(SESSIONS_READ)
        session_id, after_seq, before_seq = request.session_id, request.after_seq, request.before_seq
        bound_to = (read.descending, after_seq, before_seq, *((read.filter,) if read.filter else ()))
        bound_to += as_of.bound_to(request)
        bound_to += (fields.INCLUDE_REWOUND,) if read.include_rewound else ()
        tokens = self._tokens.of(scope, call.method.path, session_id, *bound_to)
        pages = MessagePages(tokens, read.descending, after_seq, before_seq, request.page_token)
        pages.place = await as_of.place(self._history, scope, request, pages.place)
        page = await self._page(scope, request, read, pages)
        answers.not_before(request.min_version, session_id, page.version)
        if pages.place and not await as_of.check_page(self._sessions, scope, session_id, pages.place, page.version):
            # Something else was hidden then.
            _, then = await self._history.get_session_at(scope, session_id, pages.place, content=False)
            page = await self._page(scope, request, read, pages, ranges.of_session(Session.FromString(then.core)))
        following, preceding = pages.around(page)
        version = pages.place or page.version
        rest = ListMessagesResponse(next_page_token=following, previous_page_token=preceding, version=version)
        return answers.listed_messages(pages.ordered(page), rest)

    async def _page(
        self,
        scope: Scope,
        request: ListMessagesRequest,
        read: requests.MessagesList,
        pages: MessagePages,
        rewound: Ranges | None = None,
    ) -> MessagesPage:
        bounds = pages.bounds
        if read.selection is not None:
            return await self._queries.find_messages(
                scope,
                request.session_id,
                read.selection,
                limit=read.limit,
                rewound=rewound,
                include_rewound=read.include_rewound,
                **bounds,
            )
        freshness = Freshness(max(request.min_version, pages.place), read.strong)
        return await self._sessions.list_messages(
            scope,
            request.session_id,
            limit=read.limit,
            rewound=rewound,
            include_rewound=read.include_rewound,
            freshness=freshness,
            **bounds,
        )

    async def redact_message(self, request: RedactMessageRequest, call: Call) -> bytes:
        action = requests.redact_message(request)
        scope = call.admit(SESSIONS_WRITE)
        command = call.command(scope, request, request.session_id, action, request.expected_version)
        return answers.outcome(MessageRedacted, await self._writer.write(command)).message

    async def delete_messages(self, request: DeleteMessagesRequest, call: Call) -> bytes:
        action = requests.delete_messages(request)
        scope = call.admit(SESSIONS_WRITE)
        fence = fields.fence_of(request)
        command = call.command(scope, request, request.session_id, action, request.expected_version, fence)
        command = replace(command, size=command.size + requests.weight(action))
        return answers.deleted_messages(answers.outcome(MessagesDeleted, await self._writer.write(command)))
