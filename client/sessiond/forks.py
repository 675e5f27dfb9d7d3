"""Whether this process can use grpc: a child that was forked while its parent used it cannot."""

import os

from sessiond.errors import ClientForked

_connected = False
"""This process, or one that it was forked from, has opened a channel."""
_forked = False
"""It was forked after that."""


def connecting() -> None:
    """To be called before a channel is opened. Raises ClientForked."""
    global _connected
    if _forked:
        raise ClientForked
    _connected = True


def forked() -> bool:
    """Whether nothing of grpc may be touched, not even to end it."""
    return _forked


def _after_fork() -> None:
    global _forked
    _forked = _forked or _connected


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)
