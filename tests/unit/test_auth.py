"""Keys: what a file may hold, and who a call's metadata proves to be."""

from pathlib import Path

import pytest

from sessiond_server import auth
from sessiond_server.auth import (
    ANY_DATABASE,
    OFFICE_SCOPES,
    SCOPES,
    Authenticator,
    Grant,
    KeysFileInvalid,
    Principal,
    digest_of,
    load_keys,
    new_key,
)
from sessiond_server.domain.sessions.incarnation import Incarnation
from sessiond_server.errors import Unauthenticated

DIGEST = digest_of("sd_secret").hex()
ENTRY = f'[[keys]]\nname = "billing"\nsha256 = "{DIGEST}"\ntenant = "acme"\nscopes = ["sessions:read"]\n'
REMOTE = "ipv4:10.1.2.3:5000"
BILLING = Principal("acme", "", "billing", frozenset(("sessions:read",)))


def write(folder: Path, text: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(text, "utf-8")
    return path


def authenticator() -> Authenticator:
    return Authenticator({digest_of("sd_secret"): BILLING})


def test_a_file_maps_digests_to_principals(tmp_path: Path) -> None:
    user_bound = ENTRY.replace(DIGEST, "0" * 64).replace('tenant = "acme"', 'tenant = "acme"\nuser = "u 1"')
    keys = load_keys(write(tmp_path, ENTRY + user_bound))
    assert keys[digest_of("sd_secret")] == BILLING
    assert keys[bytes(32)] == Principal("acme", "u 1", "billing", frozenset(("sessions:read",)))


def test_a_new_key_works_with_the_entry_made_for_it(tmp_path: Path) -> None:
    key, entry = new_key('the "night" job \U0001f319', "acme", "ünal")
    principal = Authenticator(load_keys(write(tmp_path, entry))).authenticate(
        [("authorization", f"Bearer {key}")], lambda: REMOTE
    )
    assert principal == Principal("acme", "ünal", 'the "night" job \U0001f319', SCOPES)
    assert key not in entry


def test_new_keys_differ_and_are_long() -> None:
    keys = {new_key("a", "acme")[0] for _ in range(50)}
    assert len(keys) == 50
    assert all(key.startswith("sd_") and len(key) == 46 for key in keys)


@pytest.mark.parametrize(
    ("name", "tenant", "user"),
    [
        ("", "acme", ""),
        ("local", "acme", ""),
        ("sessiond", "acme", ""),
        ("a\n", "acme", ""),
        ("a", "a b", ""),
        ("a", "", ""),
    ],
)
def test_a_key_that_no_file_may_hold_is_not_made(name: str, tenant: str, user: str) -> None:
    with pytest.raises(ValueError, match="must"):
        new_key(name, tenant, user)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ENTRY + "[[keys]]\n", "entry 2 of keys: name"),
        (ENTRY.replace("billing", "local"), "entry 1 of keys: name must not be"),
        (ENTRY.replace('"billing"', '"a\\nb"'), "entry 1 of keys: name"),
        (ENTRY.replace(DIGEST, "sd_secret"), "entry 1 of keys: sha256"),
        (ENTRY.replace(DIGEST, DIGEST.upper()), "entry 1 of keys: sha256"),
        (ENTRY.replace('"acme"', '"a/b"'), "entry 1 of keys: tenant"),
        (ENTRY.replace('"acme"', "7"), "entry 1 of keys: tenant"),
        (ENTRY + 'user = ""\n', "entry 1 of keys: user"),
        (ENTRY.replace("sessions:read", "sessions:raed"), "entry 1 of keys: scopes"),
        (ENTRY.replace('["sessions:read"]', "[]"), "entry 1 of keys: scopes"),
        (ENTRY.replace('["sessions:read"]', "[[]]"), "entry 1 of keys: scopes"),
        (ENTRY + 'key = "sd_secret"\n', "entry 1 of keys: has a field other than"),
        (ENTRY + ENTRY, "entry 2 of keys: has the same key as billing"),
        (ENTRY + 'user = "sd_secret\n', "at line 6"),
        ("keys = [1]", "entry 1 of keys: must be a table"),
        (ENTRY.replace("sessions:read", "holds:write") + 'user = "u"\n', "not for keys that are bound to a user"),
        ("", "must hold [[keys]] entries"),
        ("keys = 1", "must hold [[keys]] entries"),
        (ENTRY + "[other]\n", "must hold [[keys]] entries"),
    ],
)
def test_a_bad_file_names_its_entry_and_quotes_no_secret(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(KeysFileInvalid) as caught:
        load_keys(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
    assert "sd_secret" not in str(caught.value)
    assert DIGEST not in str(caught.value)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(b"# \xff")
    with pytest.raises(KeysFileInvalid, match="not UTF-8 at byte 2"):
        load_keys(path)


@pytest.mark.parametrize("value", ["Bearer sd_secret", "bearer sd_secret", b"Bearer sd_secret", "Bearer  sd_secret "])
def test_a_known_key_gives_its_principal(value: str | bytes) -> None:
    metadata = [("user-agent", "x"), ("authorization", value)]
    assert authenticator().authenticate(metadata, lambda: REMOTE) == BILLING


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sd_secret",
        "Basic sd_secret",
        "Bearer",
        "Bearer ",
        "Bearer sd_secreT",
        "Bearer \udcff",
        "Bearer " + "x" * 10_000,
    ],
)
@pytest.mark.parametrize("peer", [REMOTE, "ipv4:127.0.0.1:1"])
def test_unknown_key_is_refused_on_loopback_too(value: str, peer: str) -> None:
    with pytest.raises(Unauthenticated):
        authenticator().authenticate([("authorization", value)], lambda: peer)


def test_with_keys_a_call_without_one_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        authenticator().authenticate([], lambda: "ipv4:127.0.0.1:1")


@pytest.mark.parametrize(
    "peer", ["ipv4:127.0.0.1:80", "ipv4:127.8.8.8:80", "ipv6:[::1]:80", "ipv6:%5B::1%5D:80", "unix:"]
)
def test_without_keys_loopback_is_local(peer: str) -> None:
    local = Principal("default", "", "local", SCOPES | OFFICE_SCOPES | {ANY_DATABASE})
    assert Authenticator().authenticate([], lambda: peer) == local


@pytest.mark.parametrize(
    "peer",
    [
        REMOTE,
        "ipv4:128.0.0.1:80",
        "ipv6:%5B::2%5D:80",
        "ipv6:%5B::1:2%5D:80",
        "ipv4:10.127.0.1:1",
        "",
        "xipv4:127.0.0.1:1",
    ],
)
def test_without_keys_other_addresses_are_refused(peer: str) -> None:
    with pytest.raises(Unauthenticated):
        Authenticator().authenticate([], lambda: peer)


def test_unauthenticated_network_admits_every_address() -> None:
    assert Authenticator(open_to_all=True).authenticate([], lambda: REMOTE) is auth.LOCAL_PRINCIPAL


def test_a_tenant_is_alone_by_the_keys_in_use() -> None:
    def principal(tenant_id: str) -> Principal:
        return Principal(tenant_id, "", "n", SCOPES)

    assert Authenticator().alone()
    authenticator = Authenticator({b"1": principal("a"), b"2": principal("a")})
    assert authenticator.alone()
    authenticator.use({b"1": principal("a"), b"2": principal("b")})
    assert not authenticator.alone()


def test_tokens_that_were_used_are_remembered_until_they_end() -> None:
    now = [1000.0]
    found = Authenticator({digest_of("sd_secret"): BILLING}, clock=lambda: now[0])

    def opened(token: str) -> Grant | None:
        ends = float(token.removeprefix("sdt_"))
        return Grant("s", Incarnation(0, 1), False, "", BILLING.owner, digest_of("sd_secret"), ends)

    found.accept_tokens(opened)
    for end in ("1060.5", "1060.7", "1030.2"):
        principal = found.authenticate([("authorization", f"bearer sdt_{end}")], lambda: REMOTE)
        assert (principal.tenant_id, principal.name, principal.scopes) == ("acme", "billing", BILLING.scopes)
        assert found.holds(principal)
    for time, some in (
        (1030.0, False),
        (1031.0, True),
        (1032.0, False),
        (1060.6, False),
        (1061.0, True),
        (1062.0, False),
    ):
        now[0] = time
        assert found.some_expired() is some, time
    assert not found.holds(principal)
    with pytest.raises(Unauthenticated):
        found.authenticate([("authorization", "Bearer sdt_1060.5")], lambda: REMOTE)


@pytest.mark.parametrize("bearer", ["sdt_", "sdt_" + "x" * 1100, "sdt_\x00\xff"])
def test_a_token_that_is_none_is_refused_with_and_without_keys(bearer: str) -> None:
    for found in (authenticator(), Authenticator(open_to_all=True)):
        if len(bearer) <= 1024:
            with pytest.raises(Unauthenticated):
                found.authenticate([("authorization", f"Bearer {bearer}")], lambda: REMOTE)
