"""Brings the log lines of a remote worker to the driver's stderr as they are.

Ray's own forwarding prefixes every line with a process id and mixes in its internals; what a user wants to see of a
training run is the progress of rank 0. Lines wait in the key-value store that every Ray cluster has: an actor would be
one more process that takes its share of the cores from the training.
"""

import itertools
import json
import logging
import threading
import time
import uuid
from types import TracebackType

import ray

from foodseg.cluster.ray_internals.core import kv_delete, kv_get, kv_keys, kv_put

_SECONDS = 0.5
_NAMESPACE = "foodseg-logs"
_numbers = itertools.count()  # of lines within one clock tick


def send_line(relay: str, level: int, message: str) -> None:
    """Sends one line to the driver that holds `relay`; used in any process of the cluster."""
    # keys sort by time; those of a restarted worker come after those of the one before
    key = f"{relay}/{time.time_ns():020d}-{next(_numbers):06d}"
    kv_put(_NAMESPACE, key, json.dumps([level, message]).encode())


class RelayHandler(logging.Handler):
    """Sends log records to the driver; used in the worker."""

    def __init__(self, relay: str) -> None:
        super().__init__()
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        try:
            send_line(self._relay, record.levelno, record.getMessage())
        except Exception:  # losing a line must not end a training
            self.handleError(record)


class RelayedLogs:
    """Context manager on the driver: `with RelayedLogs() as relay:` hand `relay` to the worker's `RelayHandler`."""

    def __enter__(self) -> str:
        self._relay = uuid.uuid4().hex
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self._relay

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        logger = logging.getLogger("foodseg")
        finished = False
        while not finished:
            finished = self._done.wait(_SECONDS)  # one more round after the end brings the last lines
            try:
                for key in sorted(kv_keys(_NAMESPACE, f"{self._relay}/")):
                    line = kv_get(_NAMESPACE, key)
                    kv_delete(_NAMESPACE, key)
                    if line is not None:
                        level, message = json.loads(line)
                        logger.log(level, "%s", message)
            except (ray.exceptions.RayError, RuntimeError, AssertionError):
                return  # the cluster is gone; the driver itself will say so
