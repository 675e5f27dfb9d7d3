"""Why the service cannot start or be of full use, in words for the operator: what is wrong, and what to do about it."""

from sessiond_server.settings import Address, SecretUrl


class CannotListen(Exception):
    """The address is another process's, or not this machine's."""

    def __init__(self, address: Address, flag: str) -> None:
        super().__init__(
            f"cannot listen on {address}: it is taken, or not an address of this machine.\n"
            f"  Choose another one with {flag}; port 0 takes any free one"
        )


class CannotReachBlobs(Exception):
    """The storage of attachments does not answer, or not as it should."""

    def __init__(self, url: SecretUrl, why: str) -> None:
        super().__init__(
            f"the storage of attachments cannot be reached at {url}: {why}.\n"
            "  Uploads and downloads are refused until it can; all else works. Check --blob-store and its credentials"
        )
