"""Why a training on Ray failed, and what follows from it: refuse, try again, or own up.

A user's mistake that one worker finds has to end all of them: the others wait for it in a barrier that knows no end. So
the worker notes its sentence in the cluster's key-value store and raises. Ray ends the group and starts another one,
which refuses at once; the driver reads the sentence there, since Ray's own error holds only text.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

import torch
from ray.exceptions import (
    ActorPlacementGroupRemoved,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    RpcError,
    TaskPlacementGroupRemoved,
    WorkerCrashedError,
)
from ray.experimental import internal_kv
from ray.train.v2._internal.exceptions import (
    CollectiveTimeoutError,
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import ControllerError, PreemptionError

from foodseg.errors import RetryLater, UserError
from foodseg.ray_session import causes, expected_failure, line_of

_NAMESPACE = b"foodseg-refused"
_LOST = (
    # actors, nodes and the cluster
    RayActorError, NodeDiedError, LocalRayletDiedError, WorkerCrashedError, ObjectLostError, OutOfMemoryError,
    RaySystemError, RpcError, ActorPlacementGroupRemoved, TaskPlacementGroupRemoved, PreemptionError,
    InsufficientClusterResourcesError, WorkerGroupStartupFailedError, ConnectionError,
    # time limits
    WorkerGroupStartupTimeoutError, WorkerHealthCheckTimeoutError, CollectiveTimeoutError, TimeoutError,
    # what the other ranks say of a lost one
    torch.distributed.DistError,
)  # fmt: skip


def note_refusal(relay: str, sentence: str) -> None:
    """Remembers a user's mistake for the driver and for later worker groups of the same attempt; the first one stands.

    `relay` names the attempt: what `RelayedLogs` handed out.
    """
    internal_kv._internal_kv_put(relay.encode(), sentence.encode(), overwrite=False, namespace=_NAMESPACE)


def raise_refusal(relay: str) -> None:
    """Raises UserError where a worker of the attempt has noted one."""
    try:
        sentence = internal_kv._internal_kv_get(relay.encode(), namespace=_NAMESPACE)
    except RayError:  # the cluster is gone, which is told otherwise
        return
    if sentence is not None:
        raise UserError(sentence.decode())


def reason_of(error: BaseException) -> Exception:
    """Returns what a failed `fit` comes down to.

    Returns:
        The foodseg error that was raised; RetryLater where something was lost or took too long; RuntimeError for
        anything else, which is a mistake of ours.
    """
    expected = expected_failure(error)
    if expected is not None:
        return expected
    # the controller itself writes to the run's storage
    lost = (*_LOST, OSError) if isinstance(error, ControllerError) else _LOST
    if any(isinstance(part, lost) or _of_a_peer(part) for part in causes(error)):
        return RetryLater(line_of(error, -1))
    return RuntimeError(line_of(error, -1))


def _of_a_peer(error: BaseException) -> bool:
    """gloo has no exceptions of its own for a peer that is gone or does not answer."""
    return type(error) is RuntimeError and "gloo" in str(error).lower()


@contextlib.contextmanager
def ctrl_c_interrupts() -> Iterator[None]:
    """Within, Ctrl-C is a KeyboardInterrupt: Ray Train's `fit` exits with 0 instead, and leaves its handler behind."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
