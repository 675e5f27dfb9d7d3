"""What a client puts into the frames of a pipe, judged by the server's own checks."""

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.pipe_frames import Incoming, Outgoing
from sessiond.piped_call import PipedCall
from sessiond.v1.pipe_service_pb2 import OpenRequest, OpenResponse, PipeAnswer, PipePiece, PipeWindow
from sessiond_server.rpc.pipe import arriving

PATH = "/sessiond.v1.SessionService/GetSession"
WINDOW = PipeWindow(calls=64, request_bytes=1 << 20, frame_bytes=64 << 10, frame_entries=512, piece_bytes=32 << 10)


def call(size: int = 10, **metadata: str) -> PipedCall:
    return PipedCall(PATH, bytes(each % 251 for each in range(size)), 30.0, metadata)


def drain(out: Outgoing) -> list[OpenRequest]:
    """All frames until there is nothing to send."""
    frames = []
    while out:
        data = out.frame()
        assert len(data) <= WINDOW.frame_bytes
        frames.append(arriving.frame(data))
    return frames


@given(st.lists(st.one_of(st.integers(0, 200), st.integers(0, 200_000)), max_size=40))
async def test_any_calls_arrive_whole_in_frames_that_the_server_takes(sizes: list[int]) -> None:
    out, waiting = Outgoing(WINDOW), [call(size) for size in sizes]
    requests: dict[int, bytes] = {}
    wholes: dict[int, int] = {}
    while waiting or out:
        while waiting and out.take(waiting[0], 0.0):
            waiting.pop(0)
        (frame,) = [arriving.frame(out.frame())]
        newest = max(wholes, default=0)
        for each in frame.calls:
            wholes[each.number] = arriving.size(each, newest)
            newest = each.number
            requests[each.number] = each.request
        for piece in frame.pieces:
            requests[piece.number] += piece.data
        assert len(out.under_way) <= WINDOW.calls
        assert sum(wholes[number] for number in out.under_way) <= WINDOW.request_bytes
        for number in [number for number in out.under_way if len(requests[number]) == wholes[number]]:
            assert out.answered(number) is not None
    assert [len(requests[number]) for number in sorted(requests)] == sizes
    assert all(data == call(len(data)).request for data in requests.values())


async def test_frame_full_of_everything_is_within_the_window() -> None:
    out = Outgoing(
        PipeWindow(calls=10_000, request_bytes=1 << 30, frame_bytes=4096, frame_entries=512, piece_bytes=4096)
    )
    gone = [call(0) for _ in range(500)]
    for each in gone:
        if not out.take(each, 0.0):
            out.frame()
            assert out.take(each, 0.0)
    out.frame()
    for each in gone:
        out.cancel(each)
    assert out.take(call(1_000_000), 0.0)
    while out.take(call(7, **{"x-request-id": "r" * 30}), 0.0):
        pass
    while out:
        data = out.frame()
        assert len(data) <= 4096
        frame = OpenRequest.FromString(data)
        assert len(frame.calls) + len(frame.pieces) + len(frame.cancels) <= 512


async def test_calls_that_were_not_sent_are_taken_back_and_leave_the_window() -> None:
    out = Outgoing(WINDOW)
    sent, unsent = call(), [call(), call(100_000)]
    assert out.take(sent, 0.0)
    out.frame()
    assert all(out.take(each, 0.0) for each in unsent)
    assert out.unsent() == unsent
    assert not out
    assert list(out.under_way.values()) == [sent]
    assert [each.number for each in unsent] == [0, 0]
    assert out.take(unsent[0], 0.0)
    (frame,) = drain(out)
    assert [each.number for each in frame.calls] == [4]


@pytest.mark.parametrize(("left", "expected"), [(30.0, 30_000), (0.0004, 1), (-5.0, 1), (1e9, 2**32 - 1)])
async def test_call_carries_the_rest_of_its_deadline(left: float, expected: int) -> None:
    out = Outgoing(WINDOW)
    assert out.take(PipedCall(PATH, b"", left, {}), 0.0)
    assert drain(out)[0].calls[0].timeout_ms == expected


async def test_pieces_of_a_call_that_was_given_up_are_not_sent() -> None:
    out, gone = Outgoing(WINDOW), call(200_000)
    assert out.take(gone, 0.0)
    first = arriving.frame(out.frame())
    gone.end(PipeAnswer())
    out.cancel(gone)
    rest = drain(out)
    assert (len(first.calls), [list(each.cancels) for each in rest if each.cancels]) == (1, [[1]])
    assert not [each for each in rest if each.pieces]


async def test_large_answers_are_put_together_and_counted_only_once_given_up() -> None:
    out = Outgoing(WINDOW)
    incoming, kept, gone, too_large = Incoming(out, 1000), call(), call(), call()
    for each in (kept, gone, too_large):
        assert out.take(each, 0.0)
    gone.end(PipeAnswer())
    answers = [
        PipeAnswer(number=number, response=b"a", response_size=size) for number, size in ((1, 3), (2, 2), (3, 1001))
    ]
    incoming.take(OpenResponse(answers=answers))
    incoming.take(OpenResponse(pieces=[PipePiece(number=1, data=b"b"), PipePiece(number=2, data=b"b")]))
    error = too_large.answer.result()
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not kept.over
    incoming.take(OpenResponse(pieces=[PipePiece(number=1, data=b"c"), PipePiece(number=3, data=b"x" * 1000)]))
    answer = kept.answer.result()
    assert isinstance(answer, PipeAnswer)
    assert answer.response == b"abc"
    assert not out.under_way
