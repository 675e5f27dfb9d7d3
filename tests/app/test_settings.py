"""The table of settings: each has one place, one parser, one name in flags, environment and documentation."""

import argparse
import os
import pickle
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sessiond_server.__main__ import main
from sessiond_server.settings import (
    SETTINGS,
    Address,
    SecretUrl,
    SettingError,
    Settings,
    add_flags,
    keys_in_the_clear,
    load,
    markdown,
    processors,
    refuse_open_network,
)
from sessiond_server.settings.databases import database_map
from sessiond_server.settings.values import show_seconds, show_size

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

DATABASES = '{"main": "postgresql://h/main", "eu": "postgresql://h/eu"}'

OTHER_VALUES = {
    "listen": ("[::1]:0", Address("::1", 0)),
    "keys_file": ("/etc/keys", Path("/etc/keys")),
    "allow_unauthenticated_network": ("yes", True),
    "tls_cert_file": ("c.pem", Path("c.pem")),
    "tls_key_file": ("k.pem", Path("k.pem")),
    "tls_client_ca_file": ("ca.pem", Path("ca.pem")),
    "reflection": ("off", False),
    "agentos_form": ("go", "go"),
    "agentos_prefix": ("/agentos", "/agentos"),
    "console": ("false", False),
    "http_listen": ("127.0.0.1:0", Address("127.0.0.1", 0)),
    "http_cors_origins": (
        "https://a.example,http://localhost:3000",
        frozenset(["https://a.example", "http://localhost:3000"]),
    ),
    "http_trusted_proxies": ("10.0.0.0/8,::1", ("10.0.0.0/8", "::1")),
    "metrics_listen": ("127.0.0.1:0", Address("127.0.0.1", 0)),
    "store": ("memory", "memory"),
    "postgres_dsn": ("postgres://h/d", SecretUrl("postgres://h/d")),
    "databases": (DATABASES, database_map(DATABASES)),
    "default_database": ("eu", "eu"),
    "migration_wait": ("10s", 10.0),
    "require_durable": ("yes", True),
    "redis_url": ("unix:///s", SecretUrl("unix:///s")),
    "cache_ttl": ("2m", 120.0),
    "cache_window": ("50", 50),
    "data_dir": ("d", Path("d")),
    "pool_size": ("5", 5),
    "default_ttl": ("0", 0.0),
    "max_live_sessions": ("9", 9),
    "search": ("no", False),
    "encryption_keys": ("file:/keys", "file:/keys"),
    "encryption_writes": ("no", False),
    "summariser": ("extractive", "extractive"),
    "summary_messages": ("0", 0),
    "summary_tokens": ("9", 9),
    "summary_at_end": ("no", False),
    "summary_keep": ("0", 0),
    "summary_input_tokens": ("1000", 1000),
    "summary_timeout": ("2s", 2.0),
    "summary_concurrency": ("1", 1),
    "summary_url": ("http://h/v1", SecretUrl("http://h/v1")),
    "summary_model": ("m 1", "m 1"),
    "summary_key_file": ("key", Path("key")),
    "content_patches": ("0", 0),
    "request_retention": ("90m", 5400.0),
    "ended_retention": ("24h", 86400.0),
    "tombstone_retention": ("7d", 604800.0),
    "blob_store": ("s3://bucket/prefix?region=x", SecretUrl("s3://bucket/prefix?region=x")),
    "max_message_size": ("2MiB", 2**21),
    "max_attachment_size": ("0", 0),
    "max_session_attachments_size": ("1MiB", 1024**2),
    "upload_retention": ("1h", 3600.0),
    "transfers": ("1", 1),
    "transfer_idle": ("5s", 5.0),
    "pipes": ("0", 0),
    "pipe_calls": ("1", 1),
    "pipe_idle": ("5s", 5.0),
    "longest_deadline": ("1.5s", 1.5),
    "sweep_interval": ("500ms", 0.5),
    "shards": ("2", 2),
    "queue_commands": ("1", 1),
    "queue_bytes": ("1GiB", 1024**3),
    "optimistic_writes": ("false", False),
    "batch_commands": ("1", 1),
    "batch_bytes": ("64KiB", 65536),
    "outage": ("0", 0.0),
    "watchers": ("0", 0),
    "workers": ("3", 3),
    "bookmark_interval": ("1s", 1.0),
    "watch_write_timeout": ("30s", 30.0),
    "watch_age": ("1h", 3600.0),
    "drain_pause": ("2s", 2.0),
    "grace": ("1m", 60.0),
    "uvloop": ("no", False),
    "log_level": ("debug", "debug"),
    "access_log": ("all", "all"),
    "log_format": ("json", "json"),
    "failpoints": ("before_hint=drop", "before_hint=drop"),
}


def test_every_setting_is_in_the_table_once_and_named_after_its_field() -> None:
    assert [setting.name for setting in SETTINGS] == [field.name for field in fields(Settings)]
    variables = [variable for setting in SETTINGS for variable in setting.variables]
    assert len(variables) == len(set(variables))
    for setting in SETTINGS:
        assert setting.help.endswith(".")
        assert setting.variables[0] == f"SESSIOND_{setting.name.upper()}"


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS])
def test_flag_beats_variable_beats_default(name: str) -> None:
    setting = next(setting for setting in SETTINGS if setting.name == name)
    text, value = OTHER_VALUES[name]
    default = getattr(load({}, {"HOME": "/home/ada"}), name)
    assert default != value
    # Both files of TLS, or neither; the map of databases and the default one.
    tls = ("tls_cert_file", "tls_key_file", "tls_client_ca_file")
    together = dict.fromkeys(tls, "other.pem") if name in tls else {}
    if name in ("databases", "default_database"):
        together = {"databases": DATABASES, "default_database": "main"}
    beside = {other: given for other, given in together.items() if other != name}
    assert getattr(load(beside, {setting.variables[0]: text}), name) == value
    assert getattr(load({**beside, name: text}, {setting.variables[0]: "not a valid value \0"}), name) == value
    assert getattr(load({}, {setting.variables[0]: "", "HOME": "/home/ada"}), name) == default


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("listen", "127.0.0.1"),
        ("listen", "127.0.0.1:65536"),
        ("listen", "::1:50051"),
        ("listen", ":50051"),
        ("metrics_listen", "9464"),
        ("http_listen", "50080"),
        ("http_listen", "on"),
        ("agentos_prefix", "agentos"),
        ("agentos_prefix", "/agentos/"),
        ("agentos_prefix", "/v1/agentos"),
        ("agentos_prefix", "/../x"),
        ("agentos_form", "python"),
        ("http_cors_origins", "app.example"),
        ("http_cors_origins", "https://app.example/"),
        ("http_cors_origins", "*,https://app.example"),
        ("http_cors_origins", "null"),
        ("http_trusted_proxies", "proxy.example"),
        ("http_trusted_proxies", "10.0.0.1/8"),
        ("store", "sqlite"),
        ("postgres_dsn", "mysql://h/d"),
        ("postgres_dsn", "host=h password=hunter2"),
        ("redis_url", "http://:hunter2@h"),
        ("blob_store", "/folder"),
        ("blob_store", "https://hunter2@bucket"),
        ("blob_store", "s3://bucket?secret_access_key=hunter2"),
        ("blob_store", "s3://bucket?AWS_SESSION_TOKEN=hunter2"),
        ("blob_store", "az://account/container?account_key=hunter2"),
        ("blob_store", "az://account/container?azure_storage_sas_key=hunter2"),
        ("blob_store", "s3://bucket?endpoint=https://me:hunter2@host"),
        ("blob_store", "s3://bucket?endpoint=https%3A%2F%2Fme%3Ahunter2%40host"),
        ("blob_store", "s3://hunter2:hunter2@bucket"),
        ("pool_size", "4"),
        ("workers", "0"),
        ("workers", "65"),
        ("workers", "Auto"),
        ("pool_size", "-1"),
        ("pool_size", "٣"),
        ("default_ttl", "24"),
        ("default_ttl", "-1s"),
        ("default_ttl", "nan"),
        ("default_ttl", "99999d"),
        ("sweep_interval", "0"),
        ("queue_bytes", "4MiB"),
        ("queue_bytes", "64MB"),
        ("reflection", "maybe"),
        ("log_level", "loud"),
        ("data_dir", "a\0b"),
    ],
)
def test_what_is_wrong_is_named_as_written_and_never_repeated(name: str, text: str) -> None:
    variable = f"SESSIOND_{name.upper()}"
    with pytest.raises(SettingError, match=rf"^{variable}: must "):
        load({}, {variable: text})
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(SettingError, match=rf"^{flag}: must ") as caught:
        load({name: text}, {})
    assert "hunter2" not in str(caught.value)


def test_several_workers_need_a_store_that_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match=r"SESSIOND_WORKERS: .* --store postgres"):
        load({"store": "memory"}, {"SESSIOND_WORKERS": "2"})
    assert load({"store": "memory", "workers": "1"}, {}).workers == 1
    assert 1 <= load({"workers": "auto"}, {}).workers <= 64
    monkeypatch.setattr(sys, "platform", "darwin")
    assert load({"workers": "auto"}, {}).workers == 1
    with pytest.raises(SettingError, match=r"--workers: .* Linux"):
        load({"workers": "2"}, {})


def test_workers_are_as_many_as_the_container_has_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert processors.available(tmp_path) == 8
    for limit, expected in (("max 100000", 8), ("150000 100000", 2), ("10000 100000", 1), ("900000 100000", 8)):
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
        assert processors.available(tmp_path) == expected, limit
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in (("-1", 8), ("250000", 3)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert processors.available(tmp_path) == expected, quota


def test_settings_can_be_sent_to_another_process() -> None:
    several = '{"main": "postgresql://u:p%20w@h/main", "eu": "postgresql://h/eu"}'
    given = {"databases": several, "default_database": "main", "redis_url": "redis://:secret@h/0", "listen": "[::1]:0"}
    settings = load(given, {})
    found = pickle.loads(pickle.dumps(settings))
    assert found == settings
    assert found.databases["main"].reveal() == "postgresql://u:p%20w@h/main"


def test_one_half_of_tls_is_refused() -> None:
    with pytest.raises(SettingError, match="belong together"):
        load({"tls_cert_file": "c.pem"}, {})


def test_database_url_is_the_fallback() -> None:
    assert load({}, {"DATABASE_URL": "postgresql://a/b"}).postgres_dsn == SecretUrl("postgresql://a/b")
    both = {"DATABASE_URL": "postgresql://a/b", "SESSIOND_POSTGRES_DSN": "postgresql://c/d"}
    assert load({}, both).postgres_dsn == SecretUrl("postgresql://c/d")


def test_data_goes_where_the_account_keeps_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert load({}, {"XDG_DATA_HOME": "/x", "HOME": "/h"}).data_dir == Path("/x/sessiond")
    assert load({}, {"HOME": "/h"}).data_dir == Path("/h/.local/share/sessiond")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert load({}, {"XDG_DATA_HOME": "/x", "HOME": "/h"}).data_dir == Path("/var/lib/sessiond")


@pytest.mark.parametrize(
    ("listen", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
        ("127.0.0.1.example:1", False),
    ],
)
def test_only_loopback_is_open_without_keys(listen: str, loopback: bool) -> None:
    assert load({"listen": listen}, {}).listen.loopback == loopback
    if not loopback:
        with pytest.raises(SettingError, match="refusing to listen"):
            refuse_open_network(load({"listen": listen}, {}))
    refuse_open_network(load({"listen": "127.0.0.1:1" if loopback else listen, "keys_file": "k"}, {}))
    refuse_open_network(load({"listen": listen, "allow_unauthenticated_network": "true"}, {}))


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.5, "500ms"), (90, "90s"), (86400, "24h"), (172800, "2d")])
def test_durations_are_shown_as_they_are_written(value: float, text: str) -> None:
    assert show_seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(65536, "64KiB"), (100, "100"), (1024**3, "1GiB")])
def test_sizes_are_shown_as_they_are_written(value: int, text: str) -> None:
    assert show_size(value) == text


def test_help_has_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for setting in SETTINGS:
        assert f"  {setting.flag} " in text
        for variable in setting.variables:
            assert variable in text


def test_a_switch_needs_no_value() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert load(vars(parser.parse_args(["--reflection"])), {}).reflection is True
    assert load(vars(parser.parse_args(["--reflection", "false"])), {}).reflection is False


def test_the_page_of_settings_has_the_table() -> None:
    assert PAGE.read_text("utf-8").endswith(f"\n\n{markdown()}"), "run make docs"


def test_http_is_on_with_the_bundled_servers_unless_another_address_is_set() -> None:
    def at(**given: str) -> Address | None:
        return load(given, {"HOME": "/home/ada"}).http_listen

    assert at() == Address("127.0.0.1", 50080)
    assert at(http_listen="off") is None
    assert at(http_listen="[::1]:1") == Address("::1", 1)
    for given in ({"store": "memory"}, {"postgres_dsn": "postgresql://h/d"}, {"listen": "127.0.0.1:0"}):
        assert at(**given) is None
    assert at(store="memory", http_listen="127.0.0.1:0") == Address("127.0.0.1", 0)


def test_http_is_not_open_to_the_network_without_keys() -> None:
    open_to_all = load({"http_listen": "0.0.0.0:80"}, {})
    with pytest.raises(SettingError, match=r"0\.0\.0\.0:80"):
        refuse_open_network(open_to_all)
    keyed = load({"http_listen": "0.0.0.0:80", "keys_file": "k"}, {})
    refuse_open_network(keyed)
    assert "0.0.0.0:80" in keys_in_the_clear(keyed)
