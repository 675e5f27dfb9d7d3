"""Checks of the requests of RunService, one function per RPC, and of the runs in CreateSession. See
rpc/sessions/checks.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.duration_pb2 import Duration

from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.run_service_pb2 import (
    BeginRunRequest,
    CancelRunRequest,
    FinishRunRequest,
    HeartbeatRunRequest,
    ListRunsRequest,
    RunPolicy,
)
from sessiond_server.domain import commands, text, validation
from sessiond_server.domain.runs import validation as run_validation
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import as_of, fields

RUNS_PAGE: Final = (20, 100)
PRESET_RUNS: Final = 1000
PRESET_BYTES: Final = validation.MIB
DEFAULT_LEASE: Final = Duration(seconds=30)

_ENDED: Final = (
    RunStatus.RUN_STATUS_COMPLETED,
    RunStatus.RUN_STATUS_FAILED,
    RunStatus.RUN_STATUS_CANCELLED,
)
_FINISHED: Final = (RunStatus.RUN_STATUS_COMPLETED, RunStatus.RUN_STATUS_FAILED)


@dataclass(frozen=True, slots=True)
class RunsList:
    """A requested page of runs."""

    statuses: Sequence[int]
    """Selected statuses, each once; never empty."""
    limit: int
    """Page size: 1 to 100."""


def begin_run(request: BeginRunRequest) -> commands.BeginRun:
    """The action. Its run is the request's own object, or a copy with the default lease."""
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    validation.enum(found, "policy", request.policy, RunPolicy.DESCRIPTOR)
    run = request.run
    run_validation.run(found, "run", run)
    if run.HasField("lease"):
        run_validation.lease(found, "run.lease", run.lease)
    found.check()
    if not run.HasField("lease"):
        run = Run()
        run.CopyFrom(request.run)
        run.lease.CopyFrom(DEFAULT_LEASE)
    return commands.BeginRun(run, request.policy or RunPolicy.RUN_POLICY_REJECT)


def heartbeat_run(request: HeartbeatRunRequest) -> commands.HeartbeatRun:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    _required_fence(found, request)
    found.check()
    return commands.HeartbeatRun()


def finish_run(request: FinishRunRequest) -> commands.FinishRun:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    _required_fence(found, request)
    if request.status not in _FINISHED:
        found.add("status", "must be RUN_STATUS_COMPLETED or RUN_STATUS_FAILED")
    error = request.error if request.HasField("error") else None
    if error is not None:
        run_validation.failure(found, "error", error)
        if request.status == RunStatus.RUN_STATUS_COMPLETED:
            found.add("error", "only with RUN_STATUS_FAILED")
    usage = request.usage if request.HasField("usage") else None
    if usage is not None:
        validation.usage(found, "usage", usage)
    found.add("model", text.line(request.model, 0, 128))
    found.check()
    return commands.FinishRun(request.status, error, usage, request.model)


def cancel_run(request: CancelRunRequest) -> commands.CancelRun:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    found.add("run_id", text.identifier(request.run_id))
    found.check()
    return commands.CancelRun(request.run_id)


def list_runs(request: ListRunsRequest) -> RunsList:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    statuses = fields.statuses(found, request.statuses, RunStatus.DESCRIPTOR)
    limit = fields.page_size(found, request.page_size, RUNS_PAGE)
    fields.not_negative(found, "min_version", request.min_version)
    fields.consistency(found, request.consistency)
    if as_of.check(found, request) and request.include_rewound:
        found.add("include_rewound", "excludes as_of_seq and as_of_time")
    found.check()
    return RunsList(statuses, limit)


def preset_runs(found: FieldViolations, here: str, runs: Sequence[Run]) -> None:
    """Checks the runs with which a session is created. The rules check that their times are in the past."""
    if len(runs) > PRESET_RUNS:
        found.add(here, f"must be at most {PRESET_RUNS}")
        return
    if sum(run.ByteSize() for run in runs) > PRESET_BYTES:
        found.add(here, f"must be at most {PRESET_BYTES} bytes together")
        return
    seen: dict[str, int] = {}
    for index, run in enumerate(runs):
        if found.enough:
            break
        path = f"{here}[{index}]"
        run_validation.run(found, path, run)
        if run.run_id and (first := seen.setdefault(run.run_id, index)) != index:
            found.add(f"{path}.run_id", f"is that of {here}[{first}]")
        if run.status not in _ENDED:
            found.add(f"{path}.status", "must be that of a run that has ended")
        if run.HasField("usage"):
            validation.usage(found, f"{path}.usage", run.usage)
        if run.HasField("error"):
            run_validation.failure(found, f"{path}.error", run.error)
        _preset_times(found, path, run)


def _preset_times(found: FieldViolations, path: str, run: Run) -> None:
    """Checks that the times ascend, and that a run that has started has also ended."""
    before = None
    for name, value in (("create_time", run.create_time), ("start_time", run.start_time), ("end_time", run.end_time)):
        if not run.HasField(name):  # type: ignore[arg-type]  # the stubs want literals
            continue
        if not validation.timestamp(found, f"{path}.{name}", value):
            return
        if before is not None and (value.seconds, value.nanos) < before:
            found.add(f"{path}.{name}", "must not be before the time before it")
        before = (value.seconds, value.nanos)
    if run.HasField("start_time") and not run.HasField("end_time"):
        found.add(f"{path}.end_time", "is required with start_time")


def _required_fence(found: FieldViolations, request: fields.Fenced) -> None:
    if request.HasField("run"):
        fields.fence(found, request)
    else:
        found.add("run", "is required")
