"""The client's methods for usage."""

from collections.abc import Iterable
from datetime import date

from sessiond.connection import Connection
from sessiond.fields import UsageDimensionLike, enum_value
from sessiond.pages import Pages
from sessiond.v1.usage_service_pb2 import GetUsageRequest, GetUsageResponse, UsageDimension, UsageRow


class UsageCalls:
    """UsageService; see `Client` for what all methods have in common."""

    _connection: Connection

    def get_usage(
        self,
        *,
        first_day: date | None = None,
        last_day: date | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        model: str | None = None,
        group_by: Iterable[UsageDimensionLike] = (),
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
    ) -> Pages[GetUsageResponse, UsageRow]:
        """What was used from `first_day` to `last_day`, both included and in UTC, for `async for`; see Pages. Without
        `last_day` until today, without `first_day` for 30 days.

        A row for each combination of `group_by` ("user", "day", "agent", "model"), of which there is anything; without
        it one row with the sums. `user_id`, `agent_id` and `model` select; "" selects what has none.
        `as_of_time` of a page says until when everything is counted, which usually is a second ago. `page_size` 0 means
        100; the maximum is 1 000. Raises, when it is read: InvalidPageToken.
        """
        dimensions = [enum_value(UsageDimension.DESCRIPTOR, name) for name in group_by]

        async def fetch(token: str) -> GetUsageResponse:
            request = GetUsageRequest(
                first_day=first_day.isoformat() if first_day is not None else "",
                last_day=last_day.isoformat() if last_day is not None else "",
                user_id=user_id,
                agent_id=agent_id,
                model=model,
                group_by=dimensions,
                page_size=page_size,
                page_token=token,
            )
            return await self._connection.call(self._connection.usage.GetUsage, request, timeout)

        return Pages(fetch, lambda page: page.rows, page_token)
