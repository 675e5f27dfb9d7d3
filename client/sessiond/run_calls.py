"""The client's methods for runs."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sessiond.connection import Connection
from sessiond.fields import (
    ConsistencyLike,
    Fence,
    RunPolicyLike,
    RunStatusLike,
    duration,
    enum_value,
    run_fence,
    timestamp,
)
from sessiond.pages import Pages
from sessiond.request_ids import new_request_id
from sessiond.structs import struct_of
from sessiond.v1.run_pb2 import Failure, Run, RunStatus
from sessiond.v1.run_service_pb2 import (
    BeginRunRequest,
    CancelRunRequest,
    FinishRunRequest,
    GetRunRequest,
    HeartbeatRunRequest,
    HeartbeatRunResponse,
    ListRunsRequest,
    ListRunsResponse,
    RunPolicy,
)
from sessiond.v1.session_pb2 import Consistency, TokenUsage


class RunCalls:
    """RunService; see `Client` for what all methods have in common, and `Client.run` for a block that makes these calls
    by itself."""

    _connection: Connection

    async def begin_run(
        self,
        session_id: str,
        *,
        run_id: str = "",
        policy: RunPolicyLike = "reject",
        lease: timedelta | float | None = None,
        agent_id: str = "",
        model: str = "",
        metadata: Mapping[str, Any] | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Run:
        """Begins a run, which is then RUNNING or, with the policy "enqueue" while another run is live, QUEUED. The
        policy "interrupt" cancels the live run.

        The lease (seconds, if a number; None: 30) must be extended by `heartbeat_run` before it runs out. Raises
        SessionNotFound, SessionNotActive, SessionEnded, RunInProgress, RunQueueFull, RunAlreadyExists.
        """
        request = BeginRunRequest(
            session_id=session_id,
            run=Run(
                run_id=run_id,
                lease=duration(lease) if lease is not None else None,
                agent_id=agent_id,
                model=model,
                metadata=struct_of(metadata) if metadata is not None else None,
            ),
            policy=enum_value(RunPolicy.DESCRIPTOR, policy),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        return await self._connection.call(self._connection.runs.BeginRun, request, timeout, request.request_id)

    async def heartbeat_run(self, session_id: str, run: Fence, *, timeout: float | None = None) -> HeartbeatRunResponse:
        """Extends the lease of the live run and returns when it runs out. Raises SessionNotFound, RunFenced."""
        request = HeartbeatRunRequest(session_id=session_id, run=run_fence(run))
        return await self._connection.call(self._connection.runs.HeartbeatRun, request, timeout)

    async def finish_run(
        self,
        session_id: str,
        run: Fence,
        *,
        status: RunStatusLike = "completed",
        error: Failure | None = None,
        usage: TokenUsage | None = None,
        model: str = "",
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Run:
        """Ends the live run as "completed" or "failed"; `error` belongs to the latter. `usage` has the tokens that no
        message has reported. Raises SessionNotFound, RunFenced."""
        request = FinishRunRequest(
            session_id=session_id,
            run=run_fence(run),
            status=enum_value(RunStatus.DESCRIPTOR, status),
            error=error,
            usage=usage,
            model=model,
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        return await self._connection.call(self._connection.runs.FinishRun, request, timeout, request.request_id)

    async def cancel_run(
        self,
        session_id: str,
        run_id: str,
        *,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Run:
        """Cancels a queued run or the live run, without its fence. Raises SessionNotFound, RunNotFound, RunEnded."""
        request = CancelRunRequest(
            session_id=session_id,
            run_id=run_id,
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        return await self._connection.call(self._connection.runs.CancelRun, request, timeout, request.request_id)

    async def get_run(
        self,
        session_id: str,
        run_id: str,
        *,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> Run:
        """Returns a run. Raises SessionNotFound, RunNotFound, VersionNotReached."""
        request = GetRunRequest(
            session_id=session_id,
            run_id=run_id,
            min_version=min_version,
            consistency=enum_value(Consistency.DESCRIPTOR, consistency),
        )
        return await self._connection.call(self._connection.runs.GetRun, request, timeout)

    def list_runs(
        self,
        session_id: str,
        *,
        statuses: Iterable[RunStatusLike] = (),
        page_size: int = 0,
        page_token: str = "",
        as_of_seq: int = 0,
        as_of_time: datetime | None = None,
        include_rewound: bool = False,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> Pages[ListRunsResponse, Run]:
        """Lists a session's runs, newest first, for `async for`; see Pages.

        With `as_of_seq` (0: now) or `as_of_time`, lists what it would have listed when the session was at that
        version, or at that time; raises InvalidFields for a place that the session has not.

        `include_rewound`: also those that a rewind has hidden.

        `page_size` 0 means 20; the maximum is 100. `timeout` applies to each page. Raises, when it is read:
        SessionNotFound, InvalidPageToken, VersionNotReached.
        """
        selected = [enum_value(RunStatus.DESCRIPTOR, status) for status in statuses]
        freshness = enum_value(Consistency.DESCRIPTOR, consistency)
        moment = None if as_of_time is None else timestamp(as_of_time)

        async def fetch(token: str) -> ListRunsResponse:
            request = ListRunsRequest(
                session_id=session_id,
                statuses=selected,
                page_size=page_size,
                page_token=token,
                include_rewound=include_rewound,
                min_version=min_version,
                consistency=freshness,
                as_of_seq=as_of_seq,
                as_of_time=moment,
            )
            return await self._connection.call(self._connection.runs.ListRuns, request, timeout)

        return Pages(fetch, lambda page: page.runs, page_token)
