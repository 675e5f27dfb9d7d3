"""The console's files: read once, answered from memory, without a key, since they hold nothing of anyone."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from sessiond_server.http.answers import Headers

FOLDER: Final = "/console/"
"""Every file is below it, and the page is at `/` too."""
PAGE: Final = "index.html"
_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY: Final = "; ".join(
    (
        *(
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' blob: data:",
        ),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"),
        "trusted-types 'none'",
    )
)
"""Nothing but these files runs, and no text becomes markup: browsers refuse the calls that would make it so."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is answered."""

    body: bytes
    etag: str
    media_type: str

    def answer(self, headers: Mapping[str, str]) -> tuple[int, Headers, bytes]:
        """Status, headers and body: 304 where the caller has this very file."""
        found = [
            ("etag", self.etag),
            ("cache-control", "no-cache"),
            ("content-security-policy", POLICY),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ]
        known = {each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")}
        if known & {self.etag, "*"}:
            return 304, found, b""
        return 200, [*found, ("content-type", self.media_type)], self.body


def assets() -> Mapping[str, Asset]:
    """All files, by the paths of requests."""
    found = {}
    for each in files("sessiond_server.http").joinpath("console").iterdir():
        ending = each.name.rpartition(".")[2]
        if ending in _TYPES:
            body = each.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[f"{FOLDER}{each.name}"] = Asset(body, etag, _TYPES[ending])
    return {"/": found[f"{FOLDER}{PAGE}"], **found}
