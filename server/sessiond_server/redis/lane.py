"""What many callers want of one server, gathered into pipelines: whatever came up while one was away is the next."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from sessiond_server.redis.link import Link, Replies, pack

_log = logging.getLogger("sessiond.cache")

MOST_COMMANDS: Final = 512
MOST_BYTES: Final = 1024 * 1024
"""Of one pipeline; one item may be larger."""

QUIET_TURNS: Final = 1
ENOUGH: Final = 32
"""Reads leave once so many turns of the loop brought no other, or so many are there. Calls begin in groups
(rpc/interceptors/gathering.py), so those that belong together come within a turn; before they did, reads had to wait
for six (docs/decisions/0006-redis-links.md)."""

Done = Callable[[Sequence[Any] | None], None]
"""Takes the replies to an item's commands, errors as values; or None when they are not to be believed."""


class Lane:
    """Believes replies only if, after them, the server was still in `epoch`, in which all its commands' keys are.

    `changed` is called when it was not, or when the connection is lost. A new epoch needs a new lane. A pipeline leaves
    after `turns` quiet turns of the loop, or with ENOUGH items.
    """

    def __init__(self, link: Link, epoch_key: bytes, epoch: bytes, changed: Callable[[], None], turns: int) -> None:
        self.waiting = 0
        """Items that have no answer yet."""
        self._link = link
        self._epoch = epoch
        self._which_epoch = pack(b"GET", epoch_key)
        self._changed = changed
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[bytes, int, Done]] = []
        self._since = 0.0
        """When the first item of the queue came."""
        self._busy = False
        """A pipeline is away, or about to be sent."""

    def add(self, commands: bytes, count: int, done: Done) -> None:
        """Sends packed commands with the next pipeline, which leaves when none is away.

        The link's timeout counts from now: waiting for the pipeline before is part of it.
        """
        self.waiting += 1
        if not self._queue:
            self._since = self._loop.time()
        self._queue.append((commands, count, done))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._gather, 1, self._turns)

    def _gather(self, seen: int, turns: int) -> None:
        """Sends once `turns` more turns have brought nothing to the `seen` items."""
        count = len(self._queue)
        if count >= ENOUGH or (count == seen and not turns):
            self._send()
        else:
            self._loop.call_soon(self._gather, count, turns - 1 if count == seen else self._turns)

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
        self._link.send(payload, commands + 1, partial(self._ended, batch), self._since)

    def _ended(self, batch: Sequence[tuple[bytes, int, Done]], replies: Replies) -> None:
        self.waiting -= len(batch)
        believed = replies is not None and replies[-1] == self._epoch
        if not believed:
            # Before any caller goes on: it must not find the lane fit for use.
            self._changed()
        start = 0
        for _, count, done in batch:
            try:
                done(replies[start : start + count] if believed and replies is not None else None)
            except Exception:
                # One item's failure must not keep the others, and all that come later, waiting.
                _log.exception("an answer of the cache cannot be taken")
            start += count
        if self._queue:
            self._loop.call_soon(self._gather, len(self._queue), self._turns)
        else:
            self._busy = False
