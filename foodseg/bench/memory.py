"""How much memory a job takes: the private pages of every process that it started, at their peak."""

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from foodseg.bench.results import MemoryPeaks

SAMPLE_SECONDS = 0.25
TITLE_LETTERS = 40  # of Ray's process titles, which continue with arguments


class PeakMemory:
    """Watches from a thread while the body of `with` runs.

    Pages shared between processes (Ray's object store, libraries) are left out: they would count once per process.

    Attributes:
        processes: per command name, bytes of the largest single process of that name at its peak.
        together: bytes of all processes together at their peak.
    """

    def __init__(self, *, with_this_process: bool = False) -> None:
        """Watches the processes below this one, and `with_this_process`, where it does part of the job, this one."""
        self.processes: dict[str, int] = {}
        self.together = 0
        self._with_this_process = with_this_process
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

    @property
    def largest(self) -> int:
        """Bytes of the largest single process at its peak."""
        return max(self.processes.values(), default=0)

    def peaks(self) -> MemoryPeaks:
        """Returns the peaks in MiB."""
        return MemoryPeaks(
            largest_process_mib=self.largest / 2**20,
            all_processes_mib=self.together / 2**20,
            processes_mib={name: size / 2**20 for name, size in sorted(self.processes.items())},
        )

    def _watch(self) -> None:
        this = psutil.Process()
        own, program = [this] if self._with_this_process else [], this.cmdline()
        while True:
            together = 0
            for process in [*own, *this.children(recursive=True)]:
                try:
                    words = process.cmdline()
                    if words == program and process != this:
                        continue  # a child has this process's pages until it runs its own program
                    name, size = command_name(words), private_bytes(process)
                except psutil.Error:
                    continue  # it has ended since it was listed
                self.processes[name] = max(self.processes.get(name, 0), size)
                together += size
            self.together = max(self.together, together)
            if self._done.wait(SAMPLE_SECONDS):
                return


def command_name(words: Sequence[str]) -> str:
    """Returns Ray's title of a process, cut at TITLE_LETTERS, or the file name of the program; "" of a dead one."""
    if words and words[0].startswith("ray::"):
        return " ".join(words).strip()[:TITLE_LETTERS]
    return Path(words[0]).name if words else ""


def private_bytes(process: psutil.Process) -> int:
    """Returns the bytes of a process that it shares with no other one."""
    info = process.memory_info()
    return int(info.rss - getattr(info, "shared", 0))  # macOS does not report shared pages
