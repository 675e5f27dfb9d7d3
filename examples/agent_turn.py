"""One turn of an agent that must ask before it books: a run, a tool call that waits for a person, an answer.

    python examples/agent_turn.py      and, in another terminal,      python examples/approvals.py

The block sends heartbeats that extend the run's lease. If this process dies, another agent can take over the session,
and late writes of the dead process are refused.
"""

import asyncio
import os
from typing import Any

import sessiond

ADDRESS = os.environ.get("SESSIOND_ADDRESS", "127.0.0.1:50051")


async def book(train: str, seats: int) -> dict[str, Any]:
    """Stands for the tool."""
    return {"train": train, "seats": [f"7{letter}" for letter in "ABCD"[:seats]]}


async def take_turn(client: sessiond.Client, session_id: str) -> str:
    """What the agent says in the end."""
    async with client.run(session_id, agent_id="travel", model="model-1") as run:
        arguments = {"train": "14:05", "seats": 2}
        call = await run.request_tool_call("book", arguments, requires_approval=True)
        decided = await run.wait_for_decision(call.tool_call_id)
        if decided.status == sessiond.ToolCallStatus.TOOL_CALL_STATUS_APPROVED:
            await run.start_tool_call(call.tool_call_id)
            booked = await book("14:05", 2)
            await run.complete_tool_call(call.tool_call_id, booked)
            text = f"Booked: {', '.join(booked['seats'])}."
        else:
            text = f"Not booked: {decided.approval.reason or 'it was not approved'}."
        await run.append_messages([sessiond.assistant(text)])
        run.usage = sessiond.TokenUsage(input_tokens=120, output_tokens=8)
    return text


async def main() -> None:
    async with sessiond.Client(ADDRESS) as client:
        session = await client.create_session(user_id="ada", active=True)
        print(f"session {session.session_id}; waiting for an approval", flush=True)
        await client.append_messages(session.session_id, [sessiond.user("Two seats on the 14:05, please.")])
        print(await take_turn(client, session.session_id))


if __name__ == "__main__":
    asyncio.run(main())
