"""Finds marked contents wherever the service keeps something: rows, files of Postgres, Redis, the storage, the log."""

import asyncio
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
from redis.asyncio import Redis

from sessiond_server.postgres.schema.tables import TABLES

_BYTES = re.compile(rb"zq[0-9a-f]{16}")
_IN_HEX = re.compile(rb"7a71(?:3[0-9]|6[1-6]){16}")
_TAIL = 64
"""Bytes of one part of a file that are looked at again with the next, more than a marker has."""
_PART = 1024 * 1024


def marker(chance: Random) -> str:
    """A word that is nowhere else."""
    return f"zq{chance.getrandbits(64):016x}"


def found_in(data: bytes) -> set[str]:
    """The markers in bytes, plain or as hexadecimal digits."""
    plain = {found.decode() for found in _BYTES.findall(data)}
    return plain | {bytes.fromhex(found.decode()).decode() for found in _IN_HEX.findall(data)}


async def in_rows(postgres_dsn: str) -> set[str]:
    """Those in the rows of all tables."""
    found: set[str] = set()
    connection = await asyncpg.connect(postgres_dsn)
    try:
        for table in TABLES:
            async with connection.transaction():
                async for (row,) in connection.cursor(f"select t::text from {table} t"):
                    found |= found_in(row.encode())
    finally:
        await connection.close()
    return found


async def rewritten(postgres_dsn: str) -> None:
    """Does what docs/forgetting.md tells operators to do, so that the files keep nothing but the rows."""
    connection = await asyncpg.connect(postgres_dsn)
    try:
        await connection.execute("analyze")
        await connection.execute("delete from pg_statistic where starelid = 'sessions'::regclass")
        await connection.execute("vacuum full")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


async def in_files(folder: Path, leave_out: Iterable[str] = ()) -> set[str]:
    """Those in the files below the folder, but for folders of these names."""
    return await asyncio.to_thread(_in_files, folder, frozenset(leave_out))


def _in_files(folder: Path, leave_out: frozenset[str]) -> set[str]:
    found: set[str] = set()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in leave_out]
        for name in names:
            path = Path(place, name)
            if path.is_file():  # no socket
                for part in _parts(path):
                    found |= found_in(part)
    return found


def _parts(path: Path) -> Iterator[bytes]:
    tail = b""
    with path.open("rb") as file:
        while part := file.read(_PART):
            yield tail + part
            tail = (tail + part)[-_TAIL:]


async def in_redis(redis_url: str) -> set[str]:
    """Those in keys and values."""
    found: set[str] = set()
    client: Any = Redis.from_url(redis_url)
    try:
        async for key in client.scan_iter(count=1000):
            found |= found_in(key)
            kind = (await client.type(key)).decode()
            if kind == "string":
                values = [await client.get(key) or b""]
            elif kind == "hash":
                values = [part for pair in (await client.hgetall(key)).items() for part in pair]
            elif kind == "list":
                values = await client.lrange(key, 0, -1)
            elif kind == "zset":
                values = await client.zrange(key, 0, -1)
            elif kind == "set":
                values = list(await client.smembers(key))
            elif kind == "stream":
                values = [part for _, entry in await client.xrange(key) for pair in entry.items() for part in pair]
            else:
                raise AssertionError(kind)
            for value in values:
                found |= found_in(value)
    finally:
        await client.aclose()
    return found
