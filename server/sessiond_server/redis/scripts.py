"""The Lua scripts, each of which runs atomically on the server."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    source: bytes
    sha: bytes
    """SHA-1 of the source in hexadecimal, by which EVALSHA names the script."""


def _script(name: str) -> Script:
    source = files(__package__).joinpath(f"{name}.lua").read_bytes()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


PUT = _script("put")
FORGET = _script("forget")
EPOCH = _script("epoch")
DISCARD = _script("discard")
ALL = (PUT, FORGET, EPOCH, DISCARD)
