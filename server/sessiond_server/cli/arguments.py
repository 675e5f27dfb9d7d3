"""The arguments of `sessiond` and of its commands."""

import argparse
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final, NoReturn

from sessiond_server.settings import add_flags

_OPTION: Final = re.compile(r"--[a-z][a-z-]*")
_DATABASE = ("store", "postgres_dsn", "databases", "default_database", "pool_size", "data_dir")
_PROBE = ("listen", "tls_cert_file", "tls_key_file", "tls_client_ca_file")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors do not quote misplaced arguments, which may be URLs with passwords."""

    given: Sequence[str] | None = None
    """What the user typed; None: sys.argv."""

    def error(self, message: str) -> NoReturn:
        for argument in sorted(sys.argv[1:] if self.given is None else self.given, key=len, reverse=True):
            name, _, value = argument.partition("=")
            for secret in (argument, value) if not _OPTION.fullmatch(name) else (value,):
                if secret:
                    message = message.replace(repr(secret), "***").replace(secret, "***")
        super().error(message)


def command_line(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """A parser for `arguments`; None: for those of the process."""
    _Parser.given = arguments  # of the class, for the parsers of the commands
    parser = _Parser(
        prog="sessiond",
        description="Keeps the conversations of AI agents and chat applications.",
        epilog="`sessiond serve` needs no settings: it brings its own Postgres. `sessiond COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="version", version=f"sessiond {version('sessiond')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    serve = commands.add_parser(
        "serve", help="run the service", description="Runs the service until SIGTERM or Ctrl-C."
    )
    add_flags(serve)
    migrate = commands.add_parser(
        "migrate", help="bring the database's schema to this version", description="Brings the schema to this version."
    )
    add_flags(migrate, (*_DATABASE, "migration_wait", "require_durable"))
    check = commands.add_parser(
        "check",
        help="check that everything is there that serve needs",
        description="Checks everything that serve needs, and says what to do. Exits with 1 if a check fails.",
    )
    check.add_argument(
        "--production", action="store_true", help="go through the checklist for production of docs/operations.md too"
    )
    check.add_argument(
        "--replicas",
        type=_positive,
        default=1,
        metavar="N",
        help="with --production: most replicas that run on the database at the same time (default: 1)",
    )
    add_flags(check)
    show = commands.add_parser(
        "show",
        help="print a session and its log, including contents",
        description="Prints a session and its log from the database, including contents.",
    )
    show.add_argument("session", metavar="SESSION", help="id of the session")
    show.add_argument("--tenant", default="default", help="whose session (default: default)")
    show.add_argument("--full", action="store_true", help="do not truncate texts, and show what each event wrote")
    add_flags(show, (*_DATABASE, "encryption_keys"))
    _add_transfers(commands)
    keys = commands.add_parser("keys", help="make bearer keys", description="Bearer keys.")
    new = keys.add_subparsers(dest="action", metavar="ACTION", required=True).add_parser(
        "new",
        help="create a key",
        description="Creates a key: prints its entry for the keys file on standard output, the key on standard error.",
        epilog="Example: sessiond keys new --name billing --tenant acme >> keys.toml",
    )
    new.add_argument("--name", required=True, help="name of its user, which the log of a session shows")
    new.add_argument("--tenant", default="default", help="tenant whose sessions it opens (default: default)")
    new.add_argument("--user", default="", help="restricts it to sessions of this user (default: all users)")
    new.add_argument(
        "--scope",
        action="append",
        default=[],
        help="what it allows; may be repeated (default: sessions:read, sessions:write)",
    )
    new.add_argument(
        "--expires",
        default="",
        metavar="WHEN",
        help="a duration such as 90d, or a time such as 2027-01-31T00:00:00Z (default: never)",
    )
    search = commands.add_parser("search", help="the index of searches", description="The index of searches.")
    rebuild = search.add_subparsers(dest="action", metavar="ACTION", required=True).add_parser(
        "rebuild",
        help="build it anew",
        description="Builds the index of searches anew, beside the one that answers, while the service runs. After "
        "Ctrl-C or a failure a running server with search on goes on with it, and so does the same command.",
    )
    rebuild.add_argument("--tenant", default="", help="whose index (default: of all tenants)")
    add_flags(rebuild, _DATABASE)
    _add_databases(commands.add_parser("databases", help="several databases", description="Several databases."))
    _add_encryption(commands.add_parser("encryption", help="encryption at rest", description="Encryption at rest."))
    probe = commands.add_parser(
        "healthcheck",
        help="ask the running service for its health",
        description="Exits with 0 if the service reports SERVING, else with 1.",
    )
    probe.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="(default: 3)")
    add_flags(probe, _PROBE)
    commands.add_parser("settings", help="print the table of all settings", description="Prints all settings.")
    return parser


def _add_transfers(commands: "argparse._SubParsersAction[_Parser]") -> None:
    export = commands.add_parser(
        "export",
        help="write a session to a file",
        description="Writes a session with all it has to standard output, or to a file. A cut export goes on.",
        epilog="Examples: sessiond export chat-1 > chat-1.jsonl; sessiond export --user ann --output ann",
    )
    export.add_argument("session", metavar="SESSION", nargs="?", default="", help="id of the session")
    export.add_argument("--user", default="", help="instead: all sessions and documents of this user, to a folder")
    export.add_argument(
        "--output", "-o", metavar="FILE", help="the file, which appears when it is complete; with --user the folder"
    )
    imported = commands.add_parser(
        "import",
        help="make sessions of exported files, or of another system's",
        description="Makes a session of each exported file, and nothing of one that is damaged; or all sessions of the "
        "files of another system: import KIND FILE. Each is imported once. After Ctrl-C or a failure the same command "
        "goes on. Exits with 1 if something was not imported.",
        epilog="Kinds: sessions-file (SQLite), coding-agent (SQLite or JSON), chat-lines (JSON lines), chatgpt "
        "(conversations.json), adk (SQLite). Example: sessiond import chatgpt conversations.json --dry-run",
    )
    imported.add_argument(
        "file", metavar="[KIND] FILE", nargs="+", help="a file that was exported, or a kind and files of that kind"
    )
    imported.add_argument(
        "--as", dest="session_id", default="", metavar="SESSION", help="id of the session to make, of one exported file"
    )
    imported.add_argument("--dry-run", action="store_true", help="with a kind: only say what would be imported")
    imported.add_argument("--prefix", default="", metavar="TEXT", help="with a kind: goes before the ids of sessions")
    for command in (export, imported):
        command.add_argument(
            "--server",
            default="127.0.0.1:50051",
            metavar="HOST:PORT",
            help="the running service (default: 127.0.0.1:50051)",
        )
        command.add_argument("--key-file", metavar="FILE", help="a file with the bearer key (default: no key)")
        command.add_argument("--ca-file", metavar="FILE", help="use TLS, and trust these authorities (default: no TLS)")


def _add_encryption(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    names = (*_DATABASE, "encryption_keys")
    new = actions.add_parser(
        "new-key",
        help="make a key-encryption key",
        description="Prints a line with a new key for the file of --encryption-keys.",
        epilog="Example: sessiond encryption new-key --id 2026-11 >> keys",
    )
    new.add_argument("--id", required=True, help="its id: letters, digits, dots and dashes")
    shown = actions.add_parser(
        "status", help="say what is encrypted by which keys", description="Says which keys there are."
    )
    rotate = actions.add_parser(
        "rotate",
        help="make new data keys",
        description="Gives tenants a new data key for what they write from now on. The older ones still decrypt.",
    )
    rewrap = actions.add_parser(
        "rewrap",
        help="wrap data keys anew",
        description="Wraps all data keys by the first key of --encryption-keys. Then no other one is needed.",
    )
    again = actions.add_parser(
        "reencrypt",
        help="encrypt what is in the clear, or by an older data key",
        description="Encrypts what was written in the clear, or with an older data key. Safe to interrupt and repeat.",
    )
    shred = actions.add_parser(
        "shred",
        help="destroy the keys of a tenant",
        description="Destroys the data keys of a tenant: what it has stored can never be read again.",
    )
    shred.add_argument("tenant", metavar="TENANT", help="the tenant, as in the keys file")
    shred.add_argument("--confirm", default="", metavar="TENANT", help="the tenant once more")
    for command in (rotate, again):
        command.add_argument("--tenant", default="", help="of this tenant (default: of all)")
    for command in (shown, rotate, rewrap, again, shred):
        add_flags(command, names)


def _add_databases(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    names = ("databases", "default_database", "pool_size", "migration_wait", "require_durable")
    listed = actions.add_parser(
        "list",
        help="print all databases",
        description="Prints each database, how many tenants have it as their home, and whether it can be used. Exits "
        "with 1 if one cannot.",
    )
    add_flags(listed, names)
    add = actions.add_parser(
        "add",
        help="bring an empty database into use",
        description="Migrates an empty database, and gives it its id. Safe to repeat.",
    )
    which = add.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", metavar="ID", help="id of the database in --databases")
    which.add_argument("--all", action="store_true", help="all of --databases, of which those in use are only migrated")
    add_flags(add, names)
    place = actions.add_parser(
        "place",
        help="give a new tenant its home",
        description="Makes a database the home of a tenant that has no data yet. Safe to repeat.",
    )
    place.add_argument("tenant", metavar="TENANT", help="the tenant, as in the keys file")
    place.add_argument("--to", required=True, metavar="ID", help="id of the database")
    add_flags(place, names)
    move = actions.add_parser(
        "move",
        help="move a tenant to another database",
        description="Moves a tenant with all its data to another database, while the service runs. After any failure, "
        "the same command goes on. Needs PostgreSQL 15 or newer, and wal_level = logical where the tenant lives.",
    )
    move.add_argument("tenant", metavar="TENANT", help="the tenant, as in the keys file")
    move.add_argument("--to", metavar="ID", help="id of the database")
    move.add_argument("--abort", action="store_true", help="undo a move that has not reached the new database yet")
    add_flags(move, names)


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10_000:
        raise ValueError
    return value
