"""The table of rules has every RPC, and each rule does what its RPC does."""

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass

from sessiond_server.http.paths import Paths
from sessiond_server.http.rules import RPCS, RULES, SERVICES
from sessiond_server.rpc import server
from tests.support.requests import READS, VALID, stock
from tests.support.rows import table
from tests.support.web import http_request, opened_web, rule_of

BYTES = {"UploadAttachment", "DownloadAttachment"}
"""Streams of bytes: these are not JSON; see test_files.py."""

RECORDS = {"ExportSession", "ImportSession"}
"""Streams of records: these have no form in HTTP."""


def test_every_rpc_has_a_rule() -> None:
    """A new RPC needs a row in http/rules.py."""
    assert {service.full_name for service in SERVICES} == {service.full_name for service in server.SERVICES}
    assert {rule.rpc for rule in RULES} == RPCS.keys() - RECORDS


def test_no_path_is_that_of_two_rules() -> None:
    paths = Paths()
    with table() as rows:
        for rule in RULES:
            with rows.row(rule.method, rule.path):
                path = rule.path.replace("{", "").replace("}", "")
                assert paths.find(rule.method, path)[0] is rule
                assert sum((each.method, each.path) == (rule.method, rule.path) for each in RULES) == 1


@pytest.mark.long
async def test_every_rule_answers_as_its_rpc_does() -> None:
    """Each on a server of its own, since many of them write."""
    unary = [rpc for rpc in VALID if rpc not in BYTES | RECORDS and not RPCS[rpc].server_streaming]
    with table() as rows:
        for rpc in unary:
            with rows.row(rpc):
                async with opened_web() as web:
                    await stock(web.wire)
                    expected = await web.wire.call(rpc, VALID[rpc]) if rpc in READS else None
                    sent = http_request(rule_of(rpc, VALID[rpc]), VALID[rpc])
                    answer = await web.client.request(sent.method, sent.url, json=sent.body, headers=sent.headers)
                    assert answer.status_code == (201 if rule_of(rpc, VALID[rpc]).made else 200), answer.text
                    assert answer.headers["content-type"] == "application/json"
                    got = ParseDict(answer.json(), GetMessageClass(RPCS[rpc].output_type)())
                    if expected is not None and rpc not in ("ListSessions", "CreateSessionToken"):
                        assert _comparable(got) == _comparable(expected)


def _comparable(message: object) -> object:
    found = MessageToDict(message)  # type: ignore[arg-type]
    # Figures up to now, and the time of a read.
    for name in ("activeDuration", "asOfTime", "position", "nextPageToken", "previousPageToken"):
        found.pop(name, None)
    return found
