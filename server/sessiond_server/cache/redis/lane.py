"""What many callers want of one server, gathered into pipelines: whatever came up while one was away is the next."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sessiond_server.cache.redis.link import Link, Replies, pack

MOST_COMMANDS = 512
MOST_BYTES = 1024 * 1024
"""Of one pipeline; one item may be larger."""

Done = Callable[[Sequence[Any] | None], None]
"""Takes the replies to an item's commands, errors as values; or None when they are not to be believed."""


class Lane:
    """Believes replies only if, after them, the server was still in `epoch`, in which all its commands' keys are.

    `changed` is called when it was not, or when the connection is lost. A new epoch needs a new lane.
    """

    def __init__(self, link: Link, epoch_key: bytes, epoch: bytes, changed: Callable[[], None]) -> None:
        self.waiting = 0
        """Items that have no answer yet."""
        self._link = link
        self._epoch = epoch
        self._which_epoch = pack(b"GET", epoch_key)
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[bytes, int, Done]] = []
        self._busy = False
        """A pipeline is away, or about to be sent."""

    def add(self, commands: bytes, count: int, done: Done) -> None:
        """Sends packed commands with the next pipeline, which leaves in the loop's next turn if none is away."""
        self.waiting += 1
        self._queue.append((commands, count, done))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        batch = self._queue
        size = commands = 0
        for place, item in enumerate(batch):
            size += len(item[0])
            commands += item[1]
            if place and (commands > MOST_COMMANDS or size > MOST_BYTES):
                batch, self._queue = batch[:place], batch[place:]
                commands -= item[1]
                break
        else:
            self._queue = []
        payload = b"".join([item[0] for item in batch]) + self._which_epoch
        self._link.send(payload, commands + 1, partial(self._landed, batch))

    def _landed(self, batch: Sequence[tuple[bytes, int, Done]], replies: Replies) -> None:
        self.waiting -= len(batch)
        believed = replies is not None and replies[-1] == self._epoch
        if not believed:
            # Before any caller goes on: it must not find the lane fit for use.
            self._changed()
        start = 0
        for _, count, done in batch:
            done(replies[start : start + count] if believed and replies is not None else None)
            start += count
        if self._queue:
            self._send()
        else:
            self._busy = False
