"""Moves files into sessions, and out of them.

    python -m examples.demo.files upload SESSION FILE [--id ATTACHMENT]
    python -m examples.demo.files download SESSION ATTACHMENT FILE
    python -m examples.demo.files list SESSION

After an interruption or a cut connection both resume: a download when it is started again, an upload when it is started
again with the same id. Exit status: 0 all is well; 1 an error; 130 interrupted.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from examples.demo.terminal import Screen, printable

import sessiond


async def move(arguments: argparse.Namespace, screen: Screen) -> None:
    async with sessiond.Client(arguments.address, user_agent="sessiond-files") as client:
        if arguments.what == "list":
            async for each in client.list_attachments(arguments.session, page_size=100):
                screen.line(told(each))
        elif arguments.what == "upload":
            bar = screen.progress_of(arguments.file)
            attachment = await client.upload(
                arguments.session, arguments.file, attachment_id=arguments.id, progress=bar
            )
            screen.line(told(attachment))
        else:
            download = client.download(
                arguments.session, arguments.attachment, progress=screen.progress_of(arguments.file)
            )
            screen.line(told(await download.save(arguments.file)))


def told(attachment: sessiond.Attachment) -> str:
    return f"{attachment.attachment_id}  {attachment.size_bytes:>14,}  {printable(attachment.name)}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="examples.demo.files"
    )
    parser.add_argument("--address", default="127.0.0.1:50051", help="host:port of the server (%(default)s)")
    commands = parser.add_subparsers(dest="what", required=True)
    upload = commands.add_parser("upload")
    upload.add_argument("session")
    upload.add_argument("file")
    upload.add_argument("--id", default="", help="the attachment's; the same again goes on with it")
    download = commands.add_parser("download")
    download.add_argument("session")
    download.add_argument("attachment")
    download.add_argument("file")
    commands.add_parser("list").add_argument("session")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    screen = Screen()
    try:
        asyncio.run(move(parse(arguments), screen))
    except (sessiond.SessiondError, OSError) as error:
        screen.clear_progress()
        print(f"files: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        screen.clear_progress()
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
