"""From the message of an RPC to an HTTP answer."""

from typing import Final
from urllib.parse import quote

from google.protobuf.message import Message

from sessiond_server.http.rules import Rule

Headers = list[tuple[str, str]]

JSON: Final = "application/json"


def status(rule: Rule) -> int:
    return 201 if rule.made else 200


def headers(rule: Rule, path: str, answer: Message) -> Headers:
    """The headers of an answer. `path`: that of the request, as it was sent."""
    found = [("content-type", JSON), ("cache-control", "no-store")]
    if version := getattr(answer, "version", 0):
        found.append(("etag", f'"{version}"'))
    if rule.made:
        found.append(("location", f"{path}/{quote(getattr(answer, rule.made), safe='')}"))
    return found
