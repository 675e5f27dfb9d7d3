"""Another answer to the same question: forks a session at its last question, so that both answers stay.

    python examples/forks.py [SESSION]

Prints the session and all forks of it, each with its newest message. Without a SESSION it makes one. Run it again with
the same one, and there is one fork more.
"""

import asyncio
import os
import sys

import sessiond

ADDRESS = os.environ.get("SESSIOND_ADDRESS", "127.0.0.1:50051")


async def converse(client: sessiond.Client) -> str:
    session = await client.create_session(active=True, name="A name for the cat")
    said = [sessiond.user("A name for the cat?"), sessiond.assistant("Answer 0: Ada.")]
    await client.append_messages(session.session_id, said)
    return session.session_id


async def last_question(client: sessiond.Client, session_id: str) -> str:
    async for message in client.list_messages(session_id, roles=["user"], order_by="newest_first", page_size=1):
        return message.message_id
    raise SystemExit(f"session {session_id} has no question")


async def main(session_id: str = "") -> None:
    async with sessiond.Client(ADDRESS) as client:
        session_id = session_id or await converse(client)
        fork = await client.fork_session(session_id, at=await last_question(client, session_id))
        forks = [each async for each in client.list_forks(session_id)]
        # Here a model would answer, given client.get_context(fork.session_id).
        answer = sessiond.assistant(f"Answer {len(forks)}: {['Grace', 'Emmy', 'Mary'][len(forks) % 3]}.")
        await client.append_messages(fork.session_id, [answer])
        for each in (session_id, *(child.session_id for child in forks)):
            async for message in client.list_messages(each, order_by="newest_first", page_size=1):
                print(f"{each}  {sessiond.text_of(message)}")
                break


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
