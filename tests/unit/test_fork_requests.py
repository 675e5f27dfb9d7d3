"""What ForkSession and ListForks accept, and what becomes of it."""

from typing import Any

import pytest

from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import ForkSessionRequest, ListForksRequest
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.forks.rows import ForkPlace
from sessiond_server.errors import InvalidFields
from sessiond_server.rpc.sessions.branches import fork_session, list_forks

SCOPE = Scope("tenant")
BOUND = Scope("tenant", "u")
MOST = 2**53 - 1


def fork(**fields: Any) -> ForkSessionRequest:
    return ForkSessionRequest(**{"session_id": "s", **fields})


@pytest.mark.parametrize(
    ("good", "bad", "field"),
    [
        ({"session_id": "a" * 255}, {"session_id": "a" * 256}, "session_id"),
        ({"session_id": "猫🐈"}, {"session_id": ""}, "session_id"),
        ({"seq": 1}, {"seq": 0}, "seq"),
        ({"seq": MOST}, {"seq": -1}, "seq"),
        ({}, {"seq": MOST + 1}, "seq"),
        ({"message_id": "猫"}, {"message_id": ""}, "message_id"),
        ({"message_id": "m" * 255}, {"message_id": "m\0"}, "message_id"),
        ({"fork_session_id": "f"}, {"fork_session_id": " f"}, "fork_session_id"),
        ({"fork_session_id": ""}, {"fork_session_id": "f" * 256}, "fork_session_id"),
        ({"request_id": "r" * 128}, {"request_id": "r" * 129}, "request_id"),
        ({"expected_version": 0}, {"expected_version": -1}, "expected_version"),
        ({"session": Session(name="n" * 200)}, {"session": Session(name="n" * 201)}, "session.name"),
        ({"session": Session(name="n")}, {"session": Session(user_id="u")}, "update_mask"),
    ],
)
def test_bounds_of_a_fork(good: dict[str, Any], bad: dict[str, Any], field: str) -> None:
    fork_session(fork(**good), SCOPE)
    with pytest.raises(InvalidFields) as failure:
        fork_session(fork(**bad), SCOPE)
    assert [violation.field for violation in failure.value.violations] == [field]


def test_action_of_a_fork() -> None:
    made, action = fork_session(fork(seq=3, fork_session_id="f", expected_version=7), SCOPE)
    assert (made, action.parent_id, action.place, action.parent_version) == ("f", "s", ForkPlace(3), 7)
    assert action.update is None
    _, action = fork_session(fork(message_id="m", session=Session(name="n", summary="x")), SCOPE)
    assert action.place == ForkPlace(0, "m")
    assert action.update is not None
    assert tuple(action.update.paths) == ("name", "summary")


def test_ids_of_forks() -> None:
    first, again = (fork_session(fork(request_id="r"), SCOPE)[0] for _ in range(2))
    assert first == again != fork_session(fork(request_id="r2"), SCOPE)[0]
    assert fork_session(fork(), SCOPE)[0] != fork_session(fork(), SCOPE)[0]
    assert fork_session(fork(fork_session_id="u~f"), BOUND)[0] == "u~f"
    with pytest.raises(InvalidFields):
        fork_session(fork(fork_session_id="v~f"), BOUND)


def test_pages_of_forks() -> None:
    assert [list_forks(ListForksRequest(session_id="s", page_size=size)) for size in (0, 1, 100, 101)] == [
        20, 1, 100, 100,
    ]  # fmt: skip
    with pytest.raises(InvalidFields):
        list_forks(ListForksRequest(session_id="s", page_size=-1))
