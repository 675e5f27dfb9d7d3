"""Which errors another attempt may avoid."""

from sessiond.errors import (
    DeadlinePassed,
    Exhausted,
    InternalError,
    SessiondError,
    SessionQuotaReached,
    Unavailable,
)


def passes(error: SessiondError) -> bool:
    """Whether the cause is temporary, so that a later attempt can succeed."""
    if isinstance(error, Exhausted):
        return error.retry_after is not None and not isinstance(error, SessionQuotaReached)
    return isinstance(error, Unavailable | DeadlinePassed)


def may_pass(error: SessiondError) -> bool:
    """Whether a proxy or a broken connection may have caused the error, and not a defect of the service."""
    return isinstance(error, InternalError) or error.code in ("INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED")
