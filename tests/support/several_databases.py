"""A service with several databases in this process, and what its tests make of them."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from sessiond_server import auth
from sessiond_server.app.service import running
from sessiond_server.app.summary import Service
from sessiond_server.cli import databases as commands
from sessiond_server.settings import Settings, load

Dsns = dict[str, str]
"""Database id -> DSN."""


def variables(dsns: Dsns, default: str = "main") -> dict[str, str]:
    """The environment in which commands use these databases."""
    return {
        "SESSIOND_DATABASES": json.dumps(dsns),
        "SESSIOND_DEFAULT_DATABASE": default,
        "SESSIOND_POOL_SIZE": "24",
    }


def settings_of(dsns: Dsns, default: str = "main") -> Settings:
    return load({}, {"HOME": "/nowhere", **variables(dsns, default)})


def group(dsns: Dsns, homes: Mapping[str, str], default: str = "main") -> None:
    """Makes databases that are migrated a group, with these homes of tenants. In a thread: the commands run a loop."""
    settings = settings_of(dsns, default)
    for each in dsns:
        if each != default:
            assert commands.add(settings, each) == 0
    for tenant, home in homes.items():
        if home != default:
            assert commands.place(settings, tenant, home) == 0


def write_keys(folder: Path, *tenants: str) -> dict[str, str]:
    """Tenant -> key; and `free`, a key of the first tenant for all databases. The file is `keys.toml`."""
    made = {each: auth.new_key(each, each, "", auth.SCOPES) for each in tenants}
    made["free"] = auth.new_key("free", tenants[0], "", auth.SCOPES | {auth.ANY_DATABASE})
    (folder / "keys.toml").write_text("\n".join(entry for _, entry in made.values()))
    return {each: key for each, (key, _) in made.items()}


@asynccontextmanager
async def serving(dsns: Dsns, folder: Path, *, default: str = "main", **settings: str) -> AsyncIterator[Service]:
    environment = {
        "HOME": "/nowhere",
        "SESSIOND_LISTEN": "127.0.0.1:0",
        "SESSIOND_KEYS_FILE": str(folder / "keys.toml"),
        "SESSIOND_GRACE": "0",
        "SESSIOND_SEARCH": "true",
        **variables(dsns, default),
        **settings,
    }
    async with running(load({}, environment)) as service:
        yield service
