"""When the next trial may begin after one was interrupted.

All trials need the same services (capacity of the cluster, MLflow, storage). While one of these is away, every new
trial would be interrupted too, and an unattended sweep would soon have none left.
"""

import time

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0  # seconds
PAUSES = 40  # in a row, each twice as long as the one before up to the longest: some six hours
ATTEMPTS = 3  # of one trial while others end: then the cause of its interruptions is its own


class Backoff:
    """Pauses that grow while trials are interrupted; reset when a trial ends."""

    def __init__(self) -> None:
        self._pauses, self._until, self._ended = 0, float("-inf"), 0
        # by trial: how many others had ended at each of its interruptions
        self._ended_before: dict[str, set[int]] = {}

    def interrupted(self, name: str) -> bool:
        """Begins a pause, unless one is running; returns whether this trial is to be retried."""
        if not self.is_pausing():
            self._pauses += 1
            self._until = time.monotonic() + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._pauses - 1))
        ended_before = self._ended_before.setdefault(name, set())
        ended_before.add(self._ended)
        return len(ended_before) < ATTEMPTS

    def ended(self) -> None:
        """Resets the pauses: a trial ended, so the services that all need are there."""
        self._pauses, self._until = 0, float("-inf")
        self._ended += 1

    def is_pausing(self) -> bool:
        """Whether no trial may begin yet."""
        return time.monotonic() < self._until

    def is_exhausted(self) -> bool:
        """Whether the retry limit is reached: no trial may begin any more."""
        return self._pauses > PAUSES

    @property
    def in_doubt(self) -> bool:
        """Whether no trial has ended since one was interrupted: then it is not known whether the cause is its own."""
        return self._pauses > 0

    @property
    def seconds_left(self) -> float:
        """Of the running pause; 0 if there is none."""
        return max(0.0, self._until - time.monotonic())
