"""Tracks whether this process can use grpc: a child that was forked after its parent had used grpc cannot."""

import os

from sessiond.errors import ClientForked

_connected = False
"""Whether this process, or one that it was forked from, has opened a channel."""
_forked = False
"""Whether it was forked after that."""


def connecting() -> None:
    """Must be called before a channel is opened. Raises ClientForked."""
    global _connected
    if _forked:
        raise ClientForked
    _connected = True


def forked() -> bool:
    """Returns whether grpc must not be used at all, not even to end a call."""
    return _forked


def _after_fork() -> None:
    global _forked
    _forked = _forked or _connected


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)
