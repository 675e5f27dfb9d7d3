"""Demo: stores some conversations in sessiond, works with them, and reads every message back.

    python -m examples.demo                         the conversations beside it
    python -m examples.demo chats.jsonl             others, one {"id": ..., "messages": [...]} a line
    python -m examples.demo --ledger acked.jsonl    also writes down what the service acknowledged
    python -m examples.demo --verify acked.jsonl    reads only: is all of that still there?

Kill the server in the middle and start it again: the demo continues where it stopped. Uses nothing but the public
client; `python -m examples.demo.tail SESSION` follows a session in another terminal. Each run makes sessions of its
own. Exit status: 0 all is well; 1 something is not as it should be; 2 the command line or a file is wrong; 3 no server
answers; 130 interrupted.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.demo import chats, ledger
from examples.demo.chats import BadFileError
from examples.demo.ledger import Ledger
from examples.demo.live import TailError
from examples.demo.promises import FailedError
from examples.demo.story import Demo
from examples.demo.terminal import Screen, count

import sessiond

OWN = Path(__file__).parent / "conversations.jsonl"


class NoServerError(Exception):
    """No server answers."""


async def check_server(address: str) -> None:
    """Raises NoServerError when no server answers at once."""
    async with sessiond.Client(address, retry=sessiond.Retry(max_attempts=1), timeout=5) as client:
        try:
            await client.count_sessions()
        except (sessiond.Unavailable, sessiond.DeadlinePassed) as error:
            raise NoServerError(error.message) from error


async def tell(arguments: argparse.Namespace, screen: Screen) -> None:
    conversations = chats.load(arguments.file)
    with Ledger(arguments.ledger) as book:
        await check_server(arguments.address)
        messages = sum(len(c.chats) for c in conversations)
        screen.line(
            f"{screen.paint('sessiond', 'bold')} at {arguments.address}: {count(len(conversations), 'conversation')}, "
            f"{count(messages, 'message')} from {arguments.file.name}"
        )
        # If the server goes down, calls wait until it is back.
        async with sessiond.Client(
            arguments.address, user_agent="sessiond-demo", timeout=arguments.patience, wait_for_ready=True
        ) as client:
            demo = Demo(client, arguments.address, screen, book, patience=arguments.patience, at_once=arguments.at_once)
            await demo.tell(conversations)


async def verify(arguments: argparse.Namespace, screen: Screen) -> None:
    sessions = ledger.read(arguments.verify)
    await check_server(arguments.address)
    async with sessiond.Client(arguments.address, user_agent="sessiond-demo") as client:
        verdict = await ledger.verify(client, sessions)
    screen.line(
        f"sessions={verdict.sessions} acked={verdict.acked} lost={verdict.lost} changed={verdict.changed} "
        f"doubled={verdict.doubled}"
    )
    if not verdict.good:
        raise FailedError("acknowledged messages are not as they were")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="examples.demo"
    )
    parser.add_argument("--address", default="127.0.0.1:50051", help="host:port of the server (%(default)s)")
    parser.add_argument("file", nargs="?", type=Path, default=OWN, help="conversations, one a line (those beside it)")
    parser.add_argument("--ledger", type=Path, help="write down here what the service acknowledges")
    parser.add_argument("--verify", type=Path, metavar="LEDGER", help="only check that all of a ledger is still there")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a server that went away (60)")
    parser.add_argument("--at-once", type=int, default=4, help="sessions to work on at a time (%(default)s)")
    parsed = parser.parse_args(arguments)
    if parsed.at_once < 1:
        parser.error("--at-once: must be 1 or more")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a script shows question marks; it does not stop the demo.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    parsed = parse(arguments)
    screen = Screen()

    def say(text: str) -> None:
        screen.clear_progress()
        print(f"demo: {text}", file=sys.stderr)

    try:
        asyncio.run(verify(parsed, screen) if parsed.verify else tell(parsed, screen))
    except BadFileError as error:
        say(str(error))
        return 2
    except NoServerError:
        say(f"no server answers at {parsed.address}; start one with `make run`, in another terminal")
        return 3
    except (FailedError, TailError) as error:
        say(f"FAILED: {error}")
        return 1
    except sessiond.SessiondError as error:
        say(f"{type(error).__name__}: {error.message}")
        return 3 if isinstance(error, sessiond.Unavailable) else 1
    except KeyboardInterrupt:
        say("interrupted; what the service acknowledged is stored")
        return 130
    except BrokenPipeError:
        # The reader of the output has closed it. Python would report that once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
