"""URLs of Postgres and Redis as managed services, and other libraries' documentation, write them."""

import ssl
from pathlib import Path

import pytest

from sessiond_server.settings import SettingError, load
from sessiond_server.settings.connections import postgres_dsn, redis_url


@pytest.mark.parametrize(
    ("given", "driven"),
    [
        ("postgres://u:p%2Fx@h:5432/db", "postgres://u:p%2Fx@h:5432/db"),
        ("postgresql://u@h,i/db?target_session_attrs=read-write", "postgresql://u@h,i/db?target_session_attrs=read-write"),
        ("postgresql://u@h:1,[::1]:2/db?pool_timeout=1", "postgresql://u@h:1,[::1]:2/db"),
        ("postgresql://u@/db?host=/run/pg&port=5433", "postgresql://u@/db?host=/run/pg&port=5433"),
        ("postgresql://u@h/db?connect_timeout=10&application_name=x", "postgresql://u@h/db?application_name=x"),
        ("postgresql://u@h/db?keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=9",
         "postgresql://u@h/db"),
        ("postgresql://u@h/db?pgbouncer=true&connection_limit=1&pool_timeout=20", "postgresql://u@h/db"),
        ("postgresql://u@h/db?schema=app", "postgresql://u@h/db?search_path=app"),
        ("postgresql://u@h/db?sslmode=require&channel_binding=prefer", "postgresql://u@h/db?sslmode=require"),
        ("postgresql://u@h/db?ssl=true", "postgresql://u@h/db?sslmode=require"),
        ("postgresql://u@h/db?options=-c%20statement_timeout%3D5s", "postgresql://u@h/db?options=-c%20statement_timeout%3D5s"),
        ("postgresql://u@h/db?options=project%3Dep-1&gssencmode=disable", "postgresql://u@h/db?options=project%3Dep-1"),
    ],
)  # fmt: skip
def test_dsn_of_managed_service_becomes_what_the_driver_knows(given: str, driven: str) -> None:
    assert postgres_dsn(given).reveal() == driven


def test_system_root_certificates_become_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = tmp_path / "roots.pem"
    roots.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    driven = f"postgresql://u@h/db?sslmode=verify-full&sslrootcert={roots}"
    assert postgres_dsn("postgresql://u@h/db?sslmode=verify-full&sslrootcert=system").reveal() == driven
    assert postgres_dsn("postgresql://u@h/db?sslmode=verify-full&channel_binding=require").reveal() == driven
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    own = "postgresql://u@h/db?sslmode=verify-full"
    assert postgres_dsn(own).reveal() == own


def test_system_without_root_certificates_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setattr("sessiond_server.settings.connections._SYSTEM_CERTIFICATES", ())
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: ssl.DefaultVerifyPaths("", "", "", "", "", ""))
    with pytest.raises(ValueError, match="sslrootcert"):
        postgres_dsn("postgresql://u@h/db?sslrootcert=system")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("postgresql://u@h/db?sslmode=require&channel_binding=require", "channel_binding=require"),
        ("postgresql://u@h/db?channel_binding=hunter2", "channel_binding"),
        ("postgresql://u@h/db?sslmode=require&sslrootcert=system", "sslmode=verify-full"),
        ("postgresql://u@h/db?sslmode=hunter2", "sslmode"),
        ("postgresql://u@h/db?target_session_attrs=hunter2", "target_session_attrs"),
        ("postgresql://u@h/db?connect_timeout=hunter2", "connect_timeout"),
        ("postgresql://u@h/db?schema=hunter2%22", "schema"),
        ("postgresql://u@h/db?client_encoding=hunter2", "client_encoding"),
        ("postgresql://u@h/db?work_mem=hunter2", "work_mem.*options="),
        ("postgresql://u@h/db?sslmode=require&sslmode=hunter2", "sslmode twice"),
        ("redis://h?max_connections=hunter2", "max_connections"),
        ("redis://h?health_check_interval=hunter2", "health_check_interval"),
        ("redis://h?ssl_ca_certs=hunter2", "ssl_ca_certs.*rediss://"),
        ("rediss://h?ssl_cert_reqs=hunter2", "ssl_cert_reqs"),
        ("redis://h?db=hunter2", "db"),
        ("redis://h/hunter2", "number"),
        ("redis://h?hunter=2", "hunter"),
        ("unix://?db=1", "file"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_not_repeated(given: str, named: str) -> None:
    setting = "postgres_dsn" if given.startswith("postgresql") else "redis_url"
    with pytest.raises(SettingError, match=named) as refusal:
        load({setting: given}, {"HOME": "/home"})
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "driven"),
    [
        ("redis://h:6379/1", "redis://h:6379/1"),
        ("redis://:pw@h?max_connections=50&health_check_interval=30&timeout=20&socket_timeout=0.5", "redis://:pw@h"),
        ("redis://h?socket_keepalive=true&retry_on_timeout=yes&protocol=3&db=2", "redis://h?db=2"),
        ("rediss://u:pw@h:6380/0?ssl_cert_reqs=CERT_REQUIRED", "rediss://u:pw@h:6380/0?ssl_cert_reqs=required"),
        ("rediss://h?ssl_ca_certs=/etc/ca.pem&max_connections=5", "rediss://h?ssl_ca_certs=/etc/ca.pem"),
        ("unix:///run/redis.sock?db=1&client_name=sessiond", "unix:///run/redis.sock?db=1&client_name=sessiond"),
    ],
)
def test_redis_url_becomes_what_the_connection_knows(given: str, driven: str) -> None:
    assert redis_url(given).reveal() == driven


def test_no_home_is_needed_where_nothing_is_kept() -> None:
    for flags in ({"store": "memory"}, {"postgres_dsn": "postgresql://u@h/db"}):
        load(flags, {})
