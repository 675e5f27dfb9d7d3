"""The rows of a session after a batch: its head, and the columns by which it is listed."""

from google.protobuf.json_format import MessageToJson

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.rows import Head, HeadRow, IndexRow, Key
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.sessions.columns import index_row
from sessiond_server.domain.state import State
from sessiond_server.domain.times import microseconds


def head_row(key: Key, state: State, now_us: int) -> HeadRow:
    core = state.core
    return HeadRow(
        key=key,
        head=Head(
            version=core.version,
            user_id=state.user_id,
            core=b"" if state.deleted else core.SerializeToString(),
            limits=state.limits.SerializeToString(),
            content_version=core.content_version,
            deleted=state.deleted,
            lease_expire_us=state.lease_expire_us,
            content_sizes=None if state.sizes is None else state.sizes.encoded(),
            fork_seq=None if state.deleted else state.fork_seq,
            forked=state.forked,
        ),
        created=state.created,
        update_time_us=microseconds(core.update_time),
        expire_time_us=None if state.deleted else next_check(core, state.lease_expire_us),
        delete_time_us=now_us if state.deleted else None,
        content=state.content if state.content_changed else None,
    )


def next_check(core: Session, lease_expire_us: int | None) -> int | None:
    """When the sweeper must next look at the session, in microseconds: the earlier of its expiry and the expiry of the
    live run's lease. None: never."""
    if core.status == lifecycle.ENDED or not core.HasField("expire_time"):
        return lease_expire_us
    expire_us = microseconds(core.expire_time)
    return expire_us if lease_expire_us is None else min(expire_us, lease_expire_us)


def row_in_lists(key: Key, state: State) -> IndexRow:
    given = state.metadata
    return index_row(key, state.core, None if given is None else MessageToJson(given, indent=None, ensure_ascii=False))
