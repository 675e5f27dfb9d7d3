"""The calls of what must be kept."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from datetime import timedelta

from sessiond.connection import Connection
from sessiond.pages import Pages
from sessiond.request_ids import new_request_id
from sessiond.v1.erasure_pb2 import ErasureReport
from sessiond.v1.retention_pb2 import LegalHold, RetentionPolicy
from sessiond.v1.retention_service_pb2 import (
    GetRetentionPolicyRequest,
    LiftHoldRequest,
    ListHoldsRequest,
    ListHoldsResponse,
    PlaceHoldRequest,
    SetRetentionPolicyRequest,
    VerifyErasureReportRequest,
)


class RetentionCalls:
    """RetentionService; see `Client` for what all methods have in common."""

    _connection: Connection

    async def place_hold(
        self,
        *,
        session_id: str = "",
        user_id: str = "",
        reason: str,
        request_id: str = "",
        timeout: float | None = None,
    ) -> LegalHold:
        """Places a legal hold on a session or on a user, and returns it: until it is lifted, everything that would
        remove something of them raises UnderLegalHold.

        Exactly one of `session_id` and `user_id` is given. Needs a key with the scope `holds:write`. Raises
        SessionNotFound.
        """
        request = PlaceHoldRequest(
            session_id=session_id, user_id=user_id, reason=reason, request_id=request_id or new_request_id()
        )
        return await self._connection.call(self._connection.retention.PlaceHold, request, timeout, request.request_id)

    async def lift_hold(self, hold_id: str, *, reason: str = "", timeout: float | None = None) -> LegalHold:
        """Lifts a legal hold, and returns it; one that is lifted stays as it is. Raises HoldNotFound."""
        request = LiftHoldRequest(hold_id=hold_id, reason=reason)
        return await self._connection.call(self._connection.retention.LiftHold, request, timeout)

    def list_holds(
        self,
        *,
        session_id: str = "",
        user_id: str = "",
        include_lifted: bool = False,
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> Pages[ListHoldsResponse, LegalHold]:
        """Lists legal holds, newest first: of a session, of a user, or all.

        `page_size` 0 means 100; the maximum is 1 000. `timeout` applies to each page. Raises, when it is read:
        InvalidPageToken.
        """

        async def fetch(token: str) -> ListHoldsResponse:
            request = ListHoldsRequest(
                session_id=session_id,
                user_id=user_id,
                include_lifted=include_lifted,
                page_size=page_size,
                page_token=token,
            )
            return await self._connection.call(self._connection.retention.ListHolds, request, timeout)

        return Pages(fetch, lambda page: page.holds, page_token)

    async def set_retention_policy(
        self, ended_retention: timedelta | None, *, timeout: float | None = None
    ) -> RetentionPolicy:
        """Sets for how long the tenant's ended sessions are kept; zero: for good; None: as the server's setting says.
        Then the service deletes them. Needs a key with the scope `retention:write`."""
        policy = RetentionPolicy()
        if ended_retention is not None:
            policy.ended_retention.FromTimedelta(ended_retention)
        request = SetRetentionPolicyRequest(policy=policy)
        return await self._connection.call(self._connection.retention.SetRetentionPolicy, request, timeout)

    async def get_retention_policy(self, *, timeout: float | None = None) -> RetentionPolicy:
        """Returns for how long the tenant's ended sessions are kept, also where no policy was set."""
        request = GetRetentionPolicyRequest()
        return await self._connection.call(self._connection.retention.GetRetentionPolicy, request, timeout)

    async def verify_erasure_report(self, report: ErasureReport, *, timeout: float | None = None) -> bool:
        """Whether the service made this report of an erasure (`Erasure.report`), and nobody has changed it since."""
        request = VerifyErasureReportRequest(report=report)
        return (await self._connection.call(self._connection.retention.VerifyErasureReport, request, timeout)).valid
