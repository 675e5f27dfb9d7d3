"""Settings of several databases: the map, its default, and their shares of the connections."""

import json

import pytest

from sessiond_server.settings import SettingError, Settings, load, scrub

MAIN, EU = "postgresql://ada:hunter2@h/main", "postgresql://h/eu?password=hunter3"
TWO = json.dumps({"main": MAIN, "eu": EU})


def _load(databases: str, default: str | None = "main", **more: str) -> Settings:
    return load({"databases": databases, "default_database": default, **more}, {})


def _many(number: int) -> str:
    return json.dumps({f"d{each}": f"postgresql://h/d{each}" for each in range(number)})


def test_the_default_database_comes_first_and_is_that_of_single_commands() -> None:
    settings = _load(TWO, "eu")
    assert settings.database_ids == ("eu", "main")
    assert settings.postgres_dsn is not None
    assert settings.postgres_dsn.reveal() == EU
    assert not settings.embedded


def test_one_dsn_is_one_database_named_default() -> None:
    assert load({}, {"DATABASE_URL": MAIN}).database_ids == ("default",)
    assert load({}, {"HOME": "/home/ada"}).database_ids == ("default",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be a JSON object"),
        ("{", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        ("{}", "must be a JSON object"),
        ("null", "must be a JSON object"),
        (MAIN, "must be a JSON object"),
        ("[" * 100_000, "must be a JSON object"),
        ('{"main": 1}', "main: must be a DSN in quotes"),
        ('{"main": {"dsn": "postgresql://h/d"}}', "main: must be a DSN in quotes"),
        ('{"main": "mysql://h/hunter2"}', "main: must start with postgresql://"),
        ('{"main": "postgresql://h/d?nope=hunter2"}', "main: has the parameter"),
        ('{"": "postgresql://h/d"}', "entry 1: the id must be"),
        ('{"a": "postgresql://h/a", "B": "postgresql://h/b"}', "entry 2: the id must be"),
        ('{"a_b": "postgresql://h/d"}', "entry 1: the id must be"),
        ('{"9a": "postgresql://h/d"}', "entry 1: the id must be"),
        (json.dumps({"a" * 33: "postgresql://h/d"}), "entry 1: the id must be"),
        ('{"a": "postgresql://h/a", "a": "postgresql://h/b"}', "has the id a twice"),
        (json.dumps({"a": MAIN, "b": EU, "c": MAIN}), "a and c have the same DSN"),
        (_many(201), "must have at most 200 databases"),
    ],
)
def test_a_wrong_map_is_refused_without_its_secrets(text: str, why: str) -> None:
    with pytest.raises(SettingError, match=f"^--databases: {why}") as caught:
        _load(text, "a", pool_size="1000")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["a", "a-9", "a" * 32])
def test_ids_may_be_as_long_as_the_rule_says(name: str) -> None:
    assert _load(json.dumps({name: MAIN}), name).database_ids == (name,)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"databases": TWO}, "^--databases needs --default-database"),
        ({"databases": TWO, "default_database": "us"}, "^--default-database names none of --databases: main, eu$"),
        ({"databases": TWO, "default_database": "Main"}, "^--default-database: must be the id"),
        ({"default_database": "main"}, "^--default-database needs --databases"),
        ({"databases": TWO, "default_database": "eu", "store": "memory"}, "needs --store postgres"),
        ({"databases": TWO, "default_database": "eu", "postgres_dsn": MAIN}, "^--databases and --postgres-dsn exclude"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(flags: dict[str, str], why: str) -> None:
    with pytest.raises(SettingError, match=why) as caught:
        load(flags, {})
    assert "hunter" not in str(caught.value)


def test_the_map_takes_the_place_of_database_url() -> None:
    settings = load({}, {"DATABASE_URL": MAIN, "SESSIOND_DATABASES": TWO, "SESSIOND_DEFAULT_DATABASE": "eu"})
    assert settings.postgres_dsn is not None
    assert settings.postgres_dsn.reveal() == EU


def test_databases_share_the_connections_equally() -> None:
    settings = _load(TWO, pool_size="31")
    assert settings.database_connections == 15
    assert settings.store_connections + settings.blob_connections + 1 == 15
    assert load({}, {"DATABASE_URL": MAIN}).database_connections == 15


def test_connections_that_cannot_be_shared_are_refused() -> None:
    assert _load(_many(200), "d7", pool_size="1000").database_connections == 5
    for number, size in ((200, "999"), (2, "9"), (4, "15")):
        with pytest.raises(SettingError, match=f"^--pool-size {size} is too small .* set it to {5 * number} or more$"):
            _load(_many(number), "d1", pool_size=size)


def test_shards_need_connections_of_each_database() -> None:
    assert _load(TWO, pool_size="20", shards="5").shards == 5
    with pytest.raises(SettingError, match=r"^--shards 6 leaves no connection for reads: .* of each database"):
        _load(TWO, pool_size="20", shards="6")


def test_secrets_of_all_databases_are_scrubbed() -> None:
    assert scrub(_load(TWO), "ada:hunter2 and hunter3") == "ada:*** and ***"
    assert "hunter" not in repr(_load(TWO))
