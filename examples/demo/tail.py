"""Follows a session, as `tail -f` follows a file.

    python -m examples.demo.tail SESSION                      from now on
    python -m examples.demo.tail SESSION --position FILE      from where it was, all of it the first time

With a position it can be killed at any moment: started again, it continues after the last event that it has shown. Exit
status: 0 the session was deleted; 1 an error; 130 interrupted.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from examples.demo.terminal import printable

import sessiond


def told(item: sessiond.Event | sessiond.Delta) -> dict[str, str | int]:
    """What an item says, for a program."""
    if isinstance(item, sessiond.Delta):
        return {"delta": item.text}
    what = sessiond.EventType.Name(item.type).removeprefix("EVENT_TYPE_").lower()
    said: dict[str, str | int] = {"seq": item.seq, "event": what}
    if item.HasField("message"):
        said["role"] = sessiond.Role.Name(item.message.role).removeprefix("ROLE_").lower()
        said["text"] = sessiond.text_of(item.message)
    elif item.HasField("run"):
        said["text"] = item.run.agent_id
    elif item.HasField("tool_call"):
        said["text"] = item.tool_call.name
    elif item.HasField("attachment"):
        said["text"] = item.attachment.name
    return said


def shown(item: sessiond.Event | sessiond.Delta) -> str:
    """The same, for a person."""
    said = told(item)
    if "delta" in said:
        return f"      {printable(str(said['delta']))}"
    return f"{said['seq']:>5} {said.get('role', said['event'])}: {printable(str(said.get('text', '')))}".rstrip()


async def follow(arguments: argparse.Namespace) -> None:
    store = sessiond.FilePositions(arguments.position) if arguments.position else None
    async with (
        sessiond.Client(arguments.address, user_agent="sessiond-tail") as client,
        client.watch(
            arguments.session, deltas=True, store=store, from_beginning=store is not None, save_events=1
        ) as watch,
    ):
        if arguments.json:
            say(json.dumps({"behind": watch.head_seq}))
        async for item in watch:
            say(json.dumps(told(item)) if arguments.json else shown(item))


def say(line: str) -> None:
    print(line, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="examples.demo.tail"
    )
    parser.add_argument("--address", default="127.0.0.1:50051", help="host:port of the server (%(default)s)")
    parser.add_argument("session", help="its id")
    parser.add_argument("--position", metavar="FILE", help="where to keep how far it has come")
    parser.add_argument("--json", action="store_true", help="an object a line")
    try:
        asyncio.run(follow(parser.parse_args(arguments)))
    except (sessiond.SessiondError, OSError, ValueError) as error:
        print(f"tail: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
