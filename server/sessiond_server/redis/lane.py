"""Gathers the commands of many callers into pipelines to one server, with one pipeline in flight."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from sessiond_server.redis.link import Link, Replies, pack

_log = logging.getLogger("sessiond.cache")

MOST_COMMANDS: Final = 512
MOST_BYTES: Final = 1024 * 1024
"""Most commands and bytes of one pipeline; a single item may be larger."""

QUIET_TURNS: Final = 1
ENOUGH: Final = 32
"""Reads are sent after QUIET_TURNS turns of the event loop without another read, or once ENOUGH reads wait. Calls begin
in groups (rpc/interceptors/gathering.py), so the reads of a group arrive within one turn. Before calls were grouped,
reads had to wait for six turns (docs/decisions/0006-redis-links.md)."""

Done = Callable[[Sequence[Any] | None], None]
"""Receives the replies to an item's commands, errors as values; None if the replies may be stale."""


class Lane:
    """A queue of commands to one server, all with keys of one epoch.

    Each pipeline ends with a read of the server's epoch. If that is no longer `epoch`, or the connection is lost, the
    items get None instead of their replies, and `changed` is called. A new epoch needs a new lane. A pipeline is sent
    after `turns` quiet turns of the loop, or once ENOUGH items wait.
    """

    def __init__(self, link: Link, epoch_key: bytes, epoch: bytes, changed: Callable[[], None], turns: int) -> None:
        self.waiting = 0
        """Number of items that have no answer yet."""
        self._link = link
        self._epoch = epoch
        self._which_epoch = pack(b"GET", epoch_key)
        self._changed = changed
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[bytes, int, Done]] = []
        self._since = 0.0
        """When the first item of the queue was added, by the loop's clock."""
        self._busy = False
        """Whether a pipeline is in flight, or about to be sent."""

    def add(self, commands: bytes, count: int, done: Done) -> None:
        """Adds `count` packed commands to the next pipeline, which is sent when none is in flight.

        The link's timeout counts from this call, so it includes the wait for the previous pipeline.
        """
        self.waiting += 1
        if not self._queue:
            self._since = self._loop.time()
        self._queue.append((commands, count, done))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._gather, 1, self._turns)

    def _gather(self, seen: int, turns: int) -> None:
        """Sends the queue once it has stayed at `seen` items for `turns` more turns of the loop."""
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
            # This comes before the callers get their answers, so that none of them uses this lane again.
            self._changed()
        start = 0
        for _, count, done in batch:
            try:
                done(replies[start : start + count] if believed and replies is not None else None)
            except Exception:
                # The failure of one item must not leave other items without an answer.
                _log.exception("the callback of a cache command failed")
            start += count
        if self._queue:
            self._loop.call_soon(self._gather, len(self._queue), self._turns)
        else:
            self._busy = False
