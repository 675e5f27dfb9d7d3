"""Malformed requests over all RPCs, ten thousand in the long run: never INTERNAL, never UNKNOWN, never a crash.

Requests are valid ones with their bytes or fields broken, and plain noise. Seeded, so that a failure can be had again.
"""

import asyncio
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtoMessage
from grpc import StatusCode

from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.message_pb2 import Role
from sessiond.v1.session_pb2 import SessionStatus, SessionView
from tests.support.effort import left_to_long
from tests.support.requests import VALID, stock
from tests.support.wire import RPCS, Failure, Wire

QUICK = 2_500
ALL = int(os.environ.get("MALFORMED_REQUESTS", "10000"))
"""Requests of the long run."""
AT_ONCE = 64

ALLOWED = {
    StatusCode.OK,
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.ALREADY_EXISTS,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.ABORTED,
    StatusCode.OUT_OF_RANGE,
}

STRINGS = [
    "",
    "\0",
    "a\0b",
    "x" * 129,
    "x" * 5000,
    "é",
    "\u202e",
    "\ufffe",
    "\U0010ffff",
    "a b",
    "../..",
    "' OR 1=1 --",
    "%s{}",
    "active",
    "m1",
]
EXACT = 2**53 - 1
"""The largest integer that every language counts exactly."""
INTEGERS = [0, 1, -1, 2, 99, 2**31 - 1, -(2**31), EXACT, EXACT + 1, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e308, 5e-324]


def broken_bytes(source: Random, request: ProtoMessage) -> bytes:
    """A valid request with some of its bytes flipped, cut, doubled or strewn with noise."""
    data = bytearray(request.SerializeToString())
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(data) + 1)
        match source.randrange(5):
            case 0 if data:
                data[at % len(data)] = source.randrange(256)
            case 1 if data:
                data[at % len(data)] ^= 1 << source.randrange(8)
            case 2:
                del data[at:]
            case 3:
                data[at:at] = source.randbytes(source.randint(1, 12))
            case _:
                data += data[at:]
    return bytes(data)


def noise(source: Random, request: ProtoMessage) -> bytes:
    return source.randbytes(source.randrange(200))


def surrogates(source: Random, request: ProtoMessage) -> bytes:
    """Somewhere in the strings, three bytes that encode half a character."""
    data = request.SerializeToString()
    at = source.randrange(max(len(data) - 3, 1))
    return (
        data[:at] + source.choice([b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf8\x88\x80", b"\x00\x00\x00"]) + data[at + 3 :]
    )


def forged_token(source: Random, request: ProtoMessage) -> bytes:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=. "
    token = "".join(source.choices(alphabet, k=source.choice([1, 24, 60, 400, 5000])))
    return request.SerializeToString() + type(request)(page_token=token).SerializeToString()


def odd_fields(source: Random, request: ProtoMessage) -> bytes:
    """A valid request with some fields, at any depth, set to odd values of their type."""
    copy = type(request).FromString(request.SerializeToString())
    for _ in range(source.randint(1, 3)):
        make_odd(source, copy)
    return copy.SerializeToString()


def make_odd(source: Random, message: ProtoMessage, depth: int = 0) -> None:
    """Sets one field to an odd value; a message field goes the same way, at most 30 deep."""
    if not message.DESCRIPTOR.fields:
        return
    descriptor: Any = source.choice(message.DESCRIPTOR.fields)
    name, kind = descriptor.name, descriptor.type
    inner = descriptor.message_type
    if inner is not None and inner.GetOptions().map_entry:
        target = getattr(message, name)
        if inner.fields_by_name["value"].message_type is None:
            target[source.choice(STRINGS)] = source.choice(STRINGS)
        elif depth < 30:
            make_odd(source, target[source.choice(STRINGS)], depth + 1)
    elif descriptor.is_repeated:
        values = getattr(message, name)
        many = source.choice([1, 2, 101, 300])
        if inner is None:
            values.extend(odd_value(source, kind) for _ in range(many))
        elif depth < 30:
            # Only one of them goes deeper: else the request grows with the power of the depth.
            make_odd(source, values.add(), depth + 1)
            for _ in range(many - 1 if depth < 3 else 0):
                values.add()
    elif inner is not None:
        child = getattr(message, name)
        child.SetInParent()
        if depth < 30:
            make_odd(source, child, depth + 1)
    else:
        setattr(message, name, odd_value(source, kind))


def odd_value(source: Random, kind: int) -> Any:
    if kind == FieldDescriptor.TYPE_STRING:
        return source.choice(STRINGS)
    if kind == FieldDescriptor.TYPE_BYTES:
        return source.choice(STRINGS).encode()
    if kind == FieldDescriptor.TYPE_BOOL:
        return source.random() < 0.5
    if kind == FieldDescriptor.TYPE_DOUBLE:
        return source.choice(FLOATS)
    number = source.choice(INTEGERS)
    if kind == FieldDescriptor.TYPE_INT64:
        return number
    return max(min(number, 2**31 - 1), -(2**31))


Breakage = Callable[[Random, ProtoMessage], bytes]


def breakages(rpc: str) -> list[Breakage]:
    kinds: list[Breakage] = [broken_bytes, broken_bytes, odd_fields, odd_fields, surrogates, noise]
    if "page_token" in RPCS[rpc].input_type.fields_by_name:
        kinds.append(forged_token)
    return kinds


async def refused(wire: Wire, rpc: str, data: bytes) -> Failure | None:
    try:
        answer = await wire.call(rpc, data)
    except Failure as failure:
        return failure
    assert all(-EXACT <= number <= EXACT for number in integers(answer)), f"{rpc} {data!r}: {answer}"
    return None


def integers(message: ProtoMessage) -> Iterator[int]:
    """All integers of a message and of those in it."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            values = list(value.values())
        else:
            values = list(value) if descriptor.is_repeated else [value]
        for one in values:
            if isinstance(one, ProtoMessage):
                yield from integers(one)
            elif isinstance(one, int):
                yield one


@pytest.mark.parametrize("least", [QUICK, *left_to_long(ALL)])
async def test_no_request_breaks_the_server(wire: Wire, least: int) -> None:
    source = Random(1)
    each = math.ceil(least / len(RPCS))
    await stock(wire)
    requests = [(rpc, source.choice(breakages(rpc))(source, VALID[rpc])) for _ in range(each) for rpc in sorted(RPCS)]
    codes: Counter[StatusCode] = Counter()
    queue = iter(requests)

    async def send() -> None:
        for rpc, data in queue:
            failure = await refused(wire, rpc, data)
            if failure is not None:
                assert failure.code in ALLOWED, f"{rpc} {data!r}: {failure}"
                assert failure.reason, f"{rpc} {data!r}: {failure}"
                if failure.reason == "INVALID_FIELD":
                    assert failure.violations, f"{rpc} {data!r}: {failure}"
            codes[StatusCode.OK if failure is None else failure.code] += 1

    await asyncio.gather(*(send() for _ in range(AT_ONCE)))
    assert codes.total() == len(requests) >= least
    # Most of it is refused, by each of the ways there are: the breakage reaches all layers.
    assert codes[StatusCode.INVALID_ARGUMENT] > len(requests) / 3
    assert codes.keys() >= ALLOWED - {StatusCode.ABORTED, StatusCode.OUT_OF_RANGE}
    session = await wire.create("still-here")
    answer = await wire.call("GetSession", s.GetSessionRequest(session_id="still-here"))
    assert answer == session


async def test_accepted_requests_leave_readable_sessions(wire: Wire) -> None:
    """What odd requests have written comes back in lists and pages without an error."""
    source = Random(2)
    for number in range(300):
        request = s.CreateSessionRequest()
        request.session.session_id = f"s{number}"
        request.session.status = SessionStatus.SESSION_STATUS_ACTIVE
        make_odd(source, request.session)
        appended = m.AppendMessagesRequest(session_id=f"s{number}")
        make_odd(source, appended.messages.add(role=Role.ROLE_USER))
        for rpc, one in (("CreateSession", request), ("AppendMessages", appended)):
            code = await wire.start(rpc, one).code()
            assert code in ALLOWED, f"{one}: {code}"
    listed, token = 0, ""
    while True:
        full = SessionView.SESSION_VIEW_FULL
        page = await wire.call("ListSessions", s.ListSessionsRequest(page_size=100, page_token=token, view=full))
        for session in page.sessions:
            listed += 1
            messages = await wire.call("ListMessages", m.ListMessagesRequest(session_id=session.session_id))
            metrics = await wire.call("GetSessionMetrics", s.GetSessionMetricsRequest(session_id=session.session_id))
            assert all(-EXACT <= n <= EXACT for read in (session, messages, metrics) for n in integers(read))
        if not (token := page.next_page_token):
            break
    assert listed > 50


async def test_request_of_too_many_elements_is_refused_by_name(wire: Wire) -> None:
    failure = await wire.failure("AppendMessages", b"\x12\x00" * 1_000_000)
    assert failure.code is StatusCode.INVALID_ARGUMENT
    assert list(failure.violations) == ["request"]
