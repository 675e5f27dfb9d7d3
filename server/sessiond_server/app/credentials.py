"""Reloads keys and certificates when their files change, and ends the streams of keys that expire."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from sessiond_server import auth
from sessiond_server.reloading import Look, Reloaded
from sessiond_server.rpc.server import RpcServer
from sessiond_server.rpc.tls import Certificates, Context, TlsFiles, TlsInvalid
from sessiond_server.settings import Settings

_log = logging.getLogger("sessiond.app")

EXPIRY_PAUSE: Final = 1.0
"""Seconds between two checks for expired keys."""


def tls_files(settings: Settings) -> TlsFiles | None:
    """Paths of the certificates; None without TLS."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return TlsFiles(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)


def reloaded(
    settings: Settings,
    authenticator: auth.Authenticator,
    certificates: Certificates | None,
    http: Context | None,
    server: RpcServer,
    began: Look,
) -> Sequence[Reloaded]:
    """The files that are read again while the service runs. `began`: how they were before they were first read."""
    found = []
    if (keys_file := settings.keys_file) is not None:

        def load_keys() -> Callable[[], str]:
            keys = auth.load_keys(keys_file)

            def use() -> str:
                authenticator.use(keys)
                ended = server.revoke(authenticator.holds)
                return f"{len(keys)} in {keys_file}" + (f"; {ended} streams end" if ended else "")

            return use

        found.append(Reloaded("keys", (keys_file,), load_keys, (auth.KeysFileInvalid,), began[:1]))
    files = tls_files(settings)
    if files is not None and certificates is not None:

        def load_certificates() -> Callable[[], str]:
            material = files.read()

            def use() -> str:
                certificates.use(material)
                if http is not None:
                    http.use(files)
                return f"{files.certificate}, for connections from now on"

            return use

        found.append(
            Reloaded("certificates", files.paths, load_certificates, (TlsInvalid,), began[-len(files.paths) :])
        )
    return found


async def expire_keys(authenticator: auth.Authenticator, server: RpcServer) -> None:
    """Ends the streams of keys that expire, until cancelled. Authentication itself refuses new calls."""
    while True:
        await asyncio.sleep(EXPIRY_PAUSE)
        if authenticator.some_expired() and (ended := server.revoke(authenticator.holds)):
            _log.info("a key or a session token has expired: %d streams end", ended)
