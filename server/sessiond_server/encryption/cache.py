"""A cache whose copies of sessions are encrypted."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from sessiond_server.domain.rows import Key
from sessiond_server.encryption.envelope import DataKey, Kind, NotAuthentic, is_sealed, sealed_by
from sessiond_server.encryption.keyring import Keyring
from sessiond_server.store.cached.contract import Cache, Change, Copy, Forget, Put, message_of, placed, seq_of

T = TypeVar("T")
U = TypeVar("U")


class SealedCache:
    """Implements `store.cached.contract.Cache` on another one.

    It does not wait for keys: a copy of a tenant whose keys are not at hand is None, and a copy that cannot be sealed
    is not put. A copy that is not of its place is None too, and so is one in the clear, unless this server writes in
    the clear itself.
    """

    def __init__(self, cache: Cache, keyring: Keyring) -> None:
        self._cache = cache
        self._keyring = keyring
        self.moment = cache.moment
        self.new_epoch = cache.new_epoch
        self.became_ready = cache.became_ready
        self.state = cache.state
        self.limits = cache.limits

    @property
    def ready(self) -> bool:
        return self._cache.ready

    def get(self, key: Key, *, content: bool = False, newest: int = 0) -> "asyncio.Future[Copy | None]":
        answer: asyncio.Future[Copy | None] = asyncio.get_running_loop().create_future()
        keys = self._keyring.known(key[0])
        if keys is None or keys.refusal is not None:
            answer.set_result(None)
            return answer
        asked, clear = self._cache.get(key, content=content, newest=newest), not self._keyring.seals

        def opened(copy: Copy | None) -> Copy | None:
            try:
                return None if copy is None else _opened(keys.by_id, key[1], copy, clear=clear)
            except (NotAuthentic, KeyError):
                return None

        asked.add_done_callback(partial(_settle, answer, opened))
        return answer

    def put(self, changes: Sequence[Change]) -> "asyncio.Future[Sequence[bool]]":
        sealed = [self._sealed(change) for change in changes]
        taken = [change for change in sealed if change is not None]
        if len(taken) == len(changes):
            return self._cache.put(taken)
        answer: asyncio.Future[Sequence[bool]] = asyncio.get_running_loop().create_future()

        def of_all(put: Sequence[bool]) -> Sequence[bool]:
            results = iter(put)
            return [False if change is None else next(results) for change in sealed]

        self._cache.put(taken).add_done_callback(partial(_settle, answer, of_all))
        return answer

    def offer(self, put: Put) -> None:
        sealed = self._sealed(put)
        if isinstance(sealed, Put):
            self._cache.offer(sealed)

    def _sealed(self, change: Change) -> Change | None:
        if isinstance(change, Forget) or not self._keyring.seals:
            return change
        keys = self._keyring.known(change.key[0])
        if keys is None or keys.active is None or keys.refusal is not None:
            return None
        return change._replace(copy=_sealed_copy(keys.active, change.key[1], change.copy))


def _settle(answer: "asyncio.Future[U]", made: Callable[[T], U], inner: "asyncio.Future[T]") -> None:
    """Settles `answer` with what is made of the inner answer, whatever has come of that: nobody waits for ever."""
    if answer.done():
        return
    if inner.cancelled():
        answer.cancel()
        return
    try:
        answer.set_result(made(inner.result()))
    except Exception as error:
        answer.set_exception(error)


def _sealed_copy(key: DataKey, log: str, copy: Copy) -> Copy:
    seal, content, messages = key.seal, copy.content, []
    for message in copy.messages:
        seq = seq_of(message)
        messages.append(placed(seq, seal(Kind.CACHED_MESSAGE, log, seq, message_of(message))))
    return copy._replace(
        core=seal(Kind.CACHED_CORE, log, copy.version, copy.core),
        content=seal(Kind.CACHED_CONTENT, log, copy.content_version, content) if content else content,
        messages=messages,
    )


def _opened(keys: dict[int, DataKey], log: str, copy: Copy, *, clear: bool) -> Copy:
    """`clear`: values may be in the clear. Raises NotAuthentic, KeyError."""
    content, messages = copy.content, []
    for message in copy.messages:
        seq = seq_of(message)
        messages.append(placed(seq, _open(keys, Kind.CACHED_MESSAGE, log, seq, message_of(message), clear)))
    return copy._replace(
        core=_open(keys, Kind.CACHED_CORE, log, copy.version, copy.core, clear),
        content=_open(keys, Kind.CACHED_CONTENT, log, copy.content_version, content, clear) if content else content,
        messages=messages,
    )


def _open(keys: dict[int, DataKey], kind: Kind, log: str, item: int, data: bytes, clear: bool) -> bytes:
    if not is_sealed(data):
        if clear:
            return data
        raise NotAuthentic("a cached value is not encrypted")
    return keys[sealed_by(data)].opened(kind, log, item, data)
