"""A smoke test of a running service: creates a session, appends, watches, uploads, reads back and deletes.

    python deploy/smoke.py HOST:PORT [--key-file FILE] [--tls] [--tls-ca-file CA] ...

It needs nothing but the Python client (pip install sessiond), and uses no session but its own, which it deletes, also
after a failure or Ctrl-C. The key is read from a file or from SESSIOND_KEY, never from an argument, which other users
of the machine can see.

Exit codes: 0 everything worked, 1 a step failed, 2 wrong usage, 3 the service cannot be reached or refuses the key, 4
the session could not be deleted; its id is printed.
"""

import argparse
import asyncio
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import sessiond

FAILED, USAGE, UNREACHABLE, LEFT_BEHIND = 1, 2, 3, 4
LIFETIME = 3600.0
"""Seconds after which the service ends the session by itself, should this program be killed."""


class StepFailed(Exception):
    """A step gave another result than it must."""


class _Steps:
    """Prints one line for each step, with its time."""

    @asynccontextmanager
    async def __call__(self, name: str) -> AsyncIterator[None]:
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
            raise
        print(f"ok      {name} ({(time.monotonic() - began) * 1000:.0f} ms)", flush=True)


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise StepFailed(what)


async def smoke(client: sessiond.Client, session_id: str, size: int) -> None:
    """All steps but the deletion. Raises StepFailed and SessiondError."""
    step = _Steps()
    content = os.urandom(size)
    async with step("create a session"):
        session = await client.create_session(session_id=session_id, active=True, name="smoke test", ttl=LIFETIME)
        expect(session.version >= 1, f"its version is {session.version}")
    async with step("append messages, and once more with the same request id"):
        said = [sessiond.user("smoke?"), sessiond.assistant("no fire")]
        first = await client.append_messages(session_id, said, request_id=session_id)
        again = await client.append_messages(session_id, said, request_id=session_id)
        expect(first.message_ids == again.message_ids, "the retry appended other messages")
    async with step("watch it from the beginning, and an append live"):
        await _watched(client, session_id, first.version)
    async with step(f"upload {size} bytes, and read them back"):
        attachment = await client.upload(session_id, content, name="smoke.bin")
        read = await client.download(session_id, attachment.attachment_id).read()
        expect(read == content, f"{len(read)} other bytes came back")
    async with step("read the messages, from the cache and from the database"):
        texts = [sessiond.text_of(message) async for message in client.list_messages(session_id)]
        expect(sorted(texts) == ["live", "no fire", "smoke?"], f"there are {len(texts)} messages")
        cached = await client.get_session(session_id)
        strong = await client.get_session(session_id, consistency="strong")
        expect(cached.version <= strong.version, "the cache is newer than the database")
        expect(strong.message_count == 3, f"the session counts {strong.message_count} messages")


async def _watched(client: sessiond.Client, session_id: str, version: int) -> None:
    """Watches all events up to `version`, then one that is made meanwhile."""
    async with client.watch(session_id, from_beginning=True) as watch:
        seen = 0
        async for event in watch:
            expect(event.seq == seen + 1, f"event {event.seq} follows event {seen}")
            seen = event.seq
            if seen == version:
                await client.append_messages(session_id, [sessiond.user("live")])
            if seen > version:
                return


async def gone(client: sessiond.Client, session_id: str) -> bool:
    """Deletes the session and sees that it is gone; False if it is still there, or that cannot be known."""
    try:
        async with _Steps()("delete the session"):
            refusal = None
            try:
                await client.delete_session(session_id)
            except sessiond.SessiondError as error:
                refusal = error  # no matter where it was never created
            try:
                await client.get_session(session_id, consistency="strong")
            except sessiond.NotFound:
                return True
            raise refusal or StepFailed("it is still there")
    except (sessiond.SessiondError, StepFailed):
        return False


async def run(asked: argparse.Namespace, key: str | None, tls: sessiond.TLS | None) -> int:
    session_id = f"smoke-{uuid.uuid4()}" if not asked.user else f"{asked.user}~smoke-{uuid.uuid4()}"
    async with sessiond.Client(
        asked.target, api_key=key, tls=tls, allow_insecure_key=asked.allow_insecure_key, timeout=asked.timeout
    ) as client:
        try:
            await client.count_sessions()
        except sessiond.SessiondError as error:
            print(f"FAILED  reach {asked.target}: {type(error).__name__}: {error}")
            return UNREACHABLE
        code = FAILED
        try:
            async with asyncio.timeout(asked.timeout * 6):
                await smoke(client, session_id, asked.bytes)
            code = 0
        except TimeoutError:
            print(f"FAILED  it took longer than {asked.timeout * 6:g} s")
        except (sessiond.SessiondError, StepFailed):
            pass  # its step has said it
        finally:
            if not await gone(client, session_id):
                print(f"the session is left behind: {session_id}")
                code = LEFT_BEHIND
        return code


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(prog="smoke.py", description=__doc__.splitlines()[0])
    parser.add_argument("target", help="address of the service: HOST:PORT, or a gRPC target such as dns:///HOST:PORT")
    parser.add_argument("--key-file", type=Path, help="file with the bearer key alone (default: SESSIOND_KEY)")
    parser.add_argument("--user", default="", help="user that the key is bound to, where it is")
    parser.add_argument("--allow-insecure-key", action="store_true", help="send the key over a network without TLS")
    parser.add_argument("--tls", action="store_true", help="use TLS, with public authorities unless --tls-ca-file")
    parser.add_argument("--tls-ca-file", type=Path, help="PEM of the only authorities to trust; implies --tls")
    parser.add_argument("--tls-cert-file", type=Path, help="PEM of the certificate to show; implies --tls")
    parser.add_argument("--tls-key-file", type=Path, help="PEM of its private key")
    parser.add_argument("--tls-server-name", default="", help="name that the server's certificate must have")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for each call (default: 10)")
    parser.add_argument("--bytes", type=int, default=300_000, help="size of the attachment (default: 300000)")
    asked = parser.parse_args(arguments)
    if (asked.tls_cert_file is None) != (asked.tls_key_file is None):
        parser.error("--tls-cert-file and --tls-key-file belong together")
    if asked.timeout <= 0 or not 0 < asked.bytes <= 100_000_000:
        parser.error("--timeout must be above 0, and --bytes 1 to 100000000")
    return asked


def tls_of(asked: argparse.Namespace) -> sessiond.TLS | None:
    """Raises OSError if a file cannot be read."""
    if not (asked.tls or asked.tls_ca_file or asked.tls_cert_file):
        return None
    return sessiond.TLS(
        root_certificates=asked.tls_ca_file.read_bytes() if asked.tls_ca_file else None,
        client_certificate=asked.tls_cert_file.read_bytes() if asked.tls_cert_file else None,
        client_key=asked.tls_key_file.read_bytes() if asked.tls_key_file else None,
        server_name=asked.tls_server_name,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parsed(arguments)
    try:
        key = asked.key_file.read_text().strip() if asked.key_file else os.environ.get("SESSIOND_KEY")
        tls = tls_of(asked)
    except OSError as error:
        print(f"smoke.py: {error.filename}: {error.strerror}", file=sys.stderr)
        return USAGE
    try:
        return asyncio.run(run(asked, key or None, tls))
    except ValueError as error:  # arguments that the client refuses, such as a key without TLS
        print(f"smoke.py: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
