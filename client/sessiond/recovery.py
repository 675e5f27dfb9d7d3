"""Which errors another attempt may not meet again."""

from sessiond.errors import (
    DeadlinePassed,
    Exhausted,
    InternalError,
    SessiondError,
    SessionQuotaReached,
    Unavailable,
)


def passes(error: SessiondError) -> bool:
    """Whether another attempt, sooner or later, will be better."""
    if isinstance(error, Exhausted):
        return error.retry_after is not None and not isinstance(error, SessionQuotaReached)
    return isinstance(error, Unavailable | DeadlinePassed)


def may_pass(error: SessiondError) -> bool:
    """Whether it is of a kind that a proxy or a broken connection makes as well as a defect."""
    return isinstance(error, InternalError) or error.code in ("INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED")
