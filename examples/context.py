"""What to send to a model: the newest of a conversation that fits, in the form of chat completions.

    python examples/context.py 2000 [SESSION]

Prints the messages for a model that takes so many tokens. Without a SESSION it makes one: an agent looks things up over
and over, until not all fits any more.
"""

import asyncio
import json
import os
import sys

import sessiond
from sessiond.formats import chat

ADDRESS = os.environ.get("SESSIOND_ADDRESS", "127.0.0.1:50051")


async def converse(client: sessiond.Client) -> str:
    config = sessiond.SessionConfig(system_prompt="You look up trains.")
    session = await client.create_session(active=True, config=config)
    for hour in range(24):
        function = {"name": "trains", "arguments": json.dumps({"hour": hour})}
        items = [
            {"role": "user", "content": f"Which trains leave after {hour}:00?"},
            {"role": "assistant", "tool_calls": [{"id": f"call_{hour}", "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": f"call_{hour}", "content": f"{hour}:05 Nara, {hour}:20 Kyoto, " * 30},
            {"role": "assistant", "content": f"The next one leaves at {hour}:05."},
        ]
        await client.append_messages(session.session_id, chat.from_items(items))
    return session.session_id


async def main(max_tokens: int, session_id: str = "") -> None:
    async with sessiond.Client(ADDRESS) as client:
        session_id = session_id or await converse(client)
        context = await client.get_context(session_id, max_tokens=max_tokens, max_tool_result_tokens=200)
        system = [context.system_prompt, context.summary.text]
        items = [{"role": "system", "content": text} for text in system if text]
        for item in [*items, *chat.to_items(context.messages)]:
            print(json.dumps(item, ensure_ascii=False))
        print(
            f"session {session_id}: {context.token_count} tokens, {context.omitted_message_count} messages left out",
            file=sys.stderr,
        )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
