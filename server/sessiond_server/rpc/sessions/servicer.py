"""SessionService. Each RPC makes four moves: check, authorise, call, answer."""

import asyncio
from collections.abc import Sequence
from typing import cast

from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import (
    ActivateSessionRequest,
    BatchCreateSessionsRequest,
    BatchCreateSessionsResponse,
    BatchDeleteSessionsRequest,
    BatchDeleteSessionsResponse,
    BatchGetSessionsRequest,
    BatchUpdateSessionsRequest,
    BatchUpdateSessionsResponse,
    CountSessionsRequest,
    CountSessionsResponse,
    CreateSessionRequest,
    CreateSessionTokenRequest,
    DeleteSessionRequest,
    DeleteSessionResponse,
    EndSessionRequest,
    EraseUserRequest,
    ForkSessionRequest,
    GetErasureRequest,
    GetSessionMetricsRequest,
    GetSessionRequest,
    ListErasuresRequest,
    ListErasuresResponse,
    ListForksRequest,
    ListSessionsRequest,
    ResumeSessionRequest,
    RewindSessionRequest,
    SessionResult,
    SuspendSessionRequest,
    TouchSessionRequest,
    UpdateSessionRequest,
)
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.domain.commands import Action, Command, Scope, SessionDeleted, SessionWritten
from sessiond_server.errors import SessiondError, SessionNotFound, UnderLegalHold
from sessiond_server.rpc import answers, as_of, fields, status
from sessiond_server.rpc.call import Call, Item
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.rpc.routing import named_by
from sessiond_server.rpc.session_tokens import SessionTokens
from sessiond_server.rpc.sessions import branches as branch_requests
from sessiond_server.rpc.sessions import checks as requests
from sessiond_server.rpc.sessions import erasures as erasure_requests
from sessiond_server.rpc.sessions.from_templates import create_from_template
from sessiond_server.store.commits import Writer
from sessiond_server.store.erasures import ErasureStore
from sessiond_server.store.forks import ForkStore
from sessiond_server.store.history import HistoryReads
from sessiond_server.store.session_reads import Freshness, SessionQueries, SessionReads
from sessiond_server.store.templates import TemplateStore
from sessiond_server.store.work import WorkStore

_Change = (
    ActivateSessionRequest | SuspendSessionRequest | ResumeSessionRequest | EndSessionRequest | TouchSessionRequest
)


class SessionServicer:
    """The RPCs of sessiond.v1.SessionService."""

    def __init__(
        self,
        sessions: SessionReads,
        queries: SessionQueries,
        history: HistoryReads,
        work: WorkStore,
        forks: ForkStore,
        erasures: ErasureStore,
        templates: TemplateStore,
        writer: Writer,
        tokens: PageTokens,
        session_tokens: SessionTokens,
    ) -> None:
        self._sessions = sessions
        self._queries = queries
        self._history = history
        self._work = work
        self._forks = forks
        self._erasures = erasures
        self._templates = templates
        self._writer = writer
        self._tokens = tokens
        self._session_tokens = session_tokens

    async def create_session(self, request: CreateSessionRequest, call: Call) -> bytes:
        if request.template_id:
            return await self._create_from_template(request, call)
        action = requests.create_session(request, call.scope)
        scope = call.admit(SESSIONS_WRITE)
        return await self._written(call.command(scope, request, action.session.session_id, action))

    async def _create_from_template(self, request: CreateSessionRequest, call: Call) -> bytes:
        requests.create_session(request, call.scope)
        scope = call.admit(SESSIONS_WRITE)
        template = await self._templates.get_template(scope, request.template_id)
        action = create_from_template(request, template, scope)
        return await self._written(call.command(scope, request, action.session.session_id, action))

    async def fork_session(self, request: ForkSessionRequest, call: Call) -> bytes:
        session_id, action = branch_requests.fork_session(request, call.scope)
        scope = call.admit(SESSIONS_WRITE)
        return await self._written(call.command(scope, request, session_id, action))

    async def rewind_session(self, request: RewindSessionRequest, call: Call) -> bytes:
        action = branch_requests.rewind_session(request)
        scope = call.admit(SESSIONS_WRITE)
        fence = fields.fence_of(request)
        command = call.command(scope, request, request.session_id, action, request.expected_version, fence)
        return await self._written(command)

    async def list_forks(self, request: ListForksRequest, call: Call) -> bytes:
        limit = branch_requests.list_forks(request)
        scope = call.admit(SESSIONS_READ)
        tokens = self._tokens.of(scope, call.method.path, request.session_id)
        # A token that this list has sealed holds a key of the store.
        after = cast("tuple[int, str] | None", tokens.open(request.page_token))
        page = await self._forks.list_forks(
            scope, request.session_id, after=after and (after[0], after[1]), limit=limit
        )
        return answers.listed_sessions(page.forks, tokens.seal([*page.next_key]) if page.next_key else "")

    async def get_session(self, request: GetSessionRequest, call: Call) -> bytes:
        read = requests.get_session(request)
        scope = call.admit(SESSIONS_READ)
        if read.past:
            return await self._session_at(request, scope, full=read.full)
        fresh = Freshness(request.min_version, read.strong)
        snapshot = await self._sessions.get_session(scope, request.session_id, content=read.full, freshness=fresh)
        answers.not_before(request.min_version, request.session_id, snapshot.version)
        return answers.session(snapshot)

    async def _session_at(self, request: GetSessionRequest, scope: Scope, *, full: bool) -> bytes:
        seq = await as_of.place(self._history, scope, request)
        version, snapshot = await self._history.get_session_at(scope, request.session_id, seq, content=full)
        answers.not_before(request.min_version, request.session_id, version)
        return answers.session(snapshot)

    async def batch_get_sessions(self, request: BatchGetSessionsRequest, call: Call) -> bytes:
        read = requests.batch_get_sessions(request)
        scope = call.admit(SESSIONS_READ)
        ids, least = request.session_ids, request.min_versions
        fresh = Freshness(strong=read.strong)
        found = [*await self._sessions.get_sessions(scope, ids, content=read.full, freshness=fresh)]
        if older := answers.older(found, least):
            # Each session has its own least version. Those whose cached copies are stale are read from the store in one
            # read.
            strong = Freshness(strong=True)
            again = await self._sessions.get_sessions(
                scope, [ids[place] for place in older], content=read.full, freshness=strong
            )
            for place, snapshot in zip(older, again, strict=True):
                found[place] = snapshot
                answers.not_before(least[place], ids[place], snapshot.version if snapshot else least[place])
        return answers.batch_of_sessions(ids, found)

    async def list_sessions(self, request: ListSessionsRequest, call: Call) -> bytes:
        read = requests.list_sessions(request)
        scope = call.admit(SESSIONS_READ)
        where = request.filter
        selected = (where.SerializeToString(deterministic=True), read.order_by, read.full)
        tokens = self._tokens.of(scope, call.method.path, *selected)
        # A token that this list has sealed holds a key of the store.
        after = cast("tuple[int | str, str] | None", tokens.open(request.page_token))
        page = await self._queries.list_sessions(
            scope, where, read.order_by, after=after and (after[0], after[1]), limit=read.limit, content=read.full
        )
        return answers.listed_sessions(page.sessions, tokens.seal([*page.next_key]) if page.next_key else "")

    async def count_sessions(self, request: CountSessionsRequest, call: Call) -> bytes:
        requests.count_sessions(request)
        scope = call.admit(SESSIONS_READ)
        count = await self._queries.count_sessions(scope, request.filter)
        return CountSessionsResponse(count=count).SerializeToString()

    async def update_session(self, request: UpdateSessionRequest, call: Call) -> bytes:
        action = requests.update_session(request)
        scope = call.admit(SESSIONS_WRITE)
        session_id, fence = request.session.session_id, fields.fence_of(request)
        return await self._written(call.command(scope, request, session_id, action, request.expected_version, fence))

    async def activate_session(self, request: ActivateSessionRequest, call: Call) -> bytes:
        return await self._change(request, request.session_id, requests.activate_session(request), call)

    async def suspend_session(self, request: SuspendSessionRequest, call: Call) -> bytes:
        return await self._change(request, request.session_id, requests.suspend_session(request), call)

    async def resume_session(self, request: ResumeSessionRequest, call: Call) -> bytes:
        return await self._change(request, request.session_id, requests.resume_session(request), call)

    async def end_session(self, request: EndSessionRequest, call: Call) -> bytes:
        return await self._change(request, request.session_id, requests.end_session(request), call)

    async def touch_session(self, request: TouchSessionRequest, call: Call) -> bytes:
        return await self._change(request, request.session_id, requests.touch_session(request), call)

    async def delete_session(self, request: DeleteSessionRequest, call: Call) -> bytes:
        action = requests.delete_session(request)
        scope = call.admit(SESSIONS_WRITE)
        command = call.command(scope, request, request.session_id, action, request.expected_version)
        done = answers.outcome(SessionDeleted, await self._writer.write(command))
        return DeleteSessionResponse(version=done.version).SerializeToString()

    async def erase_user(self, request: EraseUserRequest, call: Call) -> bytes:
        user_id = erasure_requests.erase_user(request, call.scope)
        scope = call.admit(SESSIONS_WRITE)
        erasure = await self._erasures.begin_erasure(scope, user_id, request.request_id)
        return erasure_requests.signed(erasure, self._tokens.key_of(scope.tenant_id))

    async def get_erasure(self, request: GetErasureRequest, call: Call) -> bytes:
        user_id = erasure_requests.get_erasure(request, call.scope)
        scope = call.admit(SESSIONS_READ)
        erasure = await self._erasures.get_erasure(scope, user_id)
        return erasure_requests.signed(erasure, self._tokens.key_of(scope.tenant_id))

    async def list_erasures(self, request: ListErasuresRequest, call: Call) -> bytes:
        limit = erasure_requests.list_erasures(request)
        scope = call.admit(SESSIONS_READ)
        tokens = self._tokens.of(scope, call.method.path)
        # A token that this list has sealed holds the id of a user.
        after = cast("list[str] | None", tokens.open(request.page_token))
        page = await self._erasures.list_erasures(scope, after=after[0] if after else "", limit=limit)
        following = tokens.seal([page.next_user_id]) if page.next_user_id else ""
        return ListErasuresResponse(erasures=page.erasures, next_page_token=following).SerializeToString()

    async def batch_delete_sessions(self, request: BatchDeleteSessionsRequest, call: Call) -> bytes:
        action = requests.batch_delete_sessions(request)
        scope = call.admit(SESSIONS_WRITE)
        commands = call.commands(scope, request, (Item(one, action, len(one)) for one in request.session_ids))
        results = await asyncio.gather(*map(self._writer.write, commands), return_exceptions=True)
        response = BatchDeleteSessionsResponse()
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, SessionNotFound):
                response.not_found.append(command.session_id)
            elif isinstance(result, UnderLegalHold):
                response.held.append(command.session_id)
            elif isinstance(result, BaseException):
                raise result
            else:
                response.deleted.append(command.session_id)
        return response.SerializeToString()

    async def batch_create_sessions(self, request: BatchCreateSessionsRequest, call: Call) -> bytes:
        actions = requests.batch_create_sessions(request, call.scope)
        scope = call.admit(SESSIONS_WRITE)
        items = [
            Item(action.session.session_id, action, new.ByteSize())
            for action, new in zip(actions, request.sessions, strict=True)
        ]
        results = await self._each(call.commands(scope, request, items))
        return BatchCreateSessionsResponse(results=results).SerializeToString()

    async def batch_update_sessions(self, request: BatchUpdateSessionsRequest, call: Call) -> bytes:
        actions = requests.batch_update_sessions(request)
        scope = call.admit(SESSIONS_WRITE)
        versions = request.expected_versions or [0] * len(actions)
        items = [
            Item(update.session.session_id, action, update.ByteSize(), version)
            for action, update, version in zip(actions, request.updates, versions, strict=True)
        ]
        results = await self._each(call.commands(scope, request, items))
        return BatchUpdateSessionsResponse(results=results).SerializeToString()

    async def _each(self, commands: Sequence[Command]) -> list[SessionResult]:
        """Applies the commands, each on its own. Raises an error that a retry may mend, once all have their outcome."""
        results: list[SessionResult] = []
        for outcome in await asyncio.gather(*map(self._writer.write, commands), return_exceptions=True):
            if not isinstance(outcome, BaseException):
                core = answers.outcome(SessionWritten, outcome).session.core
                results.append(SessionResult(session=Session.FromString(core)))
            elif isinstance(outcome, SessiondError) and (error := status.item_error(outcome)) is not None:
                results.append(SessionResult(error=error))
            else:
                raise outcome
        return results

    async def get_session_metrics(self, request: GetSessionMetricsRequest, call: Call) -> bytes:
        fields.named_read(request)
        scope = call.admit(SESSIONS_READ)
        snapshot, run_counters = await self._work.get_metrics(scope, request.session_id)
        answers.not_before(request.min_version, request.session_id, snapshot.version)
        return answers.metrics(snapshot, run_counters)

    async def create_session_token(self, request: CreateSessionTokenRequest, call: Call) -> bytes:
        wanted = requests.create_session_token(request)
        scope = call.admit(SESSIONS_READ)
        if wanted.append:
            call.admit(SESSIONS_WRITE)
        strong = Freshness(strong=True)
        snapshot = await self._sessions.get_session(scope, request.session_id, content=False, freshness=strong)
        database = str(named_by(call) or "")
        made = self._session_tokens.make(
            call.principal, snapshot, append=wanted.append, database=database, ttl=wanted.ttl
        )
        return made.SerializeToString()

    async def _change(self, request: _Change, session_id: str, action: Action, call: Call) -> bytes:
        """Executes a checked request that changes one session, and answers with the session."""
        scope = call.admit(SESSIONS_WRITE)
        return await self._written(call.command(scope, request, session_id, action, request.expected_version))

    async def _written(self, command: Command) -> bytes:
        return answers.session(answers.outcome(SessionWritten, await self._writer.write(command)).session)
