"""Tells a session from another one that had, or takes, the same id."""

from typing import NamedTuple

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.times import microseconds


class Incarnation(NamedTuple):
    """Equal for one session from its creation to its deletion, and never for two sessions of one id: a creation that
    takes the id of a deleted one begins at a higher version while the tombstone is there, and later in any case."""

    base_version: int
    create_time_us: int


def incarnation_of(core: Session) -> Incarnation:
    """`core`: a stored session, with or without its content."""
    return Incarnation(core.base_version, microseconds(core.create_time))
