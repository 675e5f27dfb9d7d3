"""How many processors this process may use."""

import math
import os
import sys
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")


def available(cgroups: Path = CGROUPS) -> int:
    """Processors that the system gives to this process, and no more than its container's limit of processor time is
    worth, rounded up. 1 where that is not known."""
    if sys.platform != "linux":
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), math.ceil(_limit(cgroups))))


def _limit(cgroups: Path) -> float:
    """The container's limit in processors, by either version of cgroups; infinite if there is none."""
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (cgroups / quota_file).read_text().split()
            if period_file is not None:
                words += (cgroups / period_file).read_text().split()
            quota, period = words
            return int(quota) / int(period) if int(quota) > 0 else sys.maxsize
        except (OSError, ValueError):
            continue  # there is no such file, or it says `max`
    return sys.maxsize
