"""What searches accept: both sides of each bound."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.search_service_pb2 import SearchMessagesRequest, SearchOrder, SearchSessionsRequest, SeenVersion
from sessiond_server.errors import InvalidFields
from sessiond_server.rpc.search.checks import search_messages, search_sessions
from tests.support.rows import table


def faults(request: SearchMessagesRequest | SearchSessionsRequest) -> list[str]:
    """Paths of the violations."""
    try:
        if isinstance(request, SearchMessagesRequest):
            search_messages(request)
        else:
            search_sessions(request)
    except InvalidFields as error:
        return [violation.field for violation in error.violations]
    return []


QUERIES: list[tuple[str, bool]] = [
    ("", False),
    ("a", True),
    ("a" * 1024, True),
    ("a" * 1025, False),
    ("a " * 5120, False),
    (" ".join(["a"] * 64), True),
    (" ".join(["a"] * 65), False),
    (" OR ".join(["a"] * 64), True),
    (" OR ".join(["a"] * 200), False),
    ("a\0", False),
    ("\0", False),
    ("...", False),
    ("?!\u3002\u2026", False),
    ("-a", False),
    ("-a b", True),
    ('"', False),
    ('"a b', True),
    ('a" "b', True),
    ("OR", False),
    ("OR a", True),
    ("a OR", True),
    ("ab*", False),
    ("abc*", True),
    ("*", False),
    ("\U0001f44d", True),
    ("\u200d", False),
]
SHARED: list[tuple[str, Any, list[str]]] = [
    ("order_by", SearchOrder.SEARCH_ORDER_RELEVANCE, []),
    ("order_by", 3, ["order_by"]),
    ("order_by", -1, ["order_by"]),
    ("page_size", 0, []),
    ("page_size", 2**31 - 1, []),
    ("page_size", -1, ["page_size"]),
    ("wait_for", SeenVersion(session_id="s", version=1), []),
    ("wait_for", SeenVersion(session_id="s", version=2**63 - 1), []),
    ("wait_for", SeenVersion(session_id="s"), ["wait_for.version"]),
    ("wait_for", SeenVersion(session_id="s", version=-1), ["wait_for.version"]),
    ("wait_for", SeenVersion(version=1), ["wait_for.session_id"]),
    ("wait_for", SeenVersion(session_id="s" * 256, version=1), ["wait_for.session_id"]),
]
MESSAGES: list[tuple[str, Any, list[str]]] = [
    ("session_id", "", []),
    ("session_id", "a" * 255, []),
    ("session_id", "a" * 256, ["session_id"]),
    ("session_id", "a\0", ["session_id"]),
    ("roles", [], []),
    ("roles", [1, 2, 3, 4], []),
    ("roles", [1, 1, 1, 1, 1], ["roles"]),
    ("roles", [2, 0], ["roles[1]"]),
    ("roles", [99], ["roles[0]"]),
    ("time_from", Timestamp(seconds=5), []),
    ("time_from", Timestamp(seconds=2**62), ["time_from"]),
    ("time_until", Timestamp(nanos=-1), ["time_until"]),
]


def test_queries() -> None:
    with table() as rows:
        for query, good in QUERIES:
            with rows.row(query[:40]):
                for request in (SearchMessagesRequest(query=query), SearchSessionsRequest(query=query)):
                    assert faults(request) == ([] if good else ["query"])


def test_fields_of_both() -> None:
    with table() as rows:
        for name, value, expected in SHARED:
            for request in (SearchMessagesRequest, SearchSessionsRequest):
                with rows.row(request.__name__, name, value):
                    assert faults(request(query="a", **{name: value})) == expected


def test_fields_of_search_messages() -> None:
    with table() as rows:
        for name, value, expected in MESSAGES:
            with rows.row(name, value):
                assert faults(SearchMessagesRequest(query="a", **{name: value})) == expected


def test_times_are_in_order() -> None:
    first, later = Timestamp(seconds=5), Timestamp(seconds=5, nanos=1000)
    assert faults(SearchMessagesRequest(query="a", time_from=first, time_until=later)) == []
    for until in (first, Timestamp(seconds=4)):
        assert faults(SearchMessagesRequest(query="a", time_from=first, time_until=until)) == ["time_until"]


def test_page_tokens_are_bound_to_all_but_the_size_of_pages_and_the_version_to_wait_for() -> None:
    request = SearchMessagesRequest(query="a", session_id="s")
    same = SearchMessagesRequest(
        query="a", session_id="s", page_size=5, page_token="t", wait_for=SeenVersion(session_id="s", version=1)
    )
    other = SearchMessagesRequest(query="a b", session_id="s")
    assert search_messages(request).selection == search_messages(same).selection != search_messages(other).selection
