"""Gives every call an id, which its caller, its log records and its errors share."""

import random
import re
from collections.abc import Awaitable
from typing import Any, Final

from sessiond_server.rpc.call import CALL_ID, Call, Handler, Method

KEY: Final = "x-request-id"
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:~-]{1,128}").fullmatch


class CallId:
    """Uses a well-formed `x-request-id`, or creates an id. A given id is echoed in the trailing metadata; an error
    always carries the id.
    """

    def around(self, method: Method, proceed: Handler) -> Handler:
        def identified(request: Any, call: Call) -> Awaitable[bytes | None]:
            if given := _given(call):
                call.id = given
                call.context.set_trailing_metadata(((KEY, given),))
            else:
                call.id = f"{random.getrandbits(128):032x}"
            # It needs no reset, because the task and its context belong to this call alone.
            CALL_ID.set(call.id)
            return proceed(request, call)

        return identified


def _given(call: Call) -> str:
    for key, value in call.metadata:
        if key == KEY:
            return value if isinstance(value, str) and _WELL_FORMED(value) else ""
    return ""
