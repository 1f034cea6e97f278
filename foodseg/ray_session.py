"""Starts Ray on this machine, sized for the job, or joins a cluster by its explicit address.

Left to itself Ray joins whatever cluster it finds and offers one logical CPU per core, which starves Ray Data when
every core has a training worker. So foodseg always says which it wants.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil
import ray
from ray.exceptions import RayTaskError

from foodseg.errors import FoodsegError, RetryLater, UserError

OBJECT_STORE_BYTES = 2 * 2**30  # of a Ray that foodseg starts: blocks are small and few are in flight
KNOCK_SECONDS = 10  # a cluster that is up answers at once
# where Ray keeps an error that it wraps: of a task, of the training controller, of a worker's loop, of its health check
_WRAPPED = ("cause", "controller_failure", "_base_exc", "health_check_failure")
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    # a worker waits in `report` until the controller looks again: every checkpoint would cost up to 2 seconds
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
}
# Of a Ray that foodseg starts for itself. Nobody reads its metrics, it is never preempted, and each of its processes
# takes about a hundredth of a core from the training even when it has nothing to do.
_LOCAL_ENVIRONMENT = {
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "30000",
    "RAY_prestart_worker_first_driver": "0",
}


def cores() -> int:
    """Returns the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def data_cpus() -> int:
    """Returns the logical CPUs for the stream: one to read, two per core to decode, so that a decoder always waits."""
    return 2 * cores() + 1


@contextlib.contextmanager
def ray_session(address: str | None, logical_cpus: int) -> Iterator[None]:
    """Runs the body on a Ray cluster: the one at `address`, or one started here and ended with the body.

    A Ray that is connected already (a test, a notebook) is used as it is.

    Args:
        address: None = start one; "auto" or host:port = join.
        logical_cpus: size of the one that is started; numbers for Ray's scheduler, not threads.

    Raises:
        UserError: no cluster answers at `address`.
        RetryLater: a local Ray does not start, mostly since the machine is overloaded.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs a stack trace of all that a task raises
    if ray.is_initialized():
        yield
        return
    for name, value in {**_ENVIRONMENT, **(_LOCAL_ENVIRONMENT if address is None else {})}.items():
        os.environ.setdefault(name, value)
    if address is None:
        # a machine with little memory keeps room for the model
        store = min(OBJECT_STORE_BYTES, int(psutil.virtual_memory().available * 0.3))
        try:
            ray.init(
                address="local",
                num_cpus=logical_cpus,
                object_store_memory=max(store, 80 * 2**20),
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except Exception as error:  # Ray raises no narrower one when its processes do not come up in time
            raise RetryLater(
                f"Ray does not start on this machine ({line_of(error, 0)}): free processors and try again"
            ) from None
    else:
        try:
            _knock(address)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"--address {address}: no Ray cluster answers there ({line_of(error, 0)}); "
                "start one with `ray start --head`, or leave --address out to use this machine alone"
            ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError or ValueError where nobody listens: Ray itself would try for more than two minutes."""
    if address in ("auto", "local"):
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    if not parts.hostname or not parts.port:
        raise ValueError("that is not 'auto' or host:port")
    with socket.create_connection((parts.hostname, parts.port), timeout=KNOCK_SECONDS):
        pass


def require_cpus(workers: int, per_worker: float, *, for_data: int, gpus: int) -> None:
    """Refuses a cluster that cannot feed its workers: Ray Data would wait half an hour for a CPU that never comes free.

    Raises:
        UserError: naming what the cluster has, what is needed, and what to change.
    """
    have = ray.cluster_resources()
    cpus, needed = have.get("CPU", 0), workers * per_worker + for_data
    if cpus < needed:
        raise UserError(
            f"the cluster has {cpus:g} CPUs, but {workers} workers with {per_worker:g} each and {for_data} for the data"
            f" need {needed:g}: lower scaling.num_workers or scaling.resources_per_worker, or add nodes"
        )
    if have.get("GPU", 0) < gpus:
        raise UserError(
            f"the cluster has {have.get('GPU', 0):g} GPUs, but scaling asks for {gpus}: "
            "lower scaling.num_workers or set scaling.use_gpu=false"
        )


def _own_words(error: FoodsegError) -> FoodsegError:
    """The error without the advice on retries that Ray Data adds to whatever a task raises."""
    return type(error)(str(error).partition("\nFailed to ")[0])


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and everything that it goes back to, in whichever way Ray has wrapped it."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        current = todo.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        todo += [current.__cause__, current.__context__]
        todo += [getattr(current, name, None) for name in _WRAPPED]
        todo += list(getattr(current, "worker_failures", {}).values())


def expected_failure(error: BaseException) -> FoodsegError | None:
    """Returns the foodseg error that a failed Ray task, actor or worker group goes back to, if there is one."""
    for current in causes(error):
        if isinstance(current, FoodsegError) and not isinstance(current, RayTaskError):
            return _own_words(current)
        if isinstance(current, RayTaskError) and isinstance(current.cause, FoodsegError):
            return _own_words(current.cause)
    return None


def line_of(error: BaseException, index: int) -> str:
    """Returns the first (0) or last (-1) line of the message, or the name of an error that has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[index][:300]
