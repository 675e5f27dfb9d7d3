"""A chat in the terminal. It stores the user's messages and the model's answers, and watchers see them live.

    python examples/chat.py [SESSION]

Start it again with the session that it prints to continue the chat. Replace `answer` by a call of your model.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import sessiond

ADDRESS = os.environ.get("SESSIOND_ADDRESS", "127.0.0.1:50051")


async def answer(history: list[sessiond.Message]) -> AsyncIterator[str]:
    """Stands for a model that streams its answer."""
    for word in f"You have said: {sessiond.text_of(history[-1])}".split(" "):
        yield f"{word} "


async def chat(client: sessiond.Client, session_id: str) -> None:
    history = [message async for message in client.list_messages(session_id)]
    for message in history:
        print(f"{sessiond.Role.Name(message.role)}: {sessiond.text_of(message)}")
    while line := await asyncio.to_thread(sys.stdin.readline):
        question = sessiond.user(line.strip())
        await client.append_messages(session_id, [question])
        history.append(question)
        # Watchers see each piece at once; the whole answer is stored when the block ends.
        async with client.draft(session_id) as draft:
            async for piece in answer(history):
                print(piece, end="", flush=True)
                await draft.write(piece)
        print()
        history.append(draft.message)


async def main(session_id: str | None) -> None:
    async with sessiond.Client(ADDRESS) as client:
        if session_id is None:
            session_id = (await client.create_session(user_id="ada", active=True)).session_id
        print(f"session {session_id}; end with Ctrl-D")
        await chat(client, session_id)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
