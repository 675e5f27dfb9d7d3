"""Counters of the runs of one session that have ended: what GetSessionMetrics answers from, whatever their number.

Durations are counted in buckets whose bounds grow by a constant factor, so that any quantile is known to within
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
"""The value that stands for a bucket, divided by its upper bound: as far from either end of it, relative to the end."""


@dataclass(slots=True)
class RunCounters:
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total_us: int = 0
    """Durations of those that had started, together."""
    buckets: dict[int, int] = field(default_factory=dict)
    """How many of them fell into each bucket. Bucket n: up to e ** (n * _GROWTH) microseconds."""

    def add(self, status: RunStatus.ValueType, duration_us: int | None) -> None:
        """A run ended. `duration_us`: None where it had not started."""
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
        """Runs whose duration is known."""
        return sum(self.buckets.values())

    def quantile_us(self, share: float) -> int | None:
        """The duration that this share (over 0, up to 1) of the timed runs did not exceed, by nearest rank, within
        RELATIVE_ERROR; None where there is none."""
        rank = math.ceil(share * self.timed)
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                return round(math.exp(bucket * _GROWTH) * _MIDDLE) if bucket else 1
        return None

    @property
    def success_rate(self) -> float:
        """Completed ones among those that completed or failed; 0 where there is none of either."""
        decided = self.completed + self.failed
        return self.completed / decided if decided else 0.0

    def encoded(self) -> bytes:
        """As a sequence of varints."""
        numbers = [self.completed, self.failed, self.cancelled, self.total_us]
        for bucket, count in sorted(self.buckets.items()):
            numbers += (bucket, count)
        return b"".join(map(varint, numbers))

    @classmethod
    def decoded(cls, data: bytes) -> "RunCounters":
        """From `encoded`; b"" is no figures at all."""
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
