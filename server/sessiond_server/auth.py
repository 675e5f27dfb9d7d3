"""Authentication by bearer, a key or a session token: the keys file, and the Principal that a call's metadata proves.

A keys file is TOML. It holds SHA-256 digests of keys, never keys, so a reader of the file cannot sign in with it:

    [[keys]]
    name = "billing"
    sha256 = "5e88..."
    tenant = "acme"
    user = "u-17"            # optional: the key sees only sessions of this user
    scopes = ["sessions:read", "sessions:write"]    # and "database:ID", to name a database in `db_id`; "holds:write"
    expires = 2027-01-31T00:00:00Z    # optional: the key is refused from that time on
"""

import base64
import hashlib
import json
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sessiond_server.errors import Unauthenticated

if TYPE_CHECKING:
    from sessiond_server.domain.sessions.incarnation import Incarnation

SESSIONS_READ: Final = "sessions:read"
SESSIONS_WRITE: Final = "sessions:write"
SCOPES: Final = frozenset((SESSIONS_READ, SESSIONS_WRITE))
"""What keys have unless others are asked for."""
HOLDS_WRITE: Final = "holds:write"
"""To place, lift and list legal holds. Not for keys that are bound to a user."""
RETENTION_WRITE: Final = "retention:write"
"""To set for how long the tenant keeps ended sessions. Not for keys that are bound to a user."""
OFFICE_SCOPES: Final = frozenset((HOLDS_WRITE, RETENTION_WRITE))
"""Scopes of those who answer for a whole tenant."""

DATABASE: Final = "database:"
"""Before the id of a database, the scope to name that database in a call's metadata."""
ANY_DATABASE: Final = "database:*"

DEFAULT_TENANT: Final = "default"
LOCAL: Final = "local"
"""Name of a caller on loopback, at a server without keys."""

KEY_PREFIX: Final = "sd_"
"""Lets secret scanners recognise a key."""

TOKEN_PREFIX: Final = "sdt_"
"""Of a session token."""
LONGEST_TOKEN: Final = 1024
"""Longest session token, in characters; with a session id of 255 quotation marks one has 920."""

_KEY_BYTES = 32
_LONGEST_KEY = 512
_RESERVED_NAMES = (LOCAL, "sessiond")
_FIELDS = {"name", "sha256", "tenant", "user", "scopes", "expires"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TENANT = re.compile(r"[A-Za-z0-9._:~-]{1,128}")
_DATABASE_ID = re.compile(r"[a-z][a-z0-9-]{0,31}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LOOPBACK = re.compile(r"ipv4:127\.|ipv6:(\[|%5B)::1(\]|%5D):|unix:")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a session token says. The key that made it, as it is now, limits it further."""

    session_id: str
    """The only session that exists for the caller."""
    incarnation: "Incarnation"
    """Of that session."""
    append: bool
    """Whether messages may be appended."""
    database: str
    """Id of the database that its maker named; empty: none, but the tenant's home."""
    owner: bytes
    """`Principal.owner` of its maker."""
    key: bytes = field(repr=False)
    """SHA-256 of the key that made it; empty if it was made without keys."""
    expires: float
    """When it ends, in seconds since 1970."""


OpenToken = Callable[[str], Grant | None]
"""What a session token grants; None: this service has not made it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The identity with which a call acts."""

    tenant_id: str
    user_id: str
    """If not empty, only sessions of this user exist for the caller."""
    name: str
    """Name of the key; `Event.actor` of the events that it writes."""
    scopes: frozenset[str]
    key: bytes = field(default=b"", repr=False, compare=False)
    """SHA-256 of the key; empty without keys."""
    expires: float | None = field(default=None, compare=False)
    """When the key or the token expires, in seconds since 1970; None: never."""
    grant: Grant | None = None
    """The session token with which the call is made; None: it is made with a key, or without keys."""

    @property
    def owner(self) -> bytes:
        """A digest of tenant and user, 16 bytes."""
        return hashlib.sha256(json.dumps([self.tenant_id, self.user_id]).encode()).digest()[:16]


LOCAL_PRINCIPAL: Final = Principal(DEFAULT_TENANT, "", LOCAL, SCOPES | OFFICE_SCOPES | {ANY_DATABASE})


class KeysFileInvalid(Exception):
    """The keys file cannot be used. The text names the file and the line or entry, and quotes nothing of a key."""


class Authenticator:
    """Authenticates callers by bearer: a key or a session token.

    Without keys, every caller on loopback is LOCAL_PRINCIPAL, or what its session token says, and all others are
    refused unless `open_to_all` is set.
    """

    def __init__(
        self,
        keys: Mapping[bytes, Principal] | None = None,
        *,
        open_to_all: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`keys` maps the SHA-256 digest of a key to its principal. `clock` returns seconds since 1970."""
        self._keys: Mapping[bytes, Principal] = {}
        self._tenants = 1
        self._know(keys or {})
        self._open_to_all = open_to_all
        self._clock = clock
        self._checked = clock()
        self._open_token: OpenToken = _no_token
        self._token_ends: set[int] = set()
        """Whole seconds before which tokens end that were used, and had not ended when last looked at: as many as the
        longest life of a token has seconds, at most."""

    def accept_tokens(self, open_token: OpenToken) -> None:
        """From now on, session tokens are accepted that `open_token` opens."""
        self._open_token = open_token

    def use(self, keys: Mapping[bytes, Principal]) -> None:
        """Replaces the keys. Both the old and the new set must have at least one key: a server with keys must never
        become one without, which would let every caller in."""
        assert keys
        assert self._keys
        self._know(keys)

    def _know(self, keys: Mapping[bytes, Principal]) -> None:
        self._keys = {digest: replace(principal, key=digest) for digest, principal in keys.items()}
        self._tenants = len({principal.tenant_id for principal in keys.values()}) or 1

    def alone(self) -> bool:
        """Whether all keys belong to one tenant, or there are none."""
        return self._tenants == 1

    def authenticate(self, metadata: Iterable[tuple[str, str | bytes]], peer: Callable[[], str]) -> Principal:
        """The principal of a call. `peer` returns gRPC's address of the caller. Raises Unauthenticated.

        Keys are looked up by digest, so that the time of the look-up reveals nothing about a key.
        """
        if not self._keys:
            if not (self._open_to_all or is_loopback(peer())):
                raise Unauthenticated("no_key")
            for name, value in metadata:
                if name == "authorization" and (token := _token(value)):
                    return self._by_token(token)
            return LOCAL_PRINCIPAL
        for name, value in metadata:
            if name == "authorization":
                return self._bearer(value)
        raise Unauthenticated("no_key")

    def holds(self, principal: Principal) -> bool:
        """Whether the key or token of an authenticated call is still valid, for the same principal."""
        if principal.grant is not None:
            return self._granted(principal.grant) == principal
        if not principal.key:
            return not self._keys
        return self._keys.get(principal.key) == principal and not self._is_over(self._keys[principal.key])

    def some_expired(self) -> bool:
        """Whether a key, or a token that was used, has expired since the last call of this method."""
        since, self._checked = self._checked, self._clock()
        if ended := {end for end in self._token_ends if end <= self._checked}:
            self._token_ends -= ended
            return True
        return any(p.expires is not None and since < p.expires <= self._checked for p in self._keys.values())

    def _is_over(self, principal: Principal) -> bool:
        return principal.expires is not None and self._clock() >= principal.expires

    def _bearer(self, value: str | bytes) -> Principal:
        if token := _token(value):
            return self._by_token(token)
        if key := _bearer(value, _LONGEST_KEY):
            principal = self._keys.get(digest_of(key))
            if principal is not None and not self._is_over(principal):
                return principal
        raise Unauthenticated

    def _by_token(self, token: str) -> Principal:
        grant = self._open_token(token)
        principal = None if grant is None else self._granted(grant)
        if grant is None or principal is None:
            raise Unauthenticated
        self._token_ends.add(ceil(grant.expires))
        return principal

    def _granted(self, grant: Grant) -> Principal | None:
        """The principal of a token; None if it has ended, or its key is not what it was. It has no scope that its key
        lacks."""
        maker = self._keys.get(grant.key) if self._keys else None if grant.key else LOCAL_PRINCIPAL
        if maker is None or self._is_over(maker) or self._clock() >= grant.expires:
            return None
        if maker.owner != grant.owner:
            return None
        allowed = {SESSIONS_READ, SESSIONS_WRITE} if grant.append else {SESSIONS_READ}
        scopes = frozenset(each for each in maker.scopes if each in allowed or each.startswith(DATABASE))
        return Principal(*(maker.tenant_id, maker.user_id, maker.name, scopes, grant.key, grant.expires, grant))


def _no_token(token: str) -> None:
    """There are no tokens yet."""


def _bearer(value: str | bytes, longest: int) -> str:
    """The bearer of an `authorization`; empty if it has none, or one of more than `longest` characters."""
    text = value if isinstance(value, str) else value.decode("latin-1")
    bearer = text[7:].strip() if text[:7].lower() == "bearer " else ""
    return bearer if len(bearer) <= longest else ""


def _token(value: str | bytes) -> str:
    """The session token of an `authorization`; empty if it has none."""
    bearer = _bearer(value, LONGEST_TOKEN)
    return bearer if bearer.startswith(TOKEN_PREFIX) else ""


def is_loopback(peer: str) -> bool:
    """Whether the peer with this gRPC address is on this machine."""
    return _LOOPBACK.match(peer) is not None


def digest_of(key: str) -> bytes:
    """The SHA-256 digest of a key. Keys have 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def new_key(
    name: str,
    tenant_id: str,
    user_id: str = "",
    scopes: Iterable[str] = SCOPES,
    expires: datetime | None = None,
) -> tuple[str, str]:
    """Creates a key; returns (the key, its entry for the keys file). The key is not stored anywhere. Raises ValueError
    if the entry would not be valid."""
    key = KEY_PREFIX + base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).rstrip(b"=").decode()
    entry: dict[str, object] = {"name": name, "sha256": digest_of(key).hex(), "tenant": tenant_id}
    if user_id:
        entry["user"] = user_id
    entry["scopes"] = sorted(scopes)
    if expires is not None:
        entry["expires"] = expires
    if fault := _fault(entry):
        raise ValueError(fault)
    # JSON strings and arrays of them are valid TOML: the checks exclude characters that the two escape differently.
    return key, "[[keys]]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in entry.items())


def _toml(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return json.dumps(value, ensure_ascii=False)


def load_keys(path: Path) -> Mapping[bytes, Principal]:
    """The keys of a file by digest, including expired ones; at least one.

    Raises KeysFileInvalid, and OSError if the file cannot be read.
    """
    try:
        parsed = tomllib.loads(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise KeysFileInvalid(f"{path}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"at line \d+|at end of document", str(error))
        raise KeysFileInvalid(f"{path}: not TOML {where.group() if where else ''}".rstrip()) from None
    entries = parsed.get("keys")
    if set(parsed) != {"keys"} or not isinstance(entries, list):
        raise KeysFileInvalid(f"{path}: must hold [[keys]] entries and nothing else")
    if not entries:
        raise KeysFileInvalid(f"{path}: holds no keys")
    return MappingProxyType(_principals(path, entries))


def _principals(path: Path, entries: Sequence[object]) -> dict[bytes, Principal]:
    keys: dict[bytes, Principal] = {}
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise KeysFileInvalid(f"{path}: entry {number} of keys: must be a table")
        if fault := _fault(entry):
            raise KeysFileInvalid(f"{path}: entry {number} of keys: {fault}")
        digest = bytes.fromhex(entry["sha256"])
        if digest in keys:
            raise KeysFileInvalid(f"{path}: entry {number} of keys: has the same key as {keys[digest].name}")
        expires = entry["expires"].timestamp() if "expires" in entry else None
        keys[digest] = Principal(
            entry["tenant"], entry.get("user", ""), entry["name"], frozenset(entry["scopes"]), digest, expires
        )
    return keys


def _fault(entry: Mapping[str, object]) -> str | None:
    """The rule that an entry breaks, without any value that could be a key; None if it is valid."""
    if set(entry) - _FIELDS:
        return f"has a field other than {', '.join(sorted(_FIELDS))}"
    digest, tenant, scopes = entry.get("sha256"), entry.get("tenant"), entry.get("scopes")
    if not _is_line(entry.get("name")):
        return "name must be 1 to 128 characters without control characters"
    if entry["name"] in _RESERVED_NAMES:
        return f"name must not be one of {', '.join(_RESERVED_NAMES)}"
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return "sha256 must be 64 lower-case hexadecimal digits"
    if not isinstance(tenant, str) or not is_tenant(tenant):
        return "tenant must be 1 to 128 characters of [A-Za-z0-9._:~-]"
    if "user" in entry and not _is_user(entry["user"]):
        return "user must be 1 to 255 bytes of UTF-8 without control characters, leading and trailing white space"
    if (
        not isinstance(scopes, list)
        or not scopes
        or not all(isinstance(scope, str) and _is_scope(scope) for scope in scopes)
    ):
        return f"scopes must be a list of {', '.join(sorted(SCOPES | OFFICE_SCOPES))}, {DATABASE}ID and {ANY_DATABASE}"
    if "user" in entry and not OFFICE_SCOPES.isdisjoint(scopes):
        return f"{', '.join(sorted(OFFICE_SCOPES))} are not for keys that are bound to a user"
    expires = entry.get("expires", datetime.now(UTC))
    if not isinstance(expires, datetime) or expires.tzinfo is None:
        return "expires must be a time with a time zone, such as 2027-01-31T00:00:00Z"
    return None


def is_tenant(text: str) -> bool:
    return _TENANT.fullmatch(text) is not None


def is_database_id(text: str) -> bool:
    """As settings.databases.database_id, by which operators name databases; a test compares the two."""
    return _DATABASE_ID.fullmatch(text) is not None


def _is_scope(text: str) -> bool:
    if text.startswith(DATABASE):
        return text == ANY_DATABASE or is_database_id(text.removeprefix(DATABASE))
    return text in SCOPES or text in OFFICE_SCOPES


def _is_user(value: object) -> bool:
    """As domain.text.identifier, by which requests name users; a test compares the two."""
    if not isinstance(value, str) or value != value.strip() or _CONTROL.search(value):
        return False
    return 1 <= len(value.encode("utf-8", "replace")) <= 255


def _is_line(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 128 and value.isprintable()
