"""Errors that tell the operator why the service cannot start, or lacks a part, and what to do about it."""

from sessiond_server.settings import Address, SecretUrl


class CannotListen(Exception):
    """Another process uses the address, or it is not an address of this machine."""

    def __init__(self, address: Address, flag: str) -> None:
        super().__init__(
            f"cannot listen on {address}: it is taken, or not an address of this machine.\n"
            f"  Choose another one with {flag}; port 0 takes any free one"
        )


class CannotReachBlobs(Exception):
    """The storage of attachments does not answer, or answers with an error."""

    def __init__(self, url: SecretUrl, why: str) -> None:
        super().__init__(
            f"the storage of attachments cannot be reached at {url}: {why}.\n"
            "  Uploads and downloads are refused until it can; all else works. Check --blob-store and its credentials"
        )


def message_for_operator(error: Exception) -> str | None:
    """The text that a command ends with; None for an unforeseen error, whose traceback is shown."""
    # Imported here, since some of these modules import this one.
    from sessiond_server.app.database import why
    from sessiond_server.auth import KeysFileInvalid
    from sessiond_server.embedded import EmbeddedError
    from sessiond_server.errors import StoreUnavailable
    from sessiond_server.postgres.fitness import DatabaseUnfit
    from sessiond_server.rpc.tls import TlsInvalid

    if isinstance(error, StoreUnavailable):
        return f"{error}: {why(error)}\n  sessiond check, with the same settings, says more"
    if isinstance(error, CannotListen | KeysFileInvalid | TlsInvalid | EmbeddedError | DatabaseUnfit | OSError):
        return str(error)
    return None
