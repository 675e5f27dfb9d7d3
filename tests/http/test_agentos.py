"""The contract of AgentOS over sessiond: what other clients see of it, what it shows of theirs, and its bounds. Whether
its answers are AgentOS' own is the matter of test_agentos_differential.py."""

import asyncio
import json
from typing import Any

import pytest

from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1.message_pb2 import FilePart, Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.run_pb2 import Run, RunFence, RunStatus
from sessiond.v1.session_pb2 import Session, TokenUsage
from sessiond.v1.session_service_pb2 import GetSessionRequest
from sessiond_server.http.agentos import history, pages
from sessiond_server.http.agentos.platform import Mount
from tests.support import agentos_runs
from tests.support.rows import table
from tests.support.web import Web, opened_web
from tests.support.wire import ALICE, OTHER_TENANT, READER

DONE = RunStatus.RUN_STATUS_COMPLETED
URL = "/agentos/sessions"
MOUNT = Mount("/agentos")
GO = Mount("/agentos", "go")


def same(one: Any, other: Any) -> bool:
    """Whether they have one JSON text: 1, 1.0 and true are three."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


async def messages(web: Web, session_id: str) -> list[Message]:
    return list((await web.wire.call("ListMessages", m.ListMessagesRequest(session_id=session_id))).messages)


async def test_runs_of_a_new_session_come_back_equal_and_are_messages_and_runs_of_ours() -> None:
    large = agentos_runs.tool_run(run_id="large", events=[{"event": "RunContent", "content": "x" * 20_000}])
    large["messages"] = [{**each, "id": f"large-{each['id']}"} for each in large["messages"]]
    history_run = agentos_runs.plain_run(run_id="again", parent_run_id="r1")
    repeated = [{**each, "from_history": True} for each in history_run["messages"]]
    history_run["messages"] = [*repeated, {**agentos_runs.message(21, "user", "And back?"), "id": "m3"}]
    odd = {
        "run_id": 7, "status": "PAUSED", "messages": [{}, {"role": "developer", "content": [1.0, {"a": None}]}, {
            "role": "assistant", "tool_calls": [5, {"function": 1}, {"id": 1, "function": {"name": ""}}], "id": 9,
        }, "no message"], "input": "text", "created_at": 1.5, "content": {"a": 2**70}, "metrics": {"input_tokens": -1},
    }  # fmt: skip
    given = [*agentos_runs.runs(), large, history_run, odd, {}]
    async with opened_web(mount=GO) as web:
        made = await web.post(URL, {"session_id": "told", "user_id": "ada", "agent_id": "helper", "runs": given})
        assert made.status_code == 201, made.text
        got = (await web.get(f"{URL}/told/runs")).json()["runs"]
        with table() as rows:
            for one, other in zip(given, got, strict=True):
                with rows.row(one.get("run_id")):
                    assert same(one, other), f"{one} became {other}"

        said = await messages(web, "told")
        assert [each.parts[0].text for each in said[:3]] == [
            "Be brief.",
            "When does the train leave?",
            "Saturday, 7:40.",
        ]
        assert [each.role for each in said[:3]] == [Role.ROLE_SYSTEM, Role.ROLE_USER, Role.ROLE_ASSISTANT]
        assert {each.run_id for each in said[:3]} == {"r1"}
        assert said[0].client_time.seconds == agentos_runs.CREATED + 1
        called = said[4].parts[0].tool_call
        assert (called.tool_call_id, called.name, called.arguments_json) == ("c1", "find_train", '{"to": "東京"}')
        assert said[5].parts[0].tool_result.text == "8:00"
        assert said[6].parts[0].thinking == "I look it up."
        session = await web.wire.call("GetSession", GetSessionRequest(session_id="told"))
        assert session.run_count == len(given)
        assert session.usage.total_tokens >= 52
        run = await web.wire.call("GetRun", r.GetRunRequest(session_id="told", run_id="r1"))
        assert (run.model, run.create_time.seconds) == ("gpt-5", agentos_runs.CREATED)
        assert run.end_time.ToMilliseconds() - run.start_time.ToMilliseconds() == 1250


async def test_redaction_reaches_what_the_platform_shows() -> None:
    secret = "the secret word"
    run = agentos_runs.plain_run(input={"input_content": secret}, content="done")
    run["messages"][1] = agentos_runs.message(2, "user", secret, provider_data={"note": secret})
    run["messages"][2] = agentos_runs.message(3, "assistant", "done")
    async with opened_web(mount=GO) as web:
        await web.post(URL, {"session_id": "told", "runs": [run]})
        assert secret in (await web.get(f"{URL}/told/runs")).text
        await web.wire.call("RedactMessage", m.RedactMessageRequest(session_id="told", message_id="m2"))
        for path in ("", "/runs", "/runs/r1"):
            assert secret not in (await web.get(f"{URL}/told{path}")).text
        run = await web.wire.call("GetRun", r.GetRunRequest(session_id="told", run_id="r1"))
        assert secret not in str(run)


async def test_sessions_of_our_own_clients_look_sensible() -> None:
    usage = TokenUsage(input_tokens=3, output_tokens=4)
    async with opened_web(mount=MOUNT) as web:
        session = Session(agent_id="helper", summary="short")
        session.metadata["team"] = "blue"
        session.agent_data["sdk"] = "langgraph"
        await web.wire.create(
            "s", agent_id="helper", summary="short", metadata=session.metadata, agent_data=session.agent_data
        )
        await web.wire.append("s", "Hello")  # before any run, and answered without one
        answered = [Message(message_id="a", role=Role.ROLE_ASSISTANT, parts=[Part(text="Hi"), Part(text="there")])]
        await web.wire.call("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=answered))
        asked = [Message(message_id="q", role=Role.ROLE_USER, parts=[Part(text="Weather?")])]
        await web.wire.call("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=asked))
        run = await web.wire.call("BeginRun", r.BeginRunRequest(session_id="s", run=Run(run_id="r", model="m")))
        fence = RunFence(run_id="r", fence=run.fence)
        call = Part(tool_call=ToolCallPart(tool_call_id="c", name="look"))
        both = [Part(tool_result=ToolResultPart(tool_call_id=each, text=each, is_error=each == "d")) for each in "cd"]
        picture = Part(file=FilePart(uri="https://x.example/p.png", media_type="image/png"))
        spoken = [
            Message(role=Role.ROLE_ASSISTANT, parts=[Part(thinking="I look."), call]),
            Message(message_id="t", role=Role.ROLE_TOOL, name="look", parts=both),
            Message(role=Role.ROLE_ASSISTANT, parts=[Part(text="Rain."), picture], usage=usage),
        ]
        await web.wire.call("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=spoken, run=fence))
        await web.wire.call("FinishRun", r.FinishRunRequest(session_id="s", run=fence, status=DONE, usage=usage))

        found = (await web.get(f"{URL}/s")).json()
        assert found["session_name"] == "Hello"
        assert found["session_summary"] == {"summary": "short"}
        assert found["metadata"] == {"team": "blue", "sdk": "langgraph"}
        assert found["metrics"] == {"input_tokens": 6, "output_tokens": 8, "total_tokens": 14}
        said = [each["content"] for each in found["chat_history"] if "content" in each]
        assert said == ["Hello", "Hi\n\nthere", "Weather?", "Rain."]
        turn, shown = (await web.get(f"{URL}/s/runs")).json()
        assert (turn["run_input"], turn["content"], turn["status"]) == ("Hello", "Hi\n\nthere", "COMPLETED")
        assert (shown["run_id"], shown["run_input"], shown["content"]) == ("r", "Weather?", "Rain.")
        assert shown["tools"] == [
            {"tool_call_id": "c", "tool_name": "look", "tool_args": "{}", "tool_call_error": False, "result": "c"}
        ]
        assert [each.get("tool_call_id") for each in shown["messages"]] == [None, None, "c", "d", None]
        assert shown["messages"][3]["id"] == "t:1"
        assert shown["messages"][4]["images"] == [{"url": "https://x.example/p.png", "mime_type": "image/png"}]
        single = (await web.get(f"{URL}/s/runs/{turn['run_id']}")).json()
        assert single["content"] == "Hi\n\nthere"
        (listed,) = (await web.get(f"{URL}?component_id=helper")).json()["data"]
        assert listed["total_tokens"] == 14


async def test_writes_are_safe_to_retry_and_overwrite_nothing() -> None:
    body = {"session_name": "N", "runs": agentos_runs.runs()}
    async with opened_web(mount=MOUNT) as web:
        first = await web.post(URL, body, idempotency_key="k1")
        again = await web.post(URL, body, idempotency_key="k1")
        assert (first.status_code, first.json()["session_id"]) == (again.status_code, again.json()["session_id"])
        session_id = first.json()["session_id"]
        assert len(await messages(web, session_id)) == 7
        assert (await web.post(URL, {"session_id": session_id})).status_code == 409
        assert (await web.get(f"{URL}/{session_id}")).json()["session_name"] == "N"

        url = f"{URL}/{session_id}"
        old = (await web.get(url)).headers["etag"]
        whole = {"summary": {"summary": "s", "topics": ["t"]}, "session_state": {"c": 3}, "metadata": {"d": None}}
        before = [await web.client.patch(url, json=whole, headers={"idempotency-key": "k2"}) for _ in range(2)]
        assert [(each.status_code, each.headers["etag"]) for each in before] == [(200, before[0].headers["etag"])] * 2
        assert before[1].json()["session_summary"] == whole["summary"]
        bodies = [{"summary": {"summary": "s", "topics": ["t"]}}, {"session_state": {"a": 1}}, {"metadata": {"b": 2}}]
        changed = await asyncio.gather(
            *(web.client.patch(url, json=each) for each in bodies for _ in range(3)),
            web.post(f"{url}/rename", {"session_name": "M"}),
        )
        assert {each.status_code for each in changed} == {200}
        found = (await web.get(url)).json()
        assert (found["session_name"], found["session_state"], found["metadata"]) == ("M", {"a": 1}, {"b": 2})
        assert found["session_summary"] == {"summary": "s", "topics": ["t"]}
        bare = await web.client.patch(url, json={"summary": {"summary": "s"}})
        assert bare.json()["session_summary"] == {"summary": "s"}
        stale = await web.client.patch(url, json={"summary": {"summary": "x", "topics": []}}, headers={"if-match": old})
        assert (stale.status_code, stale.json()["error_id"]) == (412, "VERSION_MISMATCH")
        assert (await web.client.delete(url, headers={"if-match": old})).status_code == 412


async def test_session_whose_runs_are_refused_is_not_there() -> None:
    too_large = agentos_runs.plain_run(run_id="x", messages=[agentos_runs.message(1, "user", "x" * 1_100_000)])
    async with opened_web(mount=MOUNT) as web:
        answer = await web.post(URL, {"session_id": "s", "runs": [*agentos_runs.runs(), too_large]})
        assert answer.status_code == 422, answer.text
        assert "x" * 100 not in answer.text
        assert (await web.get(f"{URL}/s")).status_code == 404


async def test_keys_tenants_and_users_hold() -> None:
    async with opened_web(mount=MOUNT) as web:
        await web.post(URL, {"session_id": "s", "user_id": "ada"})
        other, alice, reader = ({"authorization": f"Bearer {key}"} for key in (OTHER_TENANT, ALICE, READER))
        none = {"authorization": ""}
        call = web.client.request
        with table() as rows:
            for method, path, headers, body, status in (
                ("GET", "/s", none, None, 401),
                ("POST", "", none, {}, 401),
                ("GET", "/s", other, None, 404),
                ("GET", "/s", alice, None, 404),
                ("GET", "/s/runs", other, None, 404),
                ("PATCH", "/s", other, {"session_name": "x"}, 404),
                ("POST", "/s/rename", alice, {"session_name": "x"}, 404),
                ("DELETE", "/s", other, None, 204),
                ("DELETE", "", alice, {"session_ids": ["s"], "session_types": ["agent"]}, 204),
                ("POST", "", reader, {"session_id": "r"}, 403),
                ("POST", "", alice, {"session_id": "s"}, 422),
                ("POST", "", alice, {"session_id": "alice~1"}, 201),
                ("POST", "", {}, None, 201),
                ("GET", "/%ff", {}, None, 400),
                ("GET", "?a=%ff", {}, None, 400),
                ("DELETE", "/s", {"if-match": "x"}, None, 422),
            ):
                with rows.row(method, path, headers):
                    answer = await call(method, URL + path, json=body, headers=headers)
                    assert answer.status_code == status, answer.text
                    if status >= 400:
                        assert answer.json()["detail"]
                        assert answer.headers["content-type"] == "application/json"
        assert (await web.get(f"{URL}/s")).json()["session_name"] == ""
        assert (await call("GET", URL, headers=alice)).json()["meta"]["total_count"] == 1
        assert (await call("GET", "/agentos/health", headers=none)).json()["status"] == "ok"
        asked = await call("POST", URL, content=b"{}", headers={"content-type": "text/plain"})
        assert (asked.status_code, asked.json()["error_id"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        foreign = await call("GET", URL, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert (await call("OPTIONS", f"{URL}/s")).headers["access-control-allow-methods"] == "DELETE, GET, PATCH"
        assert (await call("PUT", f"{URL}/s")).headers["allow"] == "DELETE, GET, PATCH"
        assert (await call("HEAD", f"{URL}/s")).status_code == 200
        assert (await call("GET", "/agentos")).json()["reason"] == "NO_SUCH_PATH"


async def test_pages_are_stable_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened_web(mount=MOUNT) as web:
        await asyncio.gather(*(web.wire.create(f"s{number:03}") for number in range(130)))
        seen: list[str] = []
        for page in range(1, 6):
            got = (await web.get(f"{URL}?limit=30&page={page}&sort_by=created_at&sort_order=asc")).json()
            assert got["meta"] == {
                "page": page, "limit": 30, "total_pages": 5, "total_count": 130, "search_time_ms": 0.0,
            }  # fmt: skip
            seen += (each["session_id"] for each in got["data"])
        assert len(seen) == len(set(seen)) == 130
        all_at_once = (await web.get(f"{URL}?limit=1000&sort_order=asc")).json()["data"]
        assert [each["session_id"] for each in all_at_once] == seen
        monkeypatch.setattr(pages, "LARGEST_ANSWER", 1000)
        answer = await web.get(f"{URL}?limit=100")
        assert answer.status_code == 413
        monkeypatch.setattr(history, "MOST_MESSAGES", 1)
        await web.wire.append("s000", "one", "two")
        assert (await web.get(f"{URL}/s000/runs")).status_code == 413


async def test_answers_of_the_go_service() -> None:
    async with opened_web(mount=GO) as web:
        made = await web.post(URL, {"session_id": "s", "agent_data": {"a": 1}, "summary": {"summary": "x"}})
        assert (made.status_code, made.json()["agent_data"]) == (201, {"a": 1})
        assert made.json()["session_state"] is None
        with table() as rows:
            for method, path, body, status, code in (
                ("GET", "/missing", None, 404, "NOT_FOUND"),
                ("GET", "/s?type=TEAM", None, 404, "NOT_FOUND"),
                ("GET", "/s?type=other", None, 400, "INVALID_SESSION_TYPE"),
                ("GET", "/s?db_id=other", None, 403, "SCOPE_MISSING"),
                ("GET", "?limit=x", None, 400, "BAD_REQUEST"),
                ("POST", "/s/rename", {"session_name": ""}, 400, "BAD_REQUEST"),
                ("POST", "", {"session_name": 5}, 400, "BAD_REQUEST"),
                ("POST", "", {"session_id": "s"}, 409, "SESSION_ALREADY_EXISTS"),
                ("DELETE", "/missing", None, 404, "NOT_FOUND"),
                ("DELETE", "/s?type=team", None, 404, "NOT_FOUND"),
                ("PUT", "/s", None, 405, "METHOD_NOT_ALLOWED"),
            ):
                with rows.row(method, path):
                    answer = await web.client.request(method, URL + path, json=body)
                    got = answer.json()
                    assert (answer.status_code, got["status"], got["code"]) == (status, "error", code), got
                    assert got["message"]
        assert (await web.get(f"{URL}?limit=0&page=-1&type=Agent")).json()["meta"]["limit"] == 20
        assert (await web.get(f"{URL}/s/runs")).json() == {"runs": []}
        assert (await web.get("/agentos/healthz")).json() == {"status": "ok"}
        assert (await web.client.delete(f"{URL}/s")).status_code == 204
