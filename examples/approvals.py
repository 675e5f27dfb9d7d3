"""The inbox of a person who approves: asks about each tool call that waits, in all sessions.

    python examples/approvals.py [APPROVER]

Each call is decided once: the second of two concurrent decisions raises IllegalToolCallTransition.
"""

import asyncio
import os
import sys

import sessiond

ADDRESS = os.environ.get("SESSIOND_ADDRESS", "127.0.0.1:50051")


async def main(approver: str) -> None:
    async with sessiond.Client(ADDRESS) as client:
        async for call in client.list_pending_approvals():
            print(f"{call.name} {sessiond.from_tool_data(call.arguments)!r} in session {call.session_id}: yes or no?")
            answer = (await asyncio.to_thread(sys.stdin.readline)).strip()
            try:
                if answer == "yes":
                    await client.approve_tool_call(call.session_id, call.tool_call_id, approver=approver)
                elif answer == "no":
                    reason = f"{approver} says no"
                    await client.reject_tool_call(call.session_id, call.tool_call_id, approver=approver, reason=reason)
            except (sessiond.IllegalToolCallTransition, sessiond.ApprovalExpired, sessiond.NotFound) as error:
                print(f"it is decided already, too late, or gone: {error}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ada"))
