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
