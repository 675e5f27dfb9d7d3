"""Servers and commands with the wrong keys, as the operator sees them."""

from pathlib import Path

import pytest

from sessiond_server.__main__ import main
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted
from tests.support.encryption import encryption, line
from tests.support.rows import table
from tests.support.shared_database import SharedDatabase


@pytest.fixture
async def encrypted(emptied: SharedDatabase) -> str:
    """A database with contents that the key `right` has encrypted."""
    async with PostgresStore(emptied.dsn, max_connections=3, encryption=encryption("right")) as store:
        await accepted(store, Caller().create("s"))
    return emptied.dsn


def test_nothing_starts_with_other_keys_than_the_databases(
    encrypted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(line("wrong"))
    keys = {
        "no keys": ((), "no keys are configured"),
        "other keys": (("--encryption-keys", f"file:{wrong}"), "right is not among"),
        "no file": (("--encryption-keys", f"file:{tmp_path}/none"), "No such file"),
    }
    with table() as rows:
        for name, (arguments, text) in keys.items():
            for command in ("check", "serve", "show"):
                with rows.row(f"{command} with {name}"):
                    more = ("s", "--tenant", "tenant") if command == "show" else ("--listen", "127.0.0.1:0")
                    assert main([command, *more, "--postgres-dsn", encrypted, *arguments]) == 1
                    found = capsys.readouterr()
                    assert text in found.out + found.err


def test_shredding_is_asked_twice(encrypted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = tmp_path / "right"
    right.write_text(line("right"))
    where = ("--postgres-dsn", encrypted, "--encryption-keys", f"file:{right}")
    assert main(["encryption", "shred", "tenant", *where]) == 2
    assert "--confirm" in capsys.readouterr().err
    assert main(["encryption", "status", *where]) == 0
    assert "1 with keys, 0 of them destroyed" in capsys.readouterr().out
    assert main(["encryption", "shred", "tenant", "--confirm", "tenant", *where]) == 0
    assert main(["encryption", "status", *where]) == 0
    assert "1 with keys, 1 of them destroyed" in capsys.readouterr().out
    assert main(["encryption", "rewrap"]) == 2
    assert "set --encryption-keys" in capsys.readouterr().err


def test_what_does_not_go_together_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ("--encryption-keys", f"file:{tmp_path}/keys")
    wrong = {
        "search": (("--search", "true", *keys), "exclude each other"),
        "memory": (("--store", "memory", *keys), "the memory store keeps nothing at rest"),
        "a bare path": (("--encryption-keys", "keys"), "must be file:PATH or env"),
    }
    with table() as rows:
        for name, (arguments, text) in wrong.items():
            with rows.row(name):
                assert main(["serve", *arguments]) == 2
                assert text in capsys.readouterr().err
