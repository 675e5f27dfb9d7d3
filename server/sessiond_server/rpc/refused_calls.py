"""Counts calls that were refused to protect the service or other callers, by reason."""

from collections.abc import Mapping

from sessiond_server.errors import REFUSALS


class RefusedCalls:
    """Counts of all REFUSALS. Only the loop writes them; other threads may read `counts`, whose keys never change."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(REFUSALS, 0)

    @property
    def counts(self) -> Mapping[str, int]:
        return self._counts

    def count(self, refusal: str) -> None:
        """Counts one refusal. Raises KeyError for a reason that is not in REFUSALS."""
        self._counts[refusal] += 1
