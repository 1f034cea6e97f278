"""What foodseg takes from the private parts of Ray itself: no public call does the same.

The modules of this folder are the only ones that touch private parts of Ray. `tests/integration/test_ray_internals.py`
has a test for each function and class of them, which says what broke when another version of Ray is installed. A
function imports what is private where it runs, so that what has moved breaks that function and its test alone.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.util import get_node_ip_address
from ray.util.placement_group import PlacementGroup, remove_placement_group

# the attributes in which Ray keeps an error that it wraps: of a task, of the training controller, of a worker's loop,
# of its health check
_WRAPPED = ("cause", "controller_failure", "_base_exc", "health_check_failure")


# --- resources ---


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """Returns for each node id what is free on that node, as far as Ray has heard."""
    from ray._private.state import state

    free: dict[str, dict[str, float]] = state.available_resources_per_node()
    return free


def max_resources_from_cluster_config() -> dict[str, float] | None:
    """Returns the resources that the cluster could have with all nodes that may start; None = it does not say."""
    from ray._private.state import state

    most: dict[str, float] | None = state.get_max_resources_from_cluster_config()
    return most


def release_lost_groups() -> int:
    """Removes the placement groups of this job whose actor is dead; returns how many groups that were.

    Ray removes a placement group when its job ends, not when the actor that asked for it ends. A sweep that stops a
    trial would never see the CPUs of its workers again. Ray Train starts a process with every training that watches
    for this, but that process asks the dashboard: a Ray that foodseg starts has none, and where several clusters run
    on one machine the process cannot tell which to ask. So foodseg looks into the table of all groups of the cluster.
    """
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    job, released = ray.get_runtime_context().get_job_id(), 0
    for entry in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(entry)
        made_by_actor = bool(group.creator_actor_id) and not ray.ActorID(group.creator_actor_id).is_nil()
        lost = made_by_actor and group.creator_actor_dead and group.creator_job_id.hex() == job
        if lost and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            released += 1
    return released


# --- addresses ---


def cluster_address() -> str:
    """Returns the address of the Ray that was started last on this machine, "" where there is no record of one."""
    from ray._private.utils import read_ray_address

    return read_ray_address() or ""


def node_is_loopback() -> bool:
    """Returns whether Ray takes a loopback address for the address of this node."""
    from ray._common.network_utils import is_localhost

    local: bool = is_localhost(get_node_ip_address())
    return local


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Within, whatever Ray starts or looks for is at 127.0.0.1.

    This is Ray's own switch for macOS and Windows: its processes take 127.0.0.1 for the address of the machine, and
    listen on that alone. With any other address each would listen for the whole network, and most run whatever they
    are sent.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER  # read from the environment when Ray was imported
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes that are started
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


def offer_token() -> None:
    """Ray locks whatever it starts on a machine with a token, but shows that only to what it has found by itself."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    log = logging.getLogger(maybe_enable_token_auth_if_token_available.__module__)
    log.setLevel(logging.ERROR)  # it warns that there is a token
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


# --- the key-value store that every Ray cluster has ---


def kv_put(namespace: str, key: str, value: bytes) -> None:
    """Writes a value, whether the key has one or not."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key.encode(), value, namespace=namespace.encode())


def kv_get(namespace: str, key: str) -> bytes | None:
    """Returns the value of a key, None where it has none."""
    from ray.experimental import internal_kv

    value: bytes | None = internal_kv._internal_kv_get(key.encode(), namespace=namespace.encode())
    return value


def kv_delete(namespace: str, key: str) -> None:
    """Removes a key, if it is there."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(key.encode(), namespace=namespace.encode())


def kv_keys(namespace: str, prefix: str) -> list[str]:
    """Returns the keys that begin with `prefix`, in no order."""
    from ray.experimental import internal_kv

    return [key.decode() for key in internal_kv._internal_kv_list(prefix.encode(), namespace=namespace.encode())]


# --- errors ---


def wrapped_errors(error: BaseException) -> list[BaseException]:
    """Returns the errors that an exception of Ray carries in attributes of its own, not in `__cause__`."""
    found = [getattr(error, name, None) for name in _WRAPPED]
    return [*(one for one in found if one is not None), *getattr(error, "worker_failures", {}).values()]


def error_text(file: str | None) -> str:
    """Returns the newest failure in the file of a trial's failures that Ray Tune writes (`Trial.error_file`).

    The text is a traceback, or the message of an exception; "" where there is no file.
    """
    if not file:
        return ""
    return Path(file).read_text(encoding="utf-8").rpartition("Failure # ")[2].partition("\n")[2]


def error_reason(text: str) -> str:
    """Returns the line of an `error_text` that says what happened, "" where the text has none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[-1 if "ray::" in lines[0] else 0]  # the exception is at the end of its trace
