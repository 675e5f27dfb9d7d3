"""Sessions of which the cache may hold something older than the truth. Pure, and bounded."""

from itertools import islice

from sessiond_server.domain.rows import Key
from sessiond_server.store.cached.contract import Forget


class DirtySessions:
    """At most `most` sessions, each with the version below which the cache is not to be believed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._versions: dict[Key, int] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._versions

    def __len__(self) -> int:
        return len(self._versions)

    def add(self, key: Key, version: int) -> bool:
        """False when that is one too many: nothing is known any more, and the cache as a whole not to be believed."""
        self._versions[key] = max(version, self._versions.get(key, 0))
        if len(self._versions) <= self._most:
            return True
        self._versions.clear()
        return False

    def oldest(self, most: int) -> list[Forget]:
        """What must be told to the cache, the oldest first."""
        return [Forget(key, version) for key, version in islice(self._versions.items(), most)]

    def clean(self, key: Key, version: int) -> None:
        """The cache believes nothing below `version` any more."""
        if self._versions.get(key, version + 1) <= version:
            del self._versions[key]

    def postpone(self, key: Key) -> None:
        """Others first: this one could not be told."""
        if (version := self._versions.pop(key, None)) is not None:
            self._versions[key] = version
