"""How much memory a job takes: its own pages of this process and of everything that it started, at their peak."""

import os
import threading
from types import TracebackType

import psutil

SAMPLE_SECONDS = 0.25


class PeakMemory:
    """Watches from a thread while the body of `with` runs.

    Pages shared between processes (Ray's object store, libraries) are left out: they would count once per process.

    Attributes:
        largest: bytes of the largest single process at its peak.
        together: bytes of all processes together at their peak.
    """

    def __init__(self) -> None:
        self.largest = 0
        self.together = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def to_json(self) -> dict[str, float]:
        """Returns both peaks in MiB."""
        return {"largest_process_mib": self.largest / 2**20, "all_processes_mib": self.together / 2**20}

    def _watch(self) -> None:
        own = psutil.Process(os.getpid())
        while True:
            sizes = [_private_bytes(process) for process in [own, *own.children(recursive=True)]]
            self.largest = max(self.largest, *sizes)
            self.together = max(self.together, sum(sizes))
            if self._done.wait(SAMPLE_SECONDS):
                return


def _private_bytes(process: psutil.Process) -> int:
    try:
        info = process.memory_info()
    except psutil.Error:
        return 0  # it has ended since it was listed
    return int(info.rss - getattr(info, "shared", 0))  # macOS does not tell shared pages
