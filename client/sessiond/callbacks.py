"""What callers of the synchronous client pass to it, as the asynchronous client takes it. All of it is called in the
thread that waits for the call."""

import os
from collections.abc import AsyncIterator, Iterable, Iterator
from inspect import iscoroutinefunction
from typing import Protocol, TypeVar, cast, overload

from sessiond.loop_thread import in_caller, leave, tell_caller, wait
from sessiond.positions import PositionStore
from sessiond.transfer import Progress, Source

Item = TypeVar("Item")

SyncSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Iterable[bytes]
"""The source of an upload; a str is a path."""


class SyncPositionStore(Protocol):
    """Keeps one position, as PositionStore does, with plain methods."""

    def load(self) -> str | None:
        """Returns the position that was saved last; None where none was."""
        ...

    def save(self, position: str) -> None:
        """Replaces the stored position before it returns. There is never more than one call at a time."""
        ...


class _Store:
    def __init__(self, store: SyncPositionStore) -> None:
        self._store = store

    async def load(self) -> str | None:
        return await in_caller(self._store.load)

    async def save(self, position: str) -> None:
        await in_caller(self._store.save, position)


def async_store(store: PositionStore | SyncPositionStore | None) -> PositionStore | None:
    """A store with coroutines, such as FilePositions, stays what it is."""
    if store is None or iscoroutinefunction(store.load):
        return cast("PositionStore | None", store)
    return _Store(cast("SyncPositionStore", store))


def async_source(source: SyncSource) -> Source:
    """An iterator is read in the caller's thread."""
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        return source
    return _read(iter(source))


async def _read(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await in_caller(next, pieces, None)) is not None:
        yield piece


@overload
def async_progress(progress: Progress) -> Progress: ...


@overload
def async_progress(progress: Progress | None) -> Progress | None: ...


def async_progress(progress: Progress | None) -> Progress | None:
    """The caller's thread gets the newest figures: the transfer does not wait for it."""
    return None if progress is None else _Progress(progress)


class _Progress:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._newest: tuple[int, int] | None = None
        """The figures that the caller's thread has not been given yet. At most one call of it is in its inbox."""

    def __call__(self, done: int, whole: int) -> None:
        waiting, self._newest = self._newest, (done, whole)
        if waiting is None:
            tell_caller(self._tell)

    def _tell(self) -> None:
        figures, self._newest = self._newest, None
        if figures is not None:
            self._progress(*figures)


class SyncIterator(Iterator[Item]):
    """A plain iterator over what an async iterator yields; a context manager. For one thread at a time. After an error,
    the next step tries again. `close` ends it."""

    def __init__(self, inner: AsyncIterator[Item]) -> None:
        self._inner: AsyncIterator[Item] | None = inner

    def __iter__(self) -> "SyncIterator[Item]":
        return self

    def __next__(self) -> Item:
        if self._inner is None:
            raise StopIteration
        return following(self._inner)

    def close(self) -> None:
        """Ends the iteration. Idempotent."""
        inner, self._inner = self._inner, None
        if (aclose := getattr(inner, "aclose", None)) is not None:
            leave(aclose())

    def __enter__(self) -> "SyncIterator[Item]":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def following(inner: AsyncIterator[Item]) -> Item:
    """Returns the next item of an async iterator; one that has been received already without a way through the loop.
    Raises StopIteration."""
    if (held := getattr(inner, "held", None)) is not None and (item := held()) is not None:
        return cast("Item", item)
    try:
        return wait(_step(inner))
    except StopAsyncIteration:
        raise StopIteration from None


async def _step(inner: AsyncIterator[Item]) -> Item:
    return await anext(inner)
