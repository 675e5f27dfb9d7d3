"""The table of all settings, from which flags, environment variables, help and docs/settings.md are derived."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sessiond_server import failpoints
from sessiond_server.settings import encryption, values
from sessiond_server.settings.connections import postgres_dsn, redis_url
from sessiond_server.settings.databases import ONLY, DatabaseMap, database_id, database_map
from sessiond_server.settings.urls import SecretUrl, url_without_credentials
from sessiond_server.settings.values import Address

DAY = 86400.0
HTTP_DEFAULT = Address("127.0.0.1", 50080)
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as operators see it."""

    name: str
    parse: Callable[[str], Any]
    default: str
    """The default as one would write it; or, in parentheses, a text that says what decides."""
    help: str
    kind: str
    """Form of the value, shown as the metavariable of the flag."""
    variables: tuple[str, ...]
    """Names of environment variables; the first that is set and not empty counts."""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        return self.parse is values.switch


def _setting(
    parse: Callable[[str], Any], default: str | None, kind: str, help: str, *, also: str = "", shown: str = ""
) -> Any:
    """A field of Settings with its row of the table. `default` None: not set, and `shown` says what applies then."""
    value = None if default is None else parse(default)
    shown = f"({shown})" if shown else default or ""
    return field(default=value, metadata={"parse": parse, "shown": shown, "help": help, "kind": kind, "also": also})


def _faults(text: str) -> str:
    failpoints.parse(text)
    return text


_duration = values.seconds
_count = values.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, parsed. Durations are in seconds, sizes in bytes. Only `load` creates it."""

    listen: Address = _setting(
        values.address, "127.0.0.1:50051", "HOST:PORT", "Where to listen. Port 0 takes any free one."
    )
    keys_file: Path | None = _setting(
        values.path, None, "PATH",
        "File of bearer keys (see `sessiond keys new`). With it every call needs a key. Read again when it changes.",
        shown="no keys",
    )  # fmt: skip
    allow_unauthenticated_network: bool = _setting(
        values.switch, "false", "BOOL",
        "Listen beyond loopback without keys: every client that reaches the port may read and change everything.",
    )  # fmt: skip
    tls_cert_file: Path | None = _setting(
        values.path, None, "PATH",
        "PEM certificate chain. With `tls_key_file`: serve TLS only. Both are read again when they change.",
        shown="no TLS",
    )  # fmt: skip
    tls_key_file: Path | None = _setting(
        values.path, None, "PATH", "PEM private key of `tls_cert_file`.", shown="no TLS"
    )
    tls_client_ca_file: Path | None = _setting(
        values.path, None, "PATH",
        "PEM certificates of authorities. With it, callers need a certificate of one of them, in addition to a key.",
        shown="callers need no certificate",
    )  # fmt: skip
    reflection: bool | None = _setting(
        values.switch, None, "BOOL", "Answer to gRPC server reflection, which tools such as grpcurl use.",
        shown="true with the bundled servers or the memory store, else false",
    )  # fmt: skip
    metrics_listen: Address | None = _setting(
        values.address, None, "HOST:PORT",
        "Where to serve metrics to Prometheus, over plain HTTP and without keys. Port 0 takes any free one.",
        shown="no metrics",
    )  # fmt: skip
    http_listen: Address | None = _setting(
        values.address_or_off, None, "HOST:PORT",
        "Where to serve JSON over HTTP and server-sent events (docs/http.md), with the certificates of the gRPC "
        "port if there are any. Port 0 takes any free one; `off`: nowhere.",
        shown="127.0.0.1:50080 with the bundled servers, unless `listen` is set; else off",
    )  # fmt: skip
    http_cors_origins: frozenset[str] = _setting(
        values.origins, "", "ORIGIN,...",
        "Web pages of which origins may call over HTTP, such as `https://app.example`; `*`: all.", shown="none",
    )  # fmt: skip
    http_trusted_proxies: tuple[str, ...] = _setting(
        values.networks, "", "NETWORK,...",
        "Proxies in front of HTTP whose `X-Forwarded-For` is believed: addresses or networks, such as `10.0.0.0/8`.",
        shown="none",
    )  # fmt: skip
    agentos_prefix: str | None = _setting(
        values.path_prefix, None, "PATH",
        "Serve the `/sessions` contract of the agent platform AgentOS below this path of the HTTP port, such as "
        "`/agentos` (docs/agentos.md).", shown="not served",
    )  # fmt: skip
    agentos_form: str = _setting(
        values.one_of("agentos", "go"), "agentos", "agentos|go",
        "With `agentos_prefix`: whose answers to give where they differ, those of AgentOS or of agno-Go's service.",
    )  # fmt: skip
    console: bool | None = _setting(
        values.switch, None, "BOOL",
        "Serve the web console (docs/console.md) at `/` of the HTTP port. Its files need no key; all that it shows it "
        "reads with the key that its reader types.",
        shown="true where `http_listen` is an address of loopback, else false",
    )  # fmt: skip
    store: str = _setting(
        values.one_of("postgres", "memory"), "postgres", "postgres|memory",
        "What keeps the sessions. `memory` forgets everything when it stops.",
    )  # fmt: skip
    postgres_dsn: SecretUrl | None = _setting(
        postgres_dsn, None, "DSN", "The Postgres database.",
        also="DATABASE_URL", shown="the bundled Postgres in `data_dir`",
    )  # fmt: skip
    databases: DatabaseMap | None = _setting(
        database_map, None, "JSON",
        'Several databases by their ids: `{"main": "postgresql://...", "eu": "postgresql://..."}`. Takes the place of '
        "`postgres_dsn`; see docs/databases.md.",
        shown="one database",
    )  # fmt: skip
    default_database: str | None = _setting(
        database_id, None, "ID",
        "Which of `databases` keeps the tenants that have no other home, and the map of homes. Never change it.",
        shown="required with `databases`",
    )  # fmt: skip
    migration_wait: float = _setting(
        _duration(0, DAY), "5m", "DURATION",
        "How long `serve` and `migrate` wait while another process migrates the database and completes nothing.",
    )  # fmt: skip
    require_durable: bool = _setting(
        values.switch, "false", "BOOL",
        "Refuse a database that runs with `fsync`, `full_page_writes` or `synchronous_commit` off; else only warn.",
    )  # fmt: skip
    redis_url: SecretUrl | None = _setting(
        redis_url, None, "URL", "The Redis or Valkey cache.",
        shown="the bundled Valkey with the bundled Postgres, else none",
    )  # fmt: skip
    cache_ttl: float = _setting(
        _duration(20, 3600), "60s", "DURATION",
        "Longest lifetime of a cached copy, and so the longest that a cached read can be stale after failures.",
    )  # fmt: skip
    cache_window: int = _setting(
        _count(1, 1000),
        "100",
        "N",
        "Most of a session's newest messages in the cache: the longest page that it can answer.",
    )
    data_dir: Path = _setting(
        values.path, None, "PATH", "Where the bundled servers keep their data.",
        shown="~/.local/share/sessiond or $XDG_DATA_HOME/sessiond; for root /var/lib/sessiond",
    )  # fmt: skip
    pool_size: int = _setting(
        _count(5, 1000), "15", "N",
        "Most connections to Postgres of each process: for shards, reads, transfers, health and the bus together. "
        "Several databases have equal shares of them, of 5 or more each.",
    )  # fmt: skip
    workers: int = _setting(
        values.workers, "1", "N|auto",
        "Processes that serve, on Linux and not with the memory store; `auto`: one for each processor. All limits, "
        "such as `pool_size` and `watchers`, are those of each (docs/operations.md).",
    )  # fmt: skip
    default_ttl: float = _setting(
        _duration(0, 3650 * DAY), "24h", "DURATION",
        "Lifetime of a session created with neither `ttl` nor `expire_time`, extended by every write. 0: unlimited.",
    )  # fmt: skip
    max_live_sessions: int = _setting(
        _count(0, 10**12), "0", "N", "Most sessions of one tenant that have not ended. 0: unlimited."
    )
    search: bool | None = _setting(
        values.switch, None, "BOOL",
        "Search in messages and sessions, and keep the index up to date, which costs processor time and disk "
        "(docs/search.md). Off: searches are refused.",
        shown="true with the bundled servers or the memory store, else false",
    )  # fmt: skip
    encryption_keys: str | None = _setting(
        encryption.place, None, "WHERE",
        "Encrypt contents at rest (docs/encryption.md), with the key-encryption keys of `file:PATH`, or `env`: of "
        "SESSIOND_ENCRYPTION_KEY_LINES.",
        shown="off",
    )  # fmt: skip
    encryption_writes: bool = _setting(
        values.switch, "true", "BOOL",
        "With `encryption_keys`: encrypt what is written. Off: read what is encrypted, write in the clear; so until no "
        "server runs that cannot read it.",
    )  # fmt: skip
    summariser: str = _setting(
        values.name, "off", "NAME",
        "What makes summaries of sessions by itself (docs/context.md): `off`, `extractive` (sentences of the "
        "conversation, without a model), `chat` (a server with the chat-completions interface), or the entry point of "
        "a package.",
    )  # fmt: skip
    summary_messages: int = _setting(
        _count(0, 10**6), "100", "N",
        "With a summariser: a session is summarised once so many of its messages are in no summary. 0: never for that.",
    )  # fmt: skip
    summary_tokens: int = _setting(
        _count(0, 10**9), "0", "N",
        "With a summariser: a session is summarised once messages of so many estimated tokens are in no summary. 0: "
        "never for that.",
    )  # fmt: skip
    summary_at_end: bool = _setting(
        values.switch, "true", "BOOL", "With a summariser: a session is summarised, the whole of it, when it ends."
    )
    summary_keep: int = _setting(
        _count(0, 500), "10", "N",
        "How many of a session's newest messages, or a few more, its summaries leave out until it ends: contexts have "
        "them word by word. Fewer than `summary_messages`.",
    )  # fmt: skip
    summary_input_tokens: int = _setting(
        _count(1000, 10**7), "32000", "N",
        "Most estimated tokens of the messages that one summary is made of, and a quarter of them of one message.",
    )  # fmt: skip
    summary_timeout: float = _setting(
        _duration(1, 3600), "1m", "DURATION", "How long the summariser may take for one summary."
    )
    summary_concurrency: int = _setting(
        _count(1, 64), "4", "N", "Most summaries that each process makes at a time, of each database."
    )
    summary_url: SecretUrl | None = _setting(
        url_without_credentials("http", "https"), None, "URL",
        "With the summariser `chat`: the base of its interface, such as `http://127.0.0.1:8000/v1`.", shown="none",
    )  # fmt: skip
    summary_model: str | None = _setting(
        values.model, None, "NAME", "With the summariser `chat`: the model to ask for.", shown="none"
    )
    summary_key_file: Path | None = _setting(
        values.path, None, "PATH",
        "With the summariser `chat`: file of the key to send. Read at the start.",
        shown="the environment variable OPENAI_API_KEY, else no key",
    )  # fmt: skip
    content_patches: int = _setting(
        _count(0, 1000), "64", "N",
        "Most patches that a session's content consists of besides the last whole one. 0: every change of a content is "
        "stored whole, as servers of versions before patches need it that run beside this one.",
    )  # fmt: skip
    request_retention: float = _setting(
        _duration(60, 365 * DAY), "24h", "DURATION", "How long a `request_id` is remembered."
    )
    ended_retention: float = _setting(
        _duration(0, 3650 * DAY), "0", "DURATION",
        "How long an ended session is kept in which nothing changes; then it is deleted. 0: for good. "
        "Tenants may have policies of their own.",
    )  # fmt: skip
    tombstone_retention: float = _setting(
        _duration(60, 3650 * DAY),
        "30d",
        "DURATION",
        "How long the id of a deleted session cannot be used again, and a document that ended keeps its version.",
    )
    blob_store: SecretUrl | None = _setting(
        url_without_credentials("file", "s3", "gs", "az"), None, "URL",
        "Where the bytes of attachments are stored: `s3://bucket/prefix`, `gs://bucket`, `az://account/container` or "
        "`file:///folder`, with settings such as `?region=...&endpoint=...`; credentials come from the environment.",
        shown="the Postgres database, or memory with `--store memory`",
    )  # fmt: skip
    max_message_size: int = _setting(
        values.size(2**20, 3 * 2**20), "1MiB", "BYTES",
        "Largest message, 1 MiB to 3 MiB. One append has at most 3 MiB of messages.",
    )  # fmt: skip
    max_attachment_size: int = _setting(values.size(0, 2**53 - 1), "1GiB", "BYTES", "Largest attachment. 0: unlimited.")
    max_session_attachments_size: int = _setting(
        values.size(0, 2**53 - 1), "10GiB", "BYTES",
        "Most bytes of all attachments of one session, including unfinished uploads. 0: unlimited.",
    )  # fmt: skip
    upload_retention: float = _setting(
        _duration(60, 365 * DAY), "24h", "DURATION", "How long an unfinished upload is kept after its last byte."
    )
    transfers: int = _setting(
        _count(1, 10_000), "64", "N", "Most uploads and downloads at the same time; each takes up to 3 MiB of memory."
    )
    transfer_idle: float = _setting(
        _duration(1, 45), "30s", "DURATION", "How long a transfer may wait for its client to send or receive."
    )
    pipes: int = _setting(
        _count(0, 10_000), "128", "N", "Most pipes at once (docs/pipe.md); one more gets RESOURCE_EXHAUSTED. 0: none."
    )
    pipe_calls: int = _setting(_count(1, 2048), "512", "N", "Most calls of one pipe that have no answer yet.")
    pipe_idle: float = _setting(_duration(1, DAY), "1m", "DURATION", "Time without a call after which a pipe ends.")
    longest_deadline: float = _setting(
        _duration(1, 3600), "30s", "DURATION", "A call without a deadline, or with a longer one, gets this."
    )
    sweep_interval: float = _setting(
        _duration(0.05, DAY), "5s", "DURATION", "Pause between two searches for expired sessions."
    )
    shards: int = _setting(
        _count(1, 64), "1", "N", "Batches of writes in flight at the same time, each on its own connection."
    )
    queue_commands: int = _setting(
        _count(1, 10**6), "2048", "N", "Most writes that wait in one shard; one more gets RESOURCE_EXHAUSTED."
    )
    queue_bytes: int = _setting(
        values.size(5 * MIB, 16 * 1024 * MIB), "64MiB", "BYTES", "Most request bytes that wait in one shard."
    )
    batch_commands: int = _setting(_count(1, 10_000), "128", "N", "Most writes in one transaction.")
    optimistic_writes: bool = _setting(
        values.switch, "true", "BOOL",
        "Write messages in one statement where that is possible, rather than in a transaction of five.",
    )  # fmt: skip
    batch_bytes: int = _setting(
        values.size(64 * 1024, 1024 * MIB), "4MiB", "BYTES", "Most request bytes in one transaction of several writes."
    )
    outage: float = _setting(
        _duration(0, 600), "10s", "DURATION", "How long writes are retried after Postgres became unavailable."
    )
    watchers: int = _setting(
        _count(0, 10**6), "20000", "N", "Most streams of events at once; one more gets RESOURCE_EXHAUSTED."
    )
    bookmark_interval: float = _setting(
        _duration(0.1, 3600), "10s", "DURATION", "How long a stream of events is silent before it gets a bookmark."
    )
    watch_write_timeout: float = _setting(
        _duration(0.1, 600), "10s", "DURATION",
        "How long a watcher may block the next frame; slow consumers get RESOURCE_EXHAUSTED.",
    )  # fmt: skip
    watch_age: float = _setting(
        _duration(10, DAY), "30m", "DURATION",
        "Age at which a stream of events ends, up to a tenth sooner. Its watcher reconnects, perhaps elsewhere.",
    )  # fmt: skip
    drain_pause: float = _setting(
        _duration(0, 600), "0", "DURATION",
        "On a stop: pause between reporting NOT_SERVING and refusing calls, for load balancers to notice.",
    )  # fmt: skip
    grace: float = _setting(
        _duration(0, 3600), "10s", "DURATION", "On a stop: how long calls in progress may take to finish."
    )
    uvloop: bool = _setting(values.switch, "true", "BOOL", "Run on uvloop rather than on asyncio's own loop.")
    log_level: str = _setting(
        values.one_of("debug", "info", "warning", "error"), "info", "LEVEL", "Least severe records that are logged."
    )
    access_log: str = _setting(
        values.one_of("failures", "all"), "failures", "failures|all",
        "Which calls are logged, one record each. `all` adds about a tenth to the CPU time of a small call.",
    )  # fmt: skip
    log_format: str = _setting(
        values.one_of("text", "json"), "text", "text|json", "Form of log records; json is one object a line."
    )
    failpoints: str = _setting(
        _faults, "", "PLACE=FAULT,...", "For tests of sessiond itself: faults to inject (docs/reliability.md).",
        shown="none",
    )  # fmt: skip

    @property
    def database_ids(self) -> tuple[str, ...]:
        """The ids of all databases, the default one first."""
        if self.databases is None:
            return (ONLY,)
        assert self.default_database is not None
        return (self.default_database, *(each for each in self.databases if each != self.default_database))

    @property
    def database_connections(self) -> int:
        """Connections of `pool_size` for each database."""
        return self.pool_size // len(self.database_ids)

    @property
    def blob_connections(self) -> int:
        """Connections of a database that are reserved for transfers, so that these do not take those of sessions."""
        if self.blob_store is not None or self.store == "memory":
            return 0
        return min(4, self.database_connections // 4)

    @property
    def store_connections(self) -> int:
        """Connections of a database for sessions, including one for health. The bus has one more."""
        return self.database_connections - self.blob_connections - 1

    @property
    def searches(self) -> bool:
        """Whether search is on."""
        if self.search is None:
            return self._without_database and not self.encrypts
        return self.search

    @property
    def encrypts(self) -> bool:
        """Whether contents at rest are encrypted, or may be."""
        return self.encryption_keys is not None

    @property
    def summarises(self) -> bool:
        """Whether the service makes summaries by itself."""
        return self.summariser != "off"

    @property
    def reflects(self) -> bool:
        """Whether server reflection is on."""
        return self._without_database if self.reflection is None else self.reflection

    @property
    def serves_console(self) -> bool:
        """Whether the console is served, where HTTP is."""
        if self.console is not None:
            return self.console
        return self.http_listen is not None and self.http_listen.loopback

    @property
    def _without_database(self) -> bool:
        """Whether no database of the operator's own is used: what is convenient is on then."""
        return self.embedded or self.store == "memory"

    @property
    def embedded(self) -> bool:
        """Whether the bundled Postgres is used, together with the bundled Valkey unless `redis_url` is set."""
        return self.store == "postgres" and self.postgres_dsn is None


SETTINGS: tuple[Setting, ...] = tuple(
    Setting(
        name=entry.name,
        parse=entry.metadata["parse"],
        default=entry.metadata["shown"],
        help=entry.metadata["help"],
        kind=entry.metadata["kind"],
        variables=(f"SESSIOND_{entry.name.upper()}", *filter(None, (entry.metadata["also"],))),
    )
    for entry in fields(Settings)
)


def markdown() -> str:
    """The table of docs/settings.md."""
    lines = ["| Flag | Environment | Default | What it does |", "|---|---|---|---|"]
    for setting in SETTINGS:
        flag = f"`{setting.flag}`" if setting.is_switch else f"`{setting.flag} {setting.kind}`".replace("|", "\\|")
        variables = ", ".join(f"`{variable}`" for variable in setting.variables)
        default = setting.default.strip("()") if setting.default.startswith("(") else f"`{setting.default}`"
        lines.append(f"| {flag} | {variables} | {default} | {setting.help} |")
    return "\n".join(lines) + "\n"
