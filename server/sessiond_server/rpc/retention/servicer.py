"""RetentionService. Each RPC makes four moves: check, authorise, call, answer."""

import hmac
from typing import cast

from sessiond.v1.retention_pb2 import RetentionPolicy
from sessiond.v1.retention_service_pb2 import (
    GetRetentionPolicyRequest,
    LiftHoldRequest,
    ListHoldsRequest,
    ListHoldsResponse,
    PlaceHoldRequest,
    SetRetentionPolicyRequest,
    VerifyErasureReportRequest,
    VerifyErasureReportResponse,
)
from sessiond_server.auth import HOLDS_WRITE, RETENTION_WRITE, SESSIONS_READ
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.times import set_duration
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.rpc.retention import checks as requests
from sessiond_server.rpc.sessions import erasures
from sessiond_server.store.retention import NewHold, RetentionStore


class RetentionServicer:
    """The RPCs of sessiond.v1.RetentionService."""

    def __init__(self, retention: RetentionStore, tokens: PageTokens, default_us: int) -> None:
        """`default_us`: for how long tenants without a policy keep ended sessions, in microseconds; 0: for good."""
        self._retention = retention
        self._tokens = tokens
        self._default_us = default_us

    async def place_hold(self, request: PlaceHoldRequest, call: Call) -> bytes:
        requests.place_hold(request)
        scope = call.admit(HOLDS_WRITE)
        named = (request.session_id, request.user_id, request.reason)
        hold = NewHold(*named, actor=call.principal.name, request_id=request.request_id)
        return (await self._retention.place_hold(scope, hold)).SerializeToString()

    async def lift_hold(self, request: LiftHoldRequest, call: Call) -> bytes:
        requests.lift_hold(request)
        scope = call.admit(HOLDS_WRITE)
        hold = await self._retention.lift_hold(scope, request.hold_id, call.principal.name, request.reason)
        return hold.SerializeToString()

    async def list_holds(self, request: ListHoldsRequest, call: Call) -> bytes:
        limit = requests.list_holds(request)
        scope = call.admit(HOLDS_WRITE)
        selected = (request.session_id, request.user_id, int(request.include_lifted))
        tokens = self._tokens.of(scope, call.method.path, *selected)
        # A token that this list has sealed holds a key of the store.
        after = cast("tuple[int, str] | None", tokens.open(request.page_token))
        page = await self._retention.list_holds(
            scope,
            session_id=request.session_id,
            user_id=request.user_id,
            lifted=request.include_lifted,
            after=after and (after[0], after[1]),
            limit=limit,
        )
        following = tokens.seal([*page.next_key]) if page.next_key else ""
        return ListHoldsResponse(holds=page.holds, next_page_token=following).SerializeToString()

    async def set_retention_policy(self, request: SetRetentionPolicyRequest, call: Call) -> bytes:
        kept_us = requests.set_retention_policy(request)
        scope = call.admit(RETENTION_WRITE)
        await self._retention.set_policy(scope, kept_us, call.principal.name)
        return (await self._policy(scope)).SerializeToString()

    async def get_retention_policy(self, request: GetRetentionPolicyRequest, call: Call) -> bytes:
        requests.get_retention_policy(request)
        return (await self._policy(call.admit(SESSIONS_READ))).SerializeToString()

    async def verify_erasure_report(self, request: VerifyErasureReportRequest, call: Call) -> bytes:
        requests.verify_erasure_report(request)
        scope = call.admit(SESSIONS_READ)
        signed = erasures.signature(request.report, self._tokens.key_of(scope.tenant_id))
        valid = hmac.compare_digest(signed, request.report.signature) and requests.names(request.report, scope)
        return VerifyErasureReportResponse(valid=valid).SerializeToString()

    async def _policy(self, scope: Scope) -> RetentionPolicy:
        policy = await self._retention.get_policy(scope)
        if policy.HasField("ended_retention"):
            policy.effective_ended_retention.CopyFrom(policy.ended_retention)
        else:
            set_duration(policy.effective_ended_retention, self._default_us)
        return policy
