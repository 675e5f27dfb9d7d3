"""A chat in the terminal with the synchronous client: no event loop, no await. It stores both sides, and watchers see
the answers live.

    python examples/sync_chat.py [SESSION]

Start it again with the session that it prints to continue the chat. Replace `answer` by a call of your model.
"""

import os
import sys
from collections.abc import Iterator

import sessiond

ADDRESS = os.environ.get("SESSIOND_ADDRESS", "127.0.0.1:50051")


def answer(history: list[sessiond.Message]) -> Iterator[str]:
    """Stands for a model that streams its answer."""
    for word in f"You have said: {sessiond.text_of(history[-1])}".split(" "):
        yield f"{word} "


def chat(client: sessiond.SyncClient, session_id: str) -> None:
    history = list(client.list_messages(session_id))
    for message in history:
        print(f"{sessiond.Role.Name(message.role)}: {sessiond.text_of(message)}")
    for line in sys.stdin:
        question = sessiond.user(line.strip())
        client.append_messages(session_id, [question])
        history.append(question)
        # Watchers see each piece at once; the whole answer is stored when the block ends.
        with client.draft(session_id) as draft:
            for piece in answer(history):
                print(piece, end="", flush=True)
                draft.write(piece)
        print()
        history.append(draft.message)


def main(session_id: str | None) -> None:
    with sessiond.SyncClient(ADDRESS) as client:
        if session_id is None:
            session_id = client.create_session(user_id="ada", active=True).session_id
        print(f"session {session_id}; end with Ctrl-D")
        chat(client, session_id)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
