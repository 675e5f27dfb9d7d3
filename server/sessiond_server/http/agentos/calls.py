"""The calls of the gRPC port that one request makes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from sessiond.v1.session_pb2 import Consistency, Session, SessionView
from sessiond.v1.session_service_pb2 import GetSessionRequest
from sessiond_server.http import problems
from sessiond_server.http.agentos.refusals import Form, Missing, Refused
from sessiond_server.http.agentos.sessions import type_of
from sessiond_server.http.exchange import Request
from sessiond_server.http.files import Unary
from sessiond_server.http.problems import Problem
from sessiond_server.http.rules import RPCS
from sessiond_server.rpc.loopback import CallFailed


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls on behalf of one request, with its key and its database."""

    unary: Unary
    request: Request
    tenant_id: str
    form: Form
    run: Callable[..., Awaitable[Any]]
    """Converter.run: for work on many values."""
    database: str = ""
    """As the caller named it; for refusals."""

    async def __call__(self, rpc: str, message: Message) -> Any:
        """The answer of an RPC. Raises Refused and Problem."""
        try:
            got = await self.unary(rpc, message.SerializeToString(), self.request, self.tenant_id)
        except CallFailed as failure:
            problem = problems.of(failure)
            if any(each.field == "db_id" for each in problem.fields):
                code = "DATABASE_NOT_FOUND" if self.form == "go" else ""
                raise Refused(404, f"No database found with id '{self.database}'", code) from None
            raise problem from None
        return GetMessageClass(RPCS[rpc].output_type).FromString(got)

    async def session(
        self, session_id: str, kind: str | None, user_id: str | None, view: "SessionView.ValueType", missing: str
    ) -> Session:
        """The session, if it is of this type and this user; None: of any. What was acknowledged before is in it. Raises
        Missing with the text `missing`, Refused and Problem."""
        asked = GetSessionRequest(session_id=session_id, view=view, consistency=Consistency.CONSISTENCY_STRONG)
        try:
            found: Session = await self("GetSession", asked)
        except Problem as problem:
            # An id that no session can have is that of none.
            if problem.reason in ("SESSION_NOT_FOUND", "INVALID_FIELD"):
                raise Missing(404, missing) from None
            raise
        if (kind is not None and type_of(found) != kind) or (user_id is not None and found.user_id != user_id):
            raise Missing(404, missing)
        return found
