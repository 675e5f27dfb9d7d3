"""Columns that are searched: keyed tokens in the place of words, by which containment still can be asked."""

import base64
import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

from sessiond_server.encryption.envelope import DataKey

_TOKEN_BYTES: Final = 12
_MARK: Final = "sessiond:tokens"
"""The member by which stored tokens are told from metadata in the clear."""


def metadata_tokens(key: DataKey, text: str, *, stored: bool = False) -> str:
    """JSON of the same form as the object `text`, in which every name and every value but null is a token.

    The same name or value always becomes the same token, so containment holds of the tokens where it holds of the
    words. Numbers that are equal have one token, as in jsonb. `stored`: it is marked as tokens.
    """
    tokens = _tokens(json.loads(text), _hashing(key))
    return json.dumps(tokens | {_MARK: 1} if stored else tokens)


def is_tokens(text: str) -> bool:
    """Whether stored metadata is tokens."""
    return f'"{_MARK}": 1' in text and json.loads(text).get(_MARK) == 1


def _hashing(key: DataKey) -> Callable[[str], str]:
    secret = key.derived(b"metadata")

    def token(text: str) -> str:
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_TOKEN_BYTES, key=secret).digest()
        return base64.urlsafe_b64encode(digest).decode()

    return token


def _tokens(value: Any, token: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {token("k" + name): _tokens(item, token) for name, item in value.items()}
    if isinstance(value, list):
        return [_tokens(item, token) for item in value]
    if value is None:
        return None
    if isinstance(value, str):
        return token("s" + value)
    if isinstance(value, bool):
        return token(f"b{value}")
    return token(f"n{float(value) + 0.0!r}")
