"""The runs and tool calls of one session while a batch is decided: the loaded ones, and the changes to them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus
from sessiond_server.domain.rows import Key, Known, RunRow, ToolCallRow, Writes
from sessiond_server.domain.runs.counters import RunCounters
from sessiond_server.domain.times import microseconds, set_timestamp

OPEN_RUNS: Final = (1, 2)
"""RunStatus of runs that have not ended: QUEUED, RUNNING."""
OPEN_CALLS: Final = (1, 2, 4)
"""ToolCallStatus of calls that have not ended: PENDING, APPROVED, RUNNING."""


@dataclass(slots=True)
class Work:
    """Loaded and changed runs and tool calls.

    If a command of the batch asked for them (rows.Needs.work), all open runs and calls are loaded. Other runs and calls
    are loaded only if a command named them. The rules change the resources in place and then call `change_run` or
    `change_call`.
    """

    key: Key
    known: Known
    run_counters: RunCounters
    _preset: list[Run] = field(default_factory=list)
    """The runs that the batch created the session with, oldest first."""
    _runs: dict[str, Run] = field(default_factory=dict)
    _calls: dict[str, ToolCall] = field(default_factory=dict)
    _data: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """(arguments, result), as in StoredToolCall, of calls that the batch requested or completed."""
    _changed_runs: dict[str, Run] = field(default_factory=dict)
    _changed_calls: dict[str, ToolCall] = field(default_factory=dict)
    _ended_runs: bool = False
    _inherited_runs: dict[str, RunRow] = field(default_factory=dict)
    """Of a fork: copies of its parent's, as they were where it was forked."""
    _inherited_calls: dict[str, ToolCallRow] = field(default_factory=dict)

    @classmethod
    def load(cls, key: Key, known: Known) -> "Work":
        stored = known.work.get(key)
        if stored is None:
            return cls(key, known, RunCounters())
        runs = map(Run.FromString, stored.runs)
        calls = map(ToolCall.FromString, stored.tool_calls)
        return cls(
            key,
            known,
            RunCounters.decoded(stored.run_counters),
            _runs={run.run_id: run for run in runs},
            _calls={call.tool_call_id: call for call in calls},
        )

    def run(self, run_id: str) -> Run | None:
        """An open run, or one that a command of the batch named."""
        run = self._runs.get(run_id)
        if run is None and (stored := self.known.runs.get((self.key, run_id))) is not None:
            run = self._runs[run_id] = Run.FromString(stored)
        return run

    def live(self, core: Session) -> Run:
        """The live run of a session that has one."""
        run = self.run(core.live_run_id)
        assert run is not None, "the action's row lacks with_work or ask"
        return run

    def queued(self) -> list[Run]:
        """The queued runs, the next one to start first."""
        waiting = (run for run in self._runs.values() if run.status == RunStatus.RUN_STATUS_QUEUED)
        return sorted(waiting, key=lambda run: run.seq)

    def call(self, tool_call_id: str) -> ToolCall | None:
        """The call without its data: an open one, or one that a command of the batch named."""
        call = self._calls.get(tool_call_id)
        if call is None and (stored := self.known.tool_calls.get((self.key, tool_call_id))) is not None:
            call = self._calls[tool_call_id] = ToolCall.FromString(stored.body)
        return call

    def open_calls(self) -> list[ToolCall]:
        """The open calls, oldest first."""
        return sorted((call for call in self._calls.values() if call.status in OPEN_CALLS), key=lambda call: call.seq)

    def change_run(self, run: Run) -> None:
        """Marks the run as new or changed."""
        self._runs[run.run_id] = self._changed_runs[run.run_id] = run

    def change_call(self, call: ToolCall) -> None:
        """Marks the call as new or changed."""
        self._calls[call.tool_call_id] = self._changed_calls[call.tool_call_id] = call

    def preset_runs(self, runs: list[Run]) -> None:
        """Adds the ended runs that the session is created with."""
        self._preset = runs
        for run in runs:
            self._runs[run.run_id] = run
            self.count(run)

    def inherit_run(self, row: RunRow) -> None:
        """Adds a run to a fork."""
        self._inherited_runs[row.run_id] = row
        run = Run.FromString(row.body)
        if row.status in OPEN_RUNS:
            self._runs[row.run_id] = run
        else:
            self.count(run)

    def inherit_call(self, row: ToolCallRow) -> None:
        """Adds a tool call to a fork."""
        self._inherited_calls[row.tool_call_id] = row
        if row.status in OPEN_CALLS:
            self._calls[row.tool_call_id] = ToolCall.FromString(row.body)

    def count(self, run: Run) -> None:
        """Adds an ended run to the counters."""
        count(self.run_counters, run)
        self._ended_runs = True

    def data(self, tool_call_id: str) -> tuple[bytes, bytes]:
        """(arguments, result) of a call, as in StoredToolCall."""
        if (data := self._data.get(tool_call_id)) is not None:
            return data
        stored = self.known.tool_calls.get((self.key, tool_call_id))
        return (stored.arguments, stored.result) if stored is not None else (b"", b"")

    def set_data(self, tool_call_id: str, arguments: bytes, result: bytes) -> None:
        self._data[tool_call_id] = (arguments, result)

    def with_data(self, call: ToolCall) -> bytes:
        """The serialised call with its data."""
        arguments, result = self.data(call.tool_call_id)
        return call.SerializeToString() + arguments + result

    def write(self, writes: Writes, user_id: str) -> None:
        """Adds the changed rows to `writes`."""
        writes.runs += self._run_rows()
        changed = self._changed_calls
        writes.runs += [row for run_id, row in self._inherited_runs.items() if run_id not in self._changed_runs]
        writes.tool_calls += [row for call_id, row in self._inherited_calls.items() if call_id not in changed]
        for call_id, call in sorted(changed.items()):
            row = tool_call_row(self.key, user_id, call)
            writes.tool_calls.append(replace(row, inherited=True) if call_id in self._inherited_calls else row)
        if self._ended_runs:
            writes.run_counters.append((self.key, self.run_counters.encoded()))

    def _run_rows(self) -> Iterator[RunRow]:
        first = 1 - len(self._preset)
        for place, run in enumerate(self._preset, first):
            yield RunRow(self.key, run.run_id, place, run.status, run.SerializeToString())
        for run_id, run in sorted(self._changed_runs.items()):
            yield RunRow(self.key, run_id, run.seq, run.status, run.SerializeToString())


def waits_until(call: ToolCall) -> int | None:
    """When a call that waits for its approval expires, in microseconds. None: it does not wait, or waits for ever."""
    waits = call.status == ToolCallStatus.TOOL_CALL_STATUS_PENDING and call.requires_approval
    return microseconds(call.expire_time) if waits and call.HasField("expire_time") else None


def count(counters: RunCounters, run: Run) -> None:
    """Adds an ended run to the counters."""
    timed = run.HasField("start_time") and run.HasField("end_time")
    duration = max(microseconds(run.end_time) - microseconds(run.start_time), 0) if timed else None
    counters.add(run.status, duration)


def tool_call_row(key: Key, user_id: str, call: ToolCall) -> ToolCallRow:
    """The row of a call without its data."""
    return ToolCallRow(
        key=key,
        tool_call_id=call.tool_call_id,
        seq=call.seq,
        run_id=call.run_id,
        status=call.status,
        awaits_approval=call.status == ToolCallStatus.TOOL_CALL_STATUS_PENDING and call.requires_approval,
        user_id=user_id,
        create_time_us=microseconds(call.create_time),
        expire_time_us=waits_until(call),
        result_seq=call.result_seq,
        body=call.SerializeToString(),
    )


def with_lease(run: bytes, lease_expire_us: int | None) -> bytes:
    """The serialised live run with its present lease expiry. The stored run has the expiry of its start."""
    if lease_expire_us is None:
        return run
    live = Run.FromString(run)
    set_timestamp(live.lease_expire_time, lease_expire_us)
    return live.SerializeToString()
