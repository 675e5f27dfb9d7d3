"""Counters of one session's ended runs. GetSessionMetrics answers from them, so its cost does not grow with the runs.

Durations are counted in buckets whose bounds grow by a constant factor, so that every quantile is accurate to
RELATIVE_ERROR (as in DDSketch, Masson et al., VLDB 2019). The longest possible duration needs fewer than 400 buckets.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sessiond.v1.run_pb2 import RunStatus
from sessiond_server.domain.encoding import varint

RELATIVE_ERROR: Final = 0.05
_GROWTH: Final = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
_MIDDLE: Final = 1 - RELATIVE_ERROR
"""The value that represents a bucket, divided by the bucket's upper bound. Its relative distance to both bounds is the
same."""


@dataclass(slots=True)
class RunCounters:
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total_us: int = 0
    """Sum of the durations of runs that had started."""
    buckets: dict[int, int] = field(default_factory=dict)
    """Number of durations in each bucket. Bucket n holds durations up to e ** (n * _GROWTH) microseconds."""

    def add(self, status: RunStatus.ValueType, duration_us: int | None) -> None:
        """Counts a run that ended. `duration_us`: None if it had never started."""
        if status == RunStatus.RUN_STATUS_COMPLETED:
            self.completed += 1
        elif status == RunStatus.RUN_STATUS_FAILED:
            self.failed += 1
        else:
            self.cancelled += 1
        if duration_us is not None:
            self.total_us += duration_us
            bucket = math.ceil(math.log(duration_us) / _GROWTH) if duration_us > 1 else 0
            self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    @property
    def timed(self) -> int:
        """Number of runs with a duration."""
        return sum(self.buckets.values())

    def quantile_us(self, share: float) -> int | None:
        """The quantile of the durations at `share` (above 0, up to 1), by nearest rank, accurate to RELATIVE_ERROR.
        None without durations."""
        rank = math.ceil(share * self.timed)
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                return round(math.exp(bucket * _GROWTH) * _MIDDLE) if bucket else 1
        return None

    @property
    def success_rate(self) -> float:
        """Share of completed runs among those that completed or failed; 0 if there are none."""
        decided = self.completed + self.failed
        return self.completed / decided if decided else 0.0

    def encoded(self) -> bytes:
        """Encodes the counters as a sequence of varints."""
        numbers = [self.completed, self.failed, self.cancelled, self.total_us]
        for bucket, count in sorted(self.buckets.items()):
            numbers += (bucket, count)
        return b"".join(map(varint, numbers))

    @classmethod
    def decoded(cls, data: bytes) -> "RunCounters":
        """Decodes what `encoded` returned. b"" decodes to zeros."""
        if not data:
            return cls()
        numbers = _varints(data)
        counters = cls(next(numbers), next(numbers), next(numbers), next(numbers))
        counters.buckets = dict(zip(numbers, numbers, strict=True))
        return counters


def _varints(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0
