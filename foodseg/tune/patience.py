"""When the next trial may begin after one was interrupted.

What a trial needs beside itself (room on the cluster, MLflow, storage) all trials need. While it is away, each trial
that began would be interrupted as soon, and a sweep that is left alone would have none left by the morning.
"""

import time

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0  # seconds
PAUSES = 40  # in a row, of which each doubles up to the longest: some six hours
ATTEMPTS = 3  # of one trial in one call: what interrupts it may be its own configuration


class Patience:
    """Pauses that grow while trials are interrupted, and are over when one comes to its end."""

    def __init__(self) -> None:
        self._pauses, self._until = 0, float("-inf")
        self._attempts: dict[str, int] = {}

    def interrupted(self, name: str) -> bool:
        """Begins a pause, unless one lasts; returns whether this trial is to be tried once more."""
        if not self.lasts():
            self._pauses += 1
            self._until = time.monotonic() + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._pauses - 1))
        self._attempts[name] = self._attempts.get(name, 0) + 1
        return self._attempts[name] < ATTEMPTS

    def ended(self) -> None:
        """A trial came to its end, whichever: what all need is there."""
        self._pauses, self._until = 0, float("-inf")

    def lasts(self) -> bool:
        """Whether nothing may begin yet."""
        return time.monotonic() < self._until

    def is_over(self) -> bool:
        """Whether nothing may begin any more."""
        return self._pauses > PAUSES

    @property
    def seconds_left(self) -> float:
        """Of the pause that lasts; 0 if none does."""
        return max(0.0, self._until - time.monotonic())
