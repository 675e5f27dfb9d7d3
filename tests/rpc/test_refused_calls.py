"""Every call that is refused to protect the service is counted, by why (docs/metrics.md)."""

from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from sessiond.v1.event_service_pb2 import WatchSessionRequest
from sessiond.v1.message_pb2 import Message, Part
from sessiond.v1.message_service_pb2 import AppendMessagesRequest, ListMessagesRequest
from sessiond.v1.session_service_pb2 import GetSessionRequest
from sessiond_server import errors
from sessiond_server.errors import Exhausted, InvalidFields, SessiondError
from sessiond_server.events.limits import HubLimits
from tests.support.waiting import until
from tests.support.wire import OTHER_TENANT, TENANT, Wire, said, serving

GET = GetSessionRequest(session_id="s")


class Refusing:
    """A writer that refuses everything."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def write(self, command: object) -> object:
        raise self._error


# A caller may have its answer a moment before the call is counted.
def counted(wire: Wire) -> Mapping[str, int]:
    return {refusal: count for refusal, count in wire.server.refused_calls.items() if count}


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (errors.QueueFull(1), "queue"),
        (errors.TooManyCalls(1), "calls"),
        (errors.TooManyUploads(1), "uploads"),
        (errors.TooManySummaries(1, 1), "summaries"),
        (errors.RunQueueFull("s", 1, 1), "runs"),
        (errors.SessionQuotaReached(1), "sessions"),
        (errors.TransferStalled(1), "stalled"),
        (errors.WatcherTooSlow("", 1), "slow_watcher"),
        (errors.TooManyTransfers(1), "transfers"),
        (errors.TooManyWatchers(1), "watchers"),
    ],
)
async def test_refusals_of_the_parts_behind_the_wire_are_counted(error: SessiondError, refusal: str) -> None:
    async with serving(writer=Refusing(error), call_metrics=True) as wire:  # type: ignore[arg-type]
        await wire.failure("AppendMessages", AppendMessagesRequest(session_id="s", messages=[said("a")]))
        await until(lambda: counted(wire) == {refusal: 1})


async def test_calls_without_a_valid_key_or_method_are_counted() -> None:
    async with serving(call_metrics=True) as wire:
        await wire.failure("GetSession", GET, key="wrong")
        await wire.failure("GetSession", GET, key="wrong")
        for path in ("/sessiond.v1.SessionService/GetSession", "/no.Such/Method"):
            call: Any = wire.channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError):
                await call(b"")
        await until(lambda: counted(wire) == {"wrong_key": 2, "no_key": 1, "unknown_method": 1})


async def test_requests_that_are_too_large_or_of_too_many_elements_are_counted() -> None:
    async with serving(call_metrics=True, largest_request=1000) as wire:
        await wire.failure("AppendMessages", AppendMessagesRequest(session_id="s", messages=[said("x" * 2000)]))
        many = AppendMessagesRequest(session_id="s", messages=[Message(parts=[Part()] * 500_000)])
        await wire.failure("AppendMessages", many)
        await until(lambda: counted(wire) == {"request_size": 1, "elements": 1})


async def test_calls_beyond_budgets_of_bytes_are_counted() -> None:
    async with serving(call_metrics=True, most_request_bytes=10_000) as wire:
        large = AppendMessagesRequest(session_id="s", messages=[said("x" * 20_000)])
        assert (await wire.failure("AppendMessages", large)).reason == "TOO_MANY_CALLS"
        await until(lambda: counted(wire) == {"request_bytes": 1})
    async with serving(call_metrics=True, most_unsent_bytes=10_000) as wire:
        await wire.create("s")
        await wire.append("s", "x" * 100_000)
        assert (await wire.failure("ListMessages", ListMessagesRequest(session_id="s"))).reason == "TOO_MANY_CALLS"
        await until(lambda: counted(wire) == {"answer_bytes": 1})


async def test_watchers_beyond_a_share_are_counted() -> None:
    async with serving(call_metrics=True, limits=HubLimits(watchers=1)) as wire:
        await wire.create("s")
        watch = wire.watch("WatchSession", WatchSessionRequest(session_id="s"))
        await watch.read()
        await wire.failure("WatchSession", WatchSessionRequest(session_id="s"))
        await until(lambda: counted(wire) == {"watchers": 1})


async def test_checks_of_health_that_give_way_are_counted() -> None:
    async with serving() as wire:
        check: Any = wire.channel.stream_unary("/grpc.health.v1.Health/Check")
        silent = [check() for _ in range(80)]
        await until(lambda: counted(wire).get("health", 0) > 0)
        for call in silent:
            call.cancel()
        assert set(counted(wire)) == {"health"}


async def test_what_is_no_refusal_is_not_counted() -> None:
    async with serving(call_metrics=True) as wire:
        await wire.failure("GetSession", GET)
        await wire.failure("AppendMessages", AppendMessagesRequest(session_id="s"))
        await wire.create("s", key=OTHER_TENANT)
        await wire.failure("GetSession", GET, key=TENANT)
        assert counted(wire) == {}


def test_every_exhausted_limit_has_a_name_that_metrics_know() -> None:
    assert len(set(errors.REFUSALS)) == len(errors.REFUSALS)
    for kind in Exhausted.__subclasses__():
        refusal = errors.TooManyCalls(1).refusal if kind is errors.TooManyCalls else kind.refusal
        assert refusal in errors.REFUSALS, kind
    assert not InvalidFields([]).refusal
