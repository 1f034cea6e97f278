"""A progress bar on stderr with an estimate of the time left; plain lines where stderr is not a terminal."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Context manager: `with Progress("checking images", 598) as bar: bar.advance(16)`."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._terminal = sys.stderr.isatty()
        self._last = self._start = time.monotonic()
        self._bar = RichProgress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True),
        )  # fmt: skip

    def __enter__(self) -> "Progress":
        if self._terminal:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total)
        return self

    def advance(self, count: int) -> None:
        """Counts `count` more items as done."""
        self._done += count
        if self._terminal:
            self._bar.advance(self._task, count)
        elif time.monotonic() - self._last > _SECONDS_BETWEEN_LINES and self._done < self._total:
            self._last = time.monotonic()
            left = (self._last - self._start) * (self._total - self._done) / max(1, self._done)
            print(f"{self._title}: {self._done}/{self._total}, about {left:.0f} s left", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._bar.stop()
        elif kind is None:
            print(f"{self._title}: {self._done} in {time.monotonic() - self._start:.1f} s", file=sys.stderr, flush=True)
