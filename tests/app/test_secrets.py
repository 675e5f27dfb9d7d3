"""Nothing of a secret is ever printed or logged, however wrongly it is written and however the start fails."""

import ast
import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import sessiond_server
from sessiond_server.__main__ import main
from sessiond_server.app import database, service
from sessiond_server.auth import new_key
from sessiond_server.cli import migrate
from sessiond_server.settings import SETTINGS, SecretUrl, load, scrub
from tests.support.effort import left_to_long
from tests.support.serve_process import command, serving

MARKERS = ("Hun7Left", "Hun7Right")
"""Both sides of the character that is not escaped: each could end up in another part of the URL."""

PASSWORDS = [*(f"{MARKERS[0]}{character}{MARKERS[1]}" for character in "/#?@:%&=,;[ "), f"9{MARKERS[0]}%2F{MARKERS[1]}"]
QUICK = PASSWORDS[::3]

SHAPES = {
    "postgres_dsn": (
        "postgresql://me:{}@127.0.0.1:1/db",
        "postgresql://me:1{}@127.0.0.1:1/db?sslmode=disable",
        "postgresql://127.0.0.1:1/db?user=me&password={}",
        "postgresql://127.0.0.1:1/db?sslpassword={}&sslmode=disable",
        "postgresql://me@127.0.0.1:1/db?sslmode={}",
        "postgresql://me:{}@127.0.0.1:port/db",
        "host=127.0.0.1 port=1 password={}",
        "host=127.0.0.1 password='{}'",
        "postgres:me:{}@127.0.0.1/db",
        "{}",
    ),
    "redis_url": (
        "redis://:{}@127.0.0.1:1/0",
        "redis://me:{}@127.0.0.1:1",
        "redis://{}@127.0.0.1:1",
        "redis://127.0.0.1:1?password={}",
        "redis://127.0.0.1:1?max_connections={}",
        "rediss://me:{}@127.0.0.1:1",
        "unix:///nowhere/socket?password={}",
        "redis:{}",
    ),
    "blob_store": (
        "s3://key:{}@bucket/prefix",
        "s3://bucket?secret_access_key={}",
        "s3://bucket?endpoint=https://me:{}@host",
        "s3://bucket?no_such_setting={}",
        "az://account/container?azure_storage_sas_key={}",
        "s3:{}",
    ),
}

VARIABLES = {setting.name: setting.variables for setting in SETTINGS}
COMMANDS = ("check", "migrate", "serve")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings of ours, no patience with servers that are not there, and the logging of pytest again in the end."""
    for variable in (variable for variables in VARIABLES.values() for variable in variables):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(database, "OUTAGE_AT_START", 0.0)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def said(capfd: pytest.CaptureFixture[str]) -> str:
    captured = capfd.readouterr()
    return captured.out + captured.err


def arguments(asked: str, name: str) -> list[str]:
    """What makes the command reach the setting, and then fail."""
    listen = ["--listen", "127.0.0.1:0"] if asked != "migrate" else []
    memory = ["--store", "memory"] if name == "blob_store" and asked == "serve" else []
    return [asked, *listen, *memory]


@pytest.mark.parametrize("password", [*QUICK, *left_to_long(*(each for each in PASSWORDS if each not in QUICK))])
@pytest.mark.parametrize("name", SHAPES)
def test_a_secret_of_a_setting_is_not_printed_by_a_start_that_fails(
    name: str, password: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if name != "postgres_dsn":
        monkeypatch.setenv("SESSIOND_POSTGRES_DSN", "postgresql://me@127.0.0.1:1/db")
    for shape in SHAPES[name]:
        if ":" in password and "//{}@" in shape:
            continue  # a name and a password, rightly written
        for asked in COMMANDS:
            for variable in VARIABLES[name]:
                with monkeypatch.context() as given:
                    given.setenv(variable, shape.format(password))
                    code = main(arguments(asked, name))
                text = said(capfd)
                assert code in (1, 2) or name == "blob_store", (asked, shape)
                for marker in MARKERS:
                    assert marker not in text, (asked, variable, shape)


@pytest.mark.parametrize("name", ["postgres_dsn", "redis_url"])
def test_an_escaped_password_is_understood_and_shown_nowhere(name: str) -> None:
    password = f"{MARKERS[0]}/#?@:%&{MARKERS[1]}"
    escaped = quote(password, safe="")
    settings = load({}, {VARIABLES[name][0]: SHAPES[name][0].format(escaped)})
    value = getattr(settings, name)
    assert escaped in value.reveal()
    for text in (str(value), repr(value), f"{value}", repr(settings), str(settings)):
        assert MARKERS[0] not in text
        assert MARKERS[1] not in text
    assert scrub(settings, f"said {password} and {escaped}.") == "said *** and ***."


def test_a_secret_in_the_wrong_place_of_the_command_line_is_not_repeated(capfd: pytest.CaptureFixture[str]) -> None:
    secret = f"postgresql://me:{MARKERS[0]}/{MARKERS[1]}@h/d"
    for line in (
        [secret],
        ["serve", secret],
        ["migrate", "--redis-url", secret],
        ["migrate", f"--redis-url={secret}"],
        ["check", f"--p={secret}"],
        ["check", f"-p{secret}"],
        ["check", "--postgres-dsn", secret],
        ["healthcheck", "--timeout", secret],
        ["keys", secret],
        ["show", "session", secret],
    ):
        try:
            code: object = main(line)
        except SystemExit as ended:
            code = ended.code
        text = said(capfd)
        assert code == 2, line
        assert MARKERS[0] not in text
        assert MARKERS[1] not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_that_was_not_foreseen_prints_no_secret(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*values: object, **named: object) -> None:
        raise RuntimeError(f"{values} {named} {MARKERS[0]}")

    for module, function in ((service, "serve"), (database, "started"), (migrate, "bundled")):
        monkeypatch.setattr(module, function, fail)
    assert main([*arguments(name, ""), "--data-dir", "/nowhere"]) == 1
    text = said(capfd)
    assert "RuntimeError" in text
    assert "unexpected error" in text
    assert MARKERS[0] not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:hunter2@h:5432/d?sslmode=require", "postgresql://u:***@h:5432/d?sslmode=require"),
        ("postgresql://u:hun:ter:2@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u:x@h1:1,[::1]:2/d?target_session_attrs=read-write", None),
        ("postgresql://h/d?user=u&password=hunter2&x=y", "postgresql://h/d?user=u&password=***&x=***"),
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("file:///folder/a@b", "file:///folder/a@b"),
        ("unix:///run/valkey.sock?db=1", "unix:///run/valkey.sock?db=1"),
        (
            "postgresql://sessiond@/sessiond?host=/run/x&port=5432",
            "postgresql://sessiond@/sessiond?host=/run/x&port=5432",
        ),
    ],
)
def test_what_is_shown_of_a_url(text: str, shown: str | None) -> None:
    assert str(SecretUrl(text)) == (shown or text.replace(":x@", ":***@"))
    assert SecretUrl(text).reveal() == text


def test_secrets_are_revealed_only_to_what_connects() -> None:
    """An addition to this list must make sure that the secret is neither printed nor logged there."""
    root = Path(sessiond_server.__file__).parent
    places = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "reveal"
    }
    assert places == {"app/blobs.py", "app/database.py", "app/summariser.py", "cli/check.py", "cli/migrate.py"}


async def test_keys_that_cross_the_network_in_the_clear_are_warned_of(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(new_key("ada", "acme")[1])
    warning = "keys cross the network in the clear"
    for listen, warned in (("0.0.0.0:0", True), ("127.0.0.1:0", False)):
        checked = await asyncio.to_thread(
            command, "check", "--listen", listen, "--store", "memory", "--keys-file", str(keys)
        )
        assert checked.returncode == 0
        assert (f"WARNING access    {warning}" in checked.stdout) == warned
        async with serving("--store", "memory", "--keys-file", str(keys), "--listen", listen) as server:
            assert await server.stop() == 0
            assert (warning in server.log.read_text()) == warned
