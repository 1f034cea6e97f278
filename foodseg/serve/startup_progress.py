"""Progress of the start of the endpoint, as lines on stderr: each stage when it begins, the time now and then.

    with StartupProgress([("starting Ray", 6.0), ("loading the models", 20.0)]) as progress:
        progress.next()
        ...
        progress.note("Segmenter is ready")

It prints lines, with or without a terminal. The estimate begins with the usual time of each stage; if the finished
stages took longer, the rest is expected to take longer by the same factor.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

EVERY_SECONDS = 5.0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class StartupProgress:
    """Context manager; `next` begins the next stage."""

    def __init__(
        self,
        stages: Sequence[tuple[str, float]],
        say: Callable[[str], None] = _to_stderr,
        every: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """stages: what each does, and the seconds that it usually takes."""
        self._stages, self._say, self._every, self._clock = stages, say, every, clock
        self._began = self._stage_began = clock()
        self._index = -1
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="starting", daemon=True)

    def __enter__(self) -> "StartupProgress":
        self._say(f"starting the endpoint: about {sum(seconds for _, seconds in self._stages):.0f} s")
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._ticker.join()
        if kind is None:
            self._say(f"the endpoint is ready after {self._clock() - self._began:.0f} s")

    def next(self) -> None:
        """Begins the next stage."""
        self._index += 1
        self._stage_began = self._clock()
        self._say(f"[{self._index + 1}/{len(self._stages)}] {self._stages[self._index][0]}{self.times()}")

    def note(self, sentence: str) -> None:
        """Prints something that has happened."""
        self._say(f"  {sentence} ({self._clock() - self._began:.0f} s)")

    def times(self) -> str:
        """Returns the time so far and about what is left; "" before the first stage is over."""
        if self._index <= 0 and self._clock() - self._began < self._every:
            return ""
        over = sum(seconds for _, seconds in self._stages[: self._index])
        slower = max(1.0, (self._stage_began - self._began) / over) if over else 1.0
        now = self._clock()
        this = self._stages[max(0, self._index)][1] * slower
        left = max(1.0, this - (now - self._stage_began))
        left += slower * sum(seconds for _, seconds in self._stages[self._index + 1 :])
        return f": {now - self._began:.0f} s so far, about {left:.0f} s left"

    def _tick(self) -> None:
        while not self._over.wait(self._every):
            if self._index >= 0:
                self._say(f"  still {self._stages[self._index][0]}{self.times()}")
