"""The answers of one pipe that wait to be sent, and the frames that they are sent in."""

from collections import deque
from typing import Final

from sessiond.v1.pipe_service_pb2 import OpenResponse
from sessiond_server.rpc.pipe.piped_context import PipedContext

PIECE_BYTES: Final = 32 * 1024
"""Most bytes of a response in one frame. A longer one is cut, so that others pass between its pieces; sending a piece
takes well below a millisecond."""
FRAME_BYTES: Final = 64 * 1024
"""Bytes of answers at which a frame is full."""
FRAME_ANSWERS: Final = 256
"""Answers at which a frame is full."""


class _Cut:
    """A response that is sent in pieces."""

    __slots__ = ("context", "offset", "rest")

    def __init__(self, context: PipedContext) -> None:
        self.context = context
        self.rest = memoryview(context.response)
        self.offset = 0

    def next(self) -> bytes:
        piece = self.rest[self.offset : self.offset + PIECE_BYTES]
        self.offset += len(piece)
        return bytes(piece)

    @property
    def sent(self) -> bool:
        return self.offset == len(self.rest)


class Departing:
    """Answers in the order in which they were made; long ones are cut, and take turns with what is ready besides."""

    def __init__(self) -> None:
        self._whole: deque[PipedContext] = deque()
        self._cut: deque[_Cut] = deque()
        self.size = 0
        """Bytes of all responses that are not in a frame yet."""

    def __bool__(self) -> bool:
        return bool(self._whole or self._cut)

    def add(self, context: PipedContext) -> None:
        """Adds the answer of a call that has ended."""
        size = len(context.response)
        self.size += size
        if size > PIECE_BYTES:
            self._cut.append(_Cut(context))
        else:
            self._whole.append(context)

    def frame(self) -> tuple[OpenResponse, list[PipedContext]]:
        """The next frame, and the calls whose answers it completes. At most FRAME_BYTES and one piece, besides the
        texts of errors."""
        frame, ended, size = OpenResponse(), list[PipedContext](), 0
        while self._whole and size < FRAME_BYTES and len(ended) < FRAME_ANSWERS:
            context = self._whole.popleft()
            answer = frame.answers.add(number=context.number, response=context.response)
            if context.code is not None:
                answer.status.code = context.code.value[0]
                answer.status.message = context.text
                answer.status.details = context.details
            for key, text in context.texts:
                answer.trailers[key] = text
            size += len(context.response)
            ended.append(context)
        if self._cut:
            cut = self._cut.popleft()
            number, begins = cut.context.number, not cut.offset
            piece = cut.next()
            size += len(piece)
            if begins:
                answer = frame.answers.add(number=number, response=piece, response_size=len(cut.rest))
                for key, text in cut.context.texts:
                    answer.trailers[key] = text
            else:
                frame.pieces.add(number=number, data=piece)
            if cut.sent:
                ended.append(cut.context)
            else:
                self._cut.append(cut)
        self.size -= size
        return frame, ended
