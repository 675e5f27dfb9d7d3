"""What a hostile client can take through pipes, while another tenant wants some."""

from contextlib import AsyncExitStack

import pytest

from sessiond.v1.message_pb2 import Message, Part, Role
from tests.support.attacks import FRAME_BYTES, PIPE, listing, pipe_frames
from tests.support.effort import left_to_long
from tests.support.hostile_target import Target
from tests.support.raw_http2 import message, raw_client, statuses
from tests.support.waiting import until

MIB = 1024 * 1024
OK, INVALID_ARGUMENT = 0, 3
ENDS = {
    "tiny": INVALID_ARGUMENT,
    "tiny_in_bounds": INVALID_ARGUMENT,
    "twice": INVALID_ARGUMENT,
    "garbage": INVALID_ARGUMENT,
    "unknown": OK,
    "streams": OK,
    "cancels": OK,
    "calls": OK,
}
"""How the server ends the pipe of each attack. Where it is OK, each call has been answered by itself."""
QUICK = ("tiny_in_bounds", "twice", "garbage")
PIPES = 10


def test_every_attack_has_its_end() -> None:
    assert ENDS.keys() == pipe_frames("s").keys()
    assert len(pipe_frames("s")["tiny_in_bounds"]) <= FRAME_BYTES + 5


@pytest.mark.parametrize("attack", [*QUICK, *left_to_long(*(attack for attack in ENDS if attack not in QUICK))])
async def test_hostile_frames_get_their_end_and_hold_bounded_memory(patient_target: Target, attack: str) -> None:
    target = patient_target
    data = pipe_frames("none")[attack]
    before = target.resident_mib()
    async with raw_client(target.port) as raw, target.other() as quiet:
        session = await quiet.create_session(active=True)
        pipes = [raw.open(PIPE, target.key, data, end=True) for _ in range(PIPES)]
        await raw.flush()
        for _ in range(20):
            await quiet.get_session(session.session_id)
        if attack in ("unknown", "streams"):
            # Fifty calls of unknown methods are refused each second: their callers wait for that, and only they.
            await until(lambda: all(pipe.headers for pipe in pipes))
        else:
            await until(lambda: all(pipe.ended for pipe in pipes))
            assert set(statuses(pipes)) == {ENDS[attack]}
        await quiet.get_session(session.session_id)
    assert target.resident_mib(highest=True) - before < 150
    await target.server.until_metric("sessiond_pipes", 0)
    await target.server.until_metric("sessiond_calls_in_progress", 0)
    assert "Traceback" not in target.server.log.read_text()


@pytest.mark.long
async def test_frames_that_do_not_arrive_whole_hold_bounded_memory(target: Target) -> None:
    before = target.resident_mib()
    async with raw_client(target.port) as raw, target.other() as quiet:
        pipes = [raw.open(PIPE, target.key, message(bytes(MIB), length=8 * MIB)) for _ in range(200)]
        await raw.flush()
        # Those beyond the tenant's share of pipes are refused.
        await until(lambda: sum(pipe.ended for pipe in pipes) >= 200 - 128)
        for _ in range(5):
            await quiet.count_sessions()
        assert target.resident_mib(highest=True) - before < 128 * 8


async def test_pipes_whose_answers_are_not_read_hold_bounded_memory_and_end(target: Target) -> None:
    loud = target.other()
    async with loud as client:
        session = await client.create_session(active=True)
        for _ in range(3):
            await client.append_messages(
                session.session_id, [Message(role=Role.ROLE_USER, parts=[Part(text="x" * 900_000)])]
            )
        before = target.resident_mib()
        async with AsyncExitStack() as stack:
            raws = [await stack.enter_async_context(raw_client(target.port, window=10)) for _ in range(4)]
            for raw in raws:
                for _ in range(20):
                    raw.open(PIPE, target.other_key, listing(session.session_id))
                await raw.flush()
            await target.server.until_metric("sessiond_pipes", 0)
            await target.server.until_metric("sessiond_calls_in_progress", 0)
            assert target.resident_mib(highest=True) - before < 600
        await client.get_session(session.session_id)
    assert "Traceback" not in target.server.log.read_text()


@pytest.mark.long
async def test_pipes_of_one_tenant_leave_room_for_those_of_another(target: Target) -> None:
    async with raw_client(target.port) as raw, raw_client(target.port) as other:
        pipes = [raw.open(PIPE, target.key) for _ in range(200)]
        await raw.flush()
        await until(lambda: sum(pipe.ended for pipe in pipes) >= 200 - 128)
        quiet = other.open(PIPE, target.other_key)
        await other.flush()
        await until(lambda: quiet.data)
        assert not quiet.ended
