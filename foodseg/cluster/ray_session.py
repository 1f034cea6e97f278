"""Starts Ray on this machine, sized for the job, or joins a cluster by its explicit address.

Left to itself Ray joins whatever cluster it finds and offers one logical CPU per core, which starves Ray Data when
every core has a training worker. So foodseg always says which it wants.
"""

import contextlib
import io
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import ray
import yaml
from ray.exceptions import RayTaskError

from foodseg.cluster.orphans import keeper
from foodseg.cluster.ray_internals.core import (
    available_resources_per_node,
    cluster_address,
    loopback_only,
    max_resources_from_cluster_config,
    offer_token,
    wrapped_errors,
)
from foodseg.errors import FoodsegError, RetryLater, UserError

OBJECT_STORE_BYTES = 2 * 2**30  # of a Ray that foodseg starts: blocks are small and few are in flight
CONNECT_SECONDS = 10  # a cluster that is up answers at once
NODE_SECONDS = 2  # and so do its nodes to each other
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # of a head that `ray up` has started
_NODE_GROUP = "ray.io/node-group"  # label of the nodes that belong to a type in a cluster.yaml or RayCluster
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # a limit on waiting for resources, not on starting: until Ray knows that a node is lost, it may wait for that node
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
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
def ray_session(address: str | None, logical_cpus: int, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Runs the body on a Ray cluster: the one at `address`, or one started here and ended with the body.

    What is started here ends with this process, however that ends (`orphans`). A Ray that is connected already (a test,
    a notebook) is used as it is. Otherwise what is printed meanwhile goes to stderr, the first line of each text: Ray
    prints what goes wrong on a node to stdout, which belongs to the result.

    Args:
        address: None = start one; "auto" or host:port = join.
        logical_cpus: size of the one that is started; numbers for Ray's scheduler, not threads.
        environment: variables of every process that works for the body, on whichever node.

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
    with contextlib.ExitStack() as stack:
        marks = stack.enter_context(keeper()) if address is None else {}  # a cluster outlives this process
        stack.enter_context(contextlib.redirect_stdout(_FirstLines()))
        stack.callback(ray.shutdown)
        with _environment(marks), _own_sigterm():
            _connect(address, logical_cpus, None if environment is None else {**_ENVIRONMENT, **environment})
        yield


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray's `init` takes SIGTERM for itself; a handler that was set before stays, and is called."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:  # what Ray's own handler raises
        if end.code == signal.SIGTERM and callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class _FirstLines(io.TextIOBase):
    """Passes the first line of each text on to stderr; Ray appends 20 lines of a lost node's log to what it says."""

    def write(self, text: str) -> int:
        sys.stderr.write(text if text == "\n" else text.partition("\n")[0])
        return len(text)


def _connect(address: str | None, logical_cpus: int, environment: dict[str, str] | None) -> None:
    runtime = {"env_vars": environment} if environment else None
    if address is None:
        # a machine with little memory keeps some for the model
        store = min(OBJECT_STORE_BYTES, int(psutil.virtual_memory().available * 0.3))
        try:
            with loopback_only():
                ray.init(
                    address="local",
                    num_cpus=logical_cpus,
                    object_store_memory=max(store, 80 * 2**20),
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    runtime_env=runtime,
                )
        except Exception as error:  # Ray raises no narrower one when its processes do not come up in time
            raise RetryLater(
                f"Ray does not start on this machine ({line_of(error, 0)}): free processors and try again, or train "
                "without Ray (scaling.num_workers=0)"
            ) from None
    else:
        try:
            _require_listener(address)
            if _is_here(address):
                offer_token()
            with loopback_only() if _is_loopback(address) else contextlib.nullcontext():
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, runtime_env=runtime)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"--address {address}: no Ray cluster answers there ({line_of(error, 0)}); "
                "start one with `ray start --head`, or leave --address out to use this machine alone"
            ) from None


def _is_loopback(address: str) -> bool:
    """Whether a cluster is one that listens on this machine alone, as the local ones of foodseg do."""
    if address == "auto":
        address = cluster_address()
    return (urlsplit(address if "://" in address else f"//{address}").hostname or "") in ("127.0.0.1", "localhost")


def _require_listener(address: str) -> None:
    """Raises OSError or ValueError where nobody listens: Ray itself would try for more than two minutes."""
    if address in ("auto", "local"):
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    if not parts.hostname or not parts.port:
        raise ValueError("that is not 'auto' or host:port")
    with socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_SECONDS):
        pass


def _is_here(address: str) -> bool:
    """Whether an address is one of this machine's own: only such a one can be bound to."""
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def living_nodes() -> dict[str, dict[str, float]]:
    """Returns for each node that answers its id and what it has in all, free or not.

    Ray's own table still holds a node for some 15 seconds after it was lost.
    """
    listed = [node for node in ray.nodes() if node["Alive"]]
    return {n["NodeID"]: n["Resources"] for n in listed if _answers(n["NodeManagerAddress"], n["NodeManagerPort"])}


def free_nodes() -> dict[str, dict[str, float]]:
    """Returns for each node that answers its id and what is free on it at this moment, as far as Ray has heard."""
    free = available_resources_per_node()
    return {node: free.get(node, {}) for node in living_nodes()}


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=NODE_SECONDS):
            return True
    except OSError:
        return False


def nodes_may_come() -> bool:
    """Whether a launcher or an operator runs this cluster (`ray up`, KubeRay) and may start nodes on demand."""
    return any(_NODE_GROUP in (node.get("Labels") or {}) for node in ray.nodes() if node["Alive"])


def gpus_to_come() -> int | None:
    """Returns how many GPUs the cluster could have with all nodes that may be started; None = it does not say.

    The node types of a cluster that `ray up` has started are on its head, where jobs run.
    """
    if not nodes_may_come():
        return 0
    known = max_resources_from_cluster_config()
    if known is not None:
        return int(known.get("GPU", 0))
    if not _BOOTSTRAP.expanduser().exists():
        return None
    return most_gpus(yaml.safe_load(_BOOTSTRAP.expanduser().read_text(encoding="utf-8")))


def most_gpus(cluster: Mapping[str, Any]) -> int:
    """Returns the GPUs of all nodes that a cluster.yaml, filled in by `ray up`, lets be started."""
    most = cluster.get("max_workers", 0)
    types = cluster.get("available_node_types", {}).values()
    each = [(kind.get("resources", {}).get("GPU", 0), kind.get("max_workers", most)) for kind in types]
    return int(sum(gpus * min(count, most) for gpus, count in each))


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
        todo += [current.__cause__, current.__context__, *wrapped_errors(current)]


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
