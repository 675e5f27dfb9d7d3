"""What goes through one pipe: the frames that its calls are sent in, and the answers that arrive. No I/O."""

from collections import deque
from typing import Final

import grpc.aio

from sessiond.piped_call import PipedCall, failure
from sessiond.v1.pipe_service_pb2 import OpenRequest, OpenResponse, PipeAnswer, PipePiece, PipeWindow

OVERHEAD: Final = 48
"""Most bytes of a call, besides its texts and its request, or of a piece besides its data."""
LEAST_FRAME: Final = 4096
"""Bytes; a server that allows less is not used."""
_ENTRY = 16
"""Most bytes of an entry of metadata, besides its texts."""
_CANCEL = 10
"""Most bytes of a number in `cancels`."""
_CANCELS = 100
"""Most of them in a frame."""
_MOST_TIMEOUT = 2**32 - 1


class BrokenRules(Exception):
    """The server does not keep to the protocol. The text says how, without contents."""


class Outgoing:
    """The next frame, and the calls that have no answer yet. Keeps within the server's window."""

    def __init__(self, window: PipeWindow) -> None:
        """Raises BrokenRules for a window that lets no call through."""
        if min(window.calls, window.request_bytes, window.piece_bytes) < 1:
            raise BrokenRules("the window lets no call through")
        if window.frame_bytes < LEAST_FRAME or window.frame_entries < 4:
            raise BrokenRules("the frames of the window are too small")
        self._window = window
        # Half of each frame is for a piece of a large request, so that those get on, and half for whole calls.
        self._piece = min(window.piece_bytes, window.frame_bytes // 2 - 1024)
        self._room = window.frame_bytes - self._piece - OVERHEAD - _CANCELS * _CANCEL
        self._entries = window.frame_entries // 2
        self.under_way: dict[int, PipedCall] = {}
        """By number: calls without an answer; those that were given up are among them until they are answered."""
        self._request_bytes = 0
        self._numbers = 0
        self._frame = OpenRequest()
        self._in_frame: list[PipedCall] = []
        self._frame_bytes = 0
        self._cut: deque[tuple[PipedCall, int]] = deque()
        """Calls whose requests are sent in pieces, with the bytes that were sent."""
        self._cancels: deque[int] = deque()

    def __bool__(self) -> bool:
        return bool(self._in_frame or self._cut or self._cancels)

    @property
    def fills(self) -> bool:
        """Whether there are calls in the next frame."""
        return bool(self._in_frame)

    def allows(self, size: int) -> bool:
        """Whether a request of that size can ever be sent."""
        return size <= self._window.request_bytes

    def take(self, call: PipedCall, now: float) -> bool:
        """Puts a call into the next frame; False: the frame or the window has no room for it."""
        under_way, window = self.under_way, self._window
        if len(under_way) >= window.calls or self._request_bytes + call.size > window.request_bytes:
            return False
        whole = call.size <= self._piece
        size = OVERHEAD + len(call.path) + (call.size if whole else self._piece)
        if call.metadata:
            size += sum(_ENTRY + len(key) + len(value) for key, value in call.metadata.items())
        in_frame = self._in_frame
        if in_frame and (self._frame_bytes + size > self._room or len(in_frame) >= self._entries):
            return False
        self._numbers = call.number = self._numbers + 1
        timeout = min(_MOST_TIMEOUT, max(1, int((call.ends - now) * 1000)))
        request = call.request if whole else call.request[: self._piece]
        added = self._frame.calls.add(number=call.number, method=call.path, request=request, timeout_ms=timeout)
        if call.metadata:
            added.metadata.update(call.metadata)
        if not whole:
            added.request_size = call.size
            self._cut.append((call, self._piece))
        under_way[call.number] = call
        self._request_bytes += call.size
        self._frame_bytes += size
        in_frame.append(call)
        return True

    def cancel(self, call: PipedCall) -> None:
        """Lets the server know that the call's answer is not needed."""
        self._cancels.append(call.number)

    def frame(self) -> bytes:
        """The next frame, which is sent then."""
        frame, self._frame = self._frame, OpenRequest()
        self._in_frame.clear()
        self._frame_bytes = 0
        if self._cut:
            self._add_piece(frame)
        for _ in range(min(len(self._cancels), _CANCELS, self._entries - 1)):
            frame.cancels.append(self._cancels.popleft())
        return frame.SerializeToString()

    def _add_piece(self, frame: OpenRequest) -> None:
        call, sent = self._cut.popleft()
        if call.number not in self.under_way or call.over:
            return  # answered, or cancelled: the server expects no more of it
        data = call.request[sent : sent + self._piece]
        frame.pieces.append(PipePiece(number=call.number, data=data))
        if sent + len(data) < call.size:
            self._cut.append((call, sent + len(data)))

    def unsent(self) -> list[PipedCall]:
        """Takes back the calls that were not sent yet, oldest first."""
        calls, self._in_frame = self._in_frame, []
        self._frame, self._frame_bytes = OpenRequest(), 0
        for call in calls:
            self.answered(call.number)
            call.number, call.pipe = 0, None
        if calls:
            kept = set(map(id, calls))
            self._cut = deque(each for each in self._cut if id(each[0]) not in kept)
        return calls

    def answered(self, number: int) -> PipedCall | None:
        """Removes a call, and returns it; None: there is none of that number."""
        call = self.under_way.pop(number, None)
        if call is not None:
            self._request_bytes -= call.size
            call.answered()
        return call


class _Arriving:
    """An answer in pieces."""

    __slots__ = ("answer", "kept", "left")

    def __init__(self, answer: PipeAnswer, *, keeps: bool) -> None:
        self.answer = answer
        self.left = answer.response_size
        self.kept = bytearray() if keeps else None
        """None: its caller does not need it any more."""

    def add(self, data: bytes) -> bool:
        """Returns whether it is whole now. Raises BrokenRules."""
        self.left -= len(data)
        if self.left < 0:
            raise BrokenRules("an answer is longer than it says")
        if self.kept is not None:
            self.kept += data
        return not self.left


class Incoming:
    """Puts answers together."""

    def __init__(self, outgoing: Outgoing, largest: int) -> None:
        """`largest`: most bytes of an answer; a call with a larger one fails as a plain call does."""
        self._outgoing = outgoing
        self._largest = largest
        self._arriving: dict[int, _Arriving] = {}

    def take(self, frame: OpenResponse) -> None:
        """Ends the calls whose answers the frame completes. Raises BrokenRules."""
        for answer in frame.answers:
            if answer.response_size:
                self._begin(answer)
            elif answer.number in self._arriving:
                raise BrokenRules("a call is answered twice")
            else:
                self._end(answer)
        for piece in frame.pieces:
            arriving = self._arriving.get(piece.number)
            if arriving is None:
                raise BrokenRules("a piece belongs to no answer")
            self._add(arriving, piece.data)

    def _begin(self, answer: PipeAnswer) -> None:
        call = self._outgoing.under_way.get(answer.number)
        if call is None or answer.number in self._arriving:
            raise BrokenRules("an answer belongs to no call")
        size = answer.response_size
        if size > self._largest:
            text = f"CLIENT: Received message larger than max ({size} vs. {self._largest})"
            call.end(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
        data, answer.response = answer.response, b""
        arriving = self._arriving[answer.number] = _Arriving(answer, keeps=not call.over)
        self._add(arriving, data)

    def _add(self, arriving: _Arriving, data: bytes) -> None:
        if arriving.add(data):
            answer = arriving.answer
            del self._arriving[answer.number]
            if arriving.kept is not None:
                answer.response = bytes(arriving.kept)
            self._end(answer)

    def _end(self, answer: PipeAnswer) -> None:
        call = self._outgoing.answered(answer.number)
        if call is None:
            raise BrokenRules("an answer belongs to no call")
        call.end(answer)
