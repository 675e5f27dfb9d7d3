"""Tracks the sessions whose cache entry may be stale. Pure and bounded."""

from itertools import islice

from sessiond_server.domain.rows import Key
from sessiond_server.store.cached.contract import Forget


class DirtySessions:
    """At most `most` sessions, each with the version below which a cache entry is stale."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._versions: dict[Key, int] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._versions

    def __len__(self) -> int:
        return len(self._versions)

    def add(self, key: Key, version: int) -> bool:
        """Adds a session. Returns False if the limit is exceeded: the set is then emptied, and the caller must
        invalidate the whole cache."""
        self._versions[key] = max(version, self._versions.get(key, 0))
        if len(self._versions) <= self._most:
            return True
        self._versions.clear()
        return False

    def oldest(self, most: int) -> list[Forget]:
        """The Forgets to send to the cache, oldest first, at most `most`."""
        return [Forget(key, version) for key, version in islice(self._versions.items(), most)]

    def clean(self, key: Key, version: int) -> None:
        """Removes the session if the cache has taken a Forget at `version` and no higher one is due."""
        if self._versions.get(key, version + 1) <= version:
            del self._versions[key]

    def postpone(self, key: Key) -> None:
        """Moves the session to the end: its Forget could not be sent."""
        if (version := self._versions.pop(key, None)) is not None:
            self._versions[key] = version
