"""How much CPU an image takes, by the part of the stream that takes it.

    parts = CpuParts()
    ...                                       # images go through the stream
    parts.microseconds_an_image(images)       # {"decoders": 2200.0, "consumer": 40.0, ...}

Processes below this one are counted, and this one, which consumes the images.
"""

from collections import defaultdict
from collections.abc import Sequence

import psutil

DECODERS, READERS, COORDINATOR, CONSUMER, OTHERS = (
    "decoders", "workers of Ray", "coordinator of the split", "consumer", "raylet, GCS, others",
)  # fmt: skip


class CpuParts:
    """CPU of processes from the moment this is made on. One that ends before it is asked for is not counted."""

    def __init__(self) -> None:
        self._before = {pid: seconds for pid, (_, seconds) in _cpu_seconds().items()}

    def microseconds_an_image(self, images: int) -> dict[str, float]:
        """Returns the microseconds of CPU, user and system, of each part, divided by the images since the start."""
        parts: dict[str, float] = defaultdict(float)
        for pid, (part, seconds) in _cpu_seconds().items():
            parts[part] += (seconds - self._before.get(pid, 0.0)) * 1e6 / images
        return dict(parts)


def part_of(words: Sequence[str]) -> str:
    """Returns the part that a process with this command line belongs to."""
    if "foodseg.data.decode_process" in words:
        return DECODERS
    if words and words[0].startswith("ray::"):
        return COORDINATOR if "SplitCoordinator" in " ".join(words) else READERS
    return OTHERS


def _cpu_seconds() -> dict[int, tuple[str, float]]:
    this = psutil.Process()
    found = {}
    for process in [this, *this.children(recursive=True)]:
        try:
            times = process.cpu_times()
            part = CONSUMER if process == this else part_of(process.cmdline())
        except psutil.Error:
            continue  # it has ended since it was listed
        found[process.pid] = (part, times.user + times.system)
    return found
