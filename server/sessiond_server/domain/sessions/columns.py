"""The columns by which sessions are found."""

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.rows import IndexRow, Key
from sessiond_server.domain.times import microseconds


def index_row(key: Key, core: Session, metadata_json: str | None) -> IndexRow:
    """The row of a session. `metadata_json`: as IndexRow has it."""
    return IndexRow(
        key=key,
        type=core.type,
        agent_id=core.agent_id,
        team_id=core.team_id,
        workflow_id=core.workflow_id,
        user_id=core.user_id,
        name=core.name,
        status=core.status,
        labels=dict(core.labels),
        metadata_json=metadata_json,
        create_time_us=microseconds(core.create_time),
    )
