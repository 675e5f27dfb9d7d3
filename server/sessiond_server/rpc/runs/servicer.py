"""RunService. Each RPC makes four moves: check, authorise, call, answer."""

from sessiond.v1.run_service_pb2 import (
    BeginRunRequest,
    CancelRunRequest,
    FinishRunRequest,
    GetRunRequest,
    HeartbeatRunRequest,
    ListRunsRequest,
    ListRunsResponse,
)
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.domain.commands import Command, LeaseExtended, RunWritten, Scope
from sessiond_server.rpc import answers, as_of, fields
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.rpc.runs import checks as requests
from sessiond_server.store.commits import Writer
from sessiond_server.store.history import HistoryReads
from sessiond_server.store.work import RunsPage, WorkStore


class RunServicer:
    """The RPCs of sessiond.v1.RunService, on a store of runs and a writer."""

    def __init__(self, work: WorkStore, history: HistoryReads, writer: Writer, tokens: PageTokens) -> None:
        self._work = work
        self._history = history
        self._writer = writer
        self._tokens = tokens

    async def begin_run(self, request: BeginRunRequest, call: Call) -> bytes:
        action = requests.begin_run(request)
        scope = call.admit(SESSIONS_WRITE)
        return await self._written(call.command(scope, request, request.session_id, action, request.expected_version))

    async def heartbeat_run(self, request: HeartbeatRunRequest, call: Call) -> bytes:
        action = requests.heartbeat_run(request)
        scope = call.admit(SESSIONS_WRITE)
        command = call.repeatable(scope, request.session_id, action, fields.fence_of(request))
        return answers.lease(answers.outcome(LeaseExtended, await self._writer.write(command)))

    async def finish_run(self, request: FinishRunRequest, call: Call) -> bytes:
        action = requests.finish_run(request)
        scope = call.admit(SESSIONS_WRITE)
        fence = fields.fence_of(request)
        command = call.command(scope, request, request.session_id, action, request.expected_version, fence)
        return await self._written(command)

    async def cancel_run(self, request: CancelRunRequest, call: Call) -> bytes:
        action = requests.cancel_run(request)
        scope = call.admit(SESSIONS_WRITE)
        return await self._written(call.command(scope, request, request.session_id, action, request.expected_version))

    async def get_run(self, request: GetRunRequest, call: Call) -> bytes:
        fields.named_read(request, "run_id")
        scope = call.admit(SESSIONS_READ)
        version, run = await self._work.get_run(scope, request.session_id, request.run_id)
        answers.not_before(request.min_version, request.session_id, version)
        return run

    async def list_runs(self, request: ListRunsRequest, call: Call) -> bytes:
        read = requests.list_runs(request)
        scope = call.admit(SESSIONS_READ)
        session_id = request.session_id
        more = (fields.INCLUDE_REWOUND,) if request.include_rewound else as_of.bound_to(request)
        tokens = self._tokens.of(scope, call.method.path, session_id, *read.statuses, *more)
        # A token that this list has sealed holds the place of a run.
        before, sealed = as_of.opened(tokens.open(request.page_token))
        seq = await as_of.place(self._history, scope, request, sealed)
        page = await self._page(scope, request, read, before, seq)
        answers.not_before(request.min_version, session_id, page.version)
        following = tokens.seal(as_of.sealed(page.next_place, seq)) if page.next_place is not None else ""
        return answers.listed_runs(page.runs, ListRunsResponse(next_page_token=following, version=seq or page.version))

    async def _page(
        self, scope: Scope, request: ListRunsRequest, read: requests.RunsList, before: int | None, seq: int
    ) -> RunsPage:
        session_id = request.session_id
        if seq:
            return await self._history.list_runs_at(
                scope, session_id, seq, statuses=read.statuses, before=before, limit=read.limit
            )
        return await self._work.list_runs(
            scope, session_id,
            statuses=read.statuses, before=before, limit=read.limit, include_rewound=request.include_rewound,
        )  # fmt: skip

    async def _written(self, command: Command) -> bytes:
        return answers.outcome(RunWritten, await self._writer.write(command)).run
