"""Attributes of spans for the calls of RunService and ToolCallService, by OpenTelemetry's conventions for generative
AI. Names, ids and counts only: never arguments, results, metadata or texts of failures."""

from collections.abc import Callable, Mapping
from typing import Final

from sessiond.v1.run_pb2 import Run
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.spans import Attributes


def of_run(answer: bytes) -> Attributes:
    """Of a serialised Run."""
    run = Run.FromString(answer)
    found: dict[str, str | int] = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": run.session_id,
        "gen_ai.agent.id": run.agent_id,
        "gen_ai.request.model": run.model,
        "sessiond.run.id": run.run_id,
    }
    if run.HasField("usage"):
        found["gen_ai.usage.input_tokens"] = run.usage.input_tokens
        found["gen_ai.usage.output_tokens"] = run.usage.output_tokens
    return {name: value for name, value in found.items() if value != ""}


def of_tool_call(answer: bytes) -> Attributes:
    """Of a serialised ToolCall."""
    call = ToolCall.FromString(answer)
    found = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.conversation.id": call.session_id,
        "gen_ai.tool.name": call.name,
        "gen_ai.tool.call.id": call.tool_call_id,
        "sessiond.run.id": call.run_id,
    }
    return {name: value for name, value in found.items() if value}


OF_ANSWERS: Final[Mapping[str, Callable[[bytes], Attributes]]] = {
    **{f"/sessiond.v1.RunService/{name}": of_run for name in ("BeginRun", "CancelRun", "FinishRun", "GetRun")},
    **{
        f"/sessiond.v1.ToolCallService/{name}": of_tool_call
        for name in (
            "ApproveToolCall",
            "CancelToolCall",
            "CompleteToolCall",
            "FailToolCall",
            "GetToolCall",
            "RejectToolCall",
            "RequestToolCall",
            "StartToolCall",
        )
    },
}
"""By the path of a method that answers with a Run or a ToolCall."""
