"""Runs as agents of the platform write them."""

from typing import Any

CREATED = 1_760_000_000
"""When the first one began: seconds since 1970."""


def message(number: int, role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": f"m{number}",
        **({} if content is None else {"content": content}),
        "from_history": False,
        "stop_after_tool_call": False,
        "role": role,
        **more,
        "created_at": CREATED + number,
    }


def plain_run(**more: Any) -> dict[str, Any]:
    """A question and an answer."""
    return {
        "run_id": "r1",
        "agent_id": "helper",
        "agent_name": "helper",
        "session_id": "told",
        "user_id": "ada",
        "content": "Saturday, 7:40.",
        "content_type": "str",
        "model": "gpt-5",
        "created_at": CREATED,
        "status": "COMPLETED",
        "metrics": {"input_tokens": 30, "output_tokens": 12, "total_tokens": 42, "duration": 1.25},
        "messages": [
            message(1, "system", "Be brief."),
            message(2, "user", "When does the train leave?"),
            message(3, "assistant", "Saturday, 7:40.", metrics={"input_tokens": 30, "output_tokens": 12}),
        ],
        "input": {"input_content": "When does the train leave?"},
        **more,
    }


def tool_run(**more: Any) -> dict[str, Any]:
    """A call of a tool, thoughts, numbers that are exact, and text in other scripts."""
    call = {"id": "c1", "type": "function", "function": {"name": "find_train", "arguments": '{"to": "東京"}'}}
    return {
        "run_id": "r2",
        "agent_id": "helper",
        "session_id": "told",
        "user_id": "ada",
        "content": "東京 🚄 8:00",
        "content_type": "str",
        "reasoning_content": "I look it up.",
        "model": "gpt-5",
        "created_at": CREATED + 100,
        "status": "COMPLETED",
        "metrics": {"input_tokens": 5, "output_tokens": 5, "total_tokens": 10},
        "metadata": {"big": 9007199254740993, "one": 1.0},
        "tools": [{"tool_call_id": "c1", "tool_name": "find_train", "tool_args": {"to": "東京"}, "result": "8:00"}],
        "events": [{"event": "RunStarted", "run_id": "r2", "created_at": CREATED + 100}],
        "messages": [
            message(11, "user", "And to 東京?"),
            message(12, "assistant", None, tool_calls=[call]),
            message(13, "tool", "8:00", tool_call_id="c1", tool_name="find_train", tool_call_error=False),
            message(14, "assistant", "東京 🚄 8:00", reasoning_content="I look it up.", provider_data={"id": "x"}),
        ],
        "input": {"input_content": "And to 東京?"},
        **more,
    }


def failed_run(**more: Any) -> dict[str, Any]:
    """A run without messages that ended with an error."""
    return {
        "run_id": "r3",
        "agent_id": "helper",
        "session_id": "told",
        "user_id": "ada",
        "content": "the model is away",
        "content_type": "str",
        "created_at": CREATED + 200,
        "status": "ERROR",
        "input": {"input_content": "Again?"},
        **more,
    }


def runs() -> list[dict[str, Any]]:
    return [plain_run(), tool_run(), failed_run()]
