"""The command `sessiond`. Exit codes: 0 success, 1 failure, 2 wrong usage."""

import argparse
import sys
from collections.abc import Sequence

from sessiond_server import telemetry
from sessiond_server.cli import ending
from sessiond_server.cli.arguments import command_line
from sessiond_server.settings import SETTINGS, Settings, load, markdown


def process() -> int:
    """Runs `main`, and ends the process so that its exit code cannot be lost."""
    return ending.ended(main())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(arguments)
    asked = parser.parse_args(arguments)
    if asked.command is None:
        parser.print_help()
        return 2
    settings = None
    try:
        settings = load({setting.name: getattr(asked, setting.name, None) for setting in SETTINGS})
        # All commands log through telemetry; `serve` configures it again from its settings.
        telemetry.configure("warning", "text", str)
        return _run(asked, settings)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return ending.code_of(error, settings)


def _run(asked: argparse.Namespace, settings: Settings) -> int:
    # Each command is imported only when it runs: a probe must not load the rules, and `--help` must load nothing.
    if asked.command == "serve" and settings.workers > 1:
        from sessiond_server.cli import supervise

        return supervise.run(settings)
    if asked.command == "serve":
        from sessiond_server.cli import serve

        return serve.run(settings)
    if asked.command == "migrate":
        from sessiond_server.cli import migrate

        return migrate.run(settings)
    if asked.command == "check":
        from sessiond_server.cli import check

        return check.run(settings, asked.replicas if asked.production else None)
    if asked.command == "databases":
        from sessiond_server.cli import databases

        if asked.action == "add":
            return databases.add_all(settings) if asked.all else databases.add(settings, asked.id)
        if asked.action == "place":
            return databases.place(settings, asked.tenant, asked.to)
        if asked.action == "move":
            from sessiond_server.cli import move

            return move.run(settings, asked.tenant, asked.to, abort=asked.abort)
        return databases.show(settings)
    if asked.command == "show":
        from sessiond_server.cli import show

        return show.run(settings, asked.session, asked.tenant, asked.full)
    if asked.command in ("export", "import"):
        from sessiond_server.cli import transfer

        service = transfer.Service(asked.server, asked.key_file, asked.ca_file)
        if asked.command == "export" and asked.user:
            return transfer.export_user(service, asked.user, asked.session, asked.output)
        if asked.command == "export":
            return transfer.export_session(service, asked.session, asked.output)
        from sessiond_server.cli import sources

        return sources.run(service, asked.file, asked.session_id, asked.prefix, dry_run=asked.dry_run)
    if asked.command == "search":
        from sessiond_server.cli import search

        return search.rebuild(settings, asked.tenant)
    if asked.command == "encryption":
        from sessiond_server.cli import encryption

        if asked.action == "new-key":
            return encryption.new_key(asked.id)
        if asked.action == "rotate":
            return encryption.rotate(settings, asked.tenant)
        if asked.action == "rewrap":
            return encryption.rewrap(settings)
        if asked.action == "reencrypt":
            return encryption.reencrypt(settings, asked.tenant)
        if asked.action == "shred":
            return encryption.shred(settings, asked.tenant, asked.confirm)
        return encryption.status(settings)
    if asked.command == "healthcheck":
        from sessiond_server.cli import healthcheck

        return healthcheck.run(settings, asked.timeout)
    if asked.command == "keys":
        from sessiond_server.cli import keys

        return keys.run(asked.name, asked.tenant, asked.user, asked.scope, asked.expires)
    print(markdown(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(process())
