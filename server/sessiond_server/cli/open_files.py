"""The limit of open files: every connection takes one, and many systems allow 1 024 unless a process asks for more."""

import resource
from typing import Final

WANTED: Final = 65_536
"""As many as all connections of all ports need, with room to spare."""


def most() -> int:
    """How many files `serve` may have open when it is started from where this process was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    return limit if soft == resource.RLIM_INFINITY else max(soft, limit)


def allow_most() -> None:
    """Raises the limit of this process as far as it may, to WANTED at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < most():
        resource.setrlimit(resource.RLIMIT_NOFILE, (most(), hard))
