"""Brings the log lines of a remote worker to the driver's stderr as they are.

Ray's own forwarding prefixes every line with a process id and mixes in its internals; what a user wants to see of a
training run is the progress of rank 0.
"""

import logging
import threading
from types import TracebackType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_SECONDS = 0.5


@ray.remote(num_cpus=0)
class _Relay:
    def __init__(self) -> None:
        self._records: list[tuple[int, str]] = []

    def add(self, level: int, message: str) -> None:
        self._records.append((level, message))

    def drain(self) -> list[tuple[int, str]]:
        records, self._records = self._records, []
        return records


class RelayHandler(logging.Handler):
    """Sends log records to the driver; used in the worker."""

    def __init__(self, relay: Any) -> None:
        super().__init__()
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        self._relay.add.remote(record.levelno, record.getMessage())


class RelayedLogs:
    """Context manager on the driver: `with RelayedLogs() as relay:` hand `relay` to the worker's `RelayHandler`."""

    def __enter__(self) -> Any:
        # beside the driver: on another node it could be lost while the training goes on, unseen
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._relay = _Relay.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self._relay

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(timeout=10)
        ray.kill(self._relay)

    def _run(self) -> None:
        logger = logging.getLogger("foodseg")
        finished = False
        while not finished:
            finished = self._done.wait(_SECONDS)  # one more round after the end brings the last lines
            try:
                for level, message in ray.get(self._relay.drain.remote(), timeout=10):
                    logger.log(level, "%s", message)
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                return  # the cluster is gone; the driver itself will say so
