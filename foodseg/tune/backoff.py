"""When the next trial may begin after one was interrupted.

What a trial needs beside itself (room on the cluster, MLflow, storage) all trials need. While it is away, each trial
that began would be interrupted as soon, and a sweep that is left alone would have none left by the morning.
"""

import time

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0  # seconds
PAUSES = 40  # in a row, of which each doubles up to the longest: some six hours
ATTEMPTS = 3  # of one trial, while others come to their end: then what interrupts it is its own


class Patience:
    """Pauses that grow while trials are interrupted, and are over when one comes to its end."""

    def __init__(self) -> None:
        self._pauses, self._until, self._ended = 0, float("-inf"), 0
        self._alone: dict[str, set[int]] = {}  # how many had ended whenever this one was interrupted

    def interrupted(self, name: str) -> bool:
        """Begins a pause, unless one lasts; returns whether this trial is to be tried once more."""
        if not self.lasts():
            self._pauses += 1
            self._until = time.monotonic() + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._pauses - 1))
        alone = self._alone.setdefault(name, set())
        alone.add(self._ended)
        return len(alone) < ATTEMPTS

    def ended(self) -> None:
        """A trial came to its end, whichever: what all need is there."""
        self._pauses, self._until = 0, float("-inf")
        self._ended += 1

    def lasts(self) -> bool:
        """Whether nothing may begin yet."""
        return time.monotonic() < self._until

    def is_over(self) -> bool:
        """Whether nothing may begin any more."""
        return self._pauses > PAUSES

    @property
    def in_doubt(self) -> bool:
        """Whether nothing has come to its end since a trial was interrupted: others may tell whose fault that was."""
        return self._pauses > 0

    @property
    def seconds_left(self) -> float:
        """Of the pause that lasts; 0 if none does."""
        return max(0.0, self._until - time.monotonic())
