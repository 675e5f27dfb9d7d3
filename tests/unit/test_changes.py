"""The cache updates that commits cause."""

from google.protobuf.struct_pb2 import Struct

from sessiond_server.domain import commands as c
from sessiond_server.store.cached import changes
from sessiond_server.store.cached.contract import CacheTime, Put, seq_of
from tests.support.run_actions import begin, complete, finish, request
from tests.support.session_log import Log, user


def put(log: Log) -> Put:
    """What the last batch tells."""
    (change,) = changes.of_writes(log.written, CacheTime(0.0, 1))
    assert isinstance(change, Put)
    return change


def test_data_of_tool_calls_is_not_the_content_of_the_session() -> None:
    log, state = Log(), Struct()
    state.update({"a": 1})
    log.create(state=state)
    assert put(log).copy.content == log.session().SerializeToString()[-len(put(log).copy.content or b"") :]
    fence = c.Fence("r1", 2)
    for action, running in (
        (begin("r1"), None),
        (request("t1", text="arguments"), fence),
        (c.StartToolCall("t1"), fence),
        (complete("t1", "result"), fence),
        (finish(), fence),
    ):
        log.ok(action, fence=running)
        change = put(log)
        assert change.copy.content is None
        assert (change.copy.content_version, list(change.copy.messages)) == (1, [])
        assert change.extends


def test_the_window_goes_on_over_events_that_are_no_messages() -> None:
    log = Log()
    log.create()
    fence = c.Fence("r1", 2)
    log.apply(
        log.command(begin("r1")),
        log.command(c.AppendMessages([user("one")]), fence=fence),
        log.command(request("t1", text="arguments"), fence=fence),
        log.command(c.AppendMessages([user("two")]), fence=fence),
    )
    copy = put(log).copy
    assert (copy.after_seq, copy.version) == (1, 5)
    assert [seq_of(message) for message in copy.messages] == [3, 5]


def test_heartbeat_changes_no_cache_entry() -> None:
    log = Log()
    log.create()
    log.ok(begin("r1"))
    log.now += 1
    log.ok(c.HeartbeatRun(), fence=c.Fence("r1", 2))
    assert changes.of_writes(log.written, CacheTime(0.0, 1)) == []
