"""Why a training on Ray failed, and what follows from it: refuse, retry, or report an internal error.

A user's mistake that one worker finds has to end all of them: the others wait for it in a barrier without a timeout.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from ray.exceptions import (
    ActorPlacementGroupRemoved,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    RpcError,
    TaskPlacementGroupRemoved,
    WorkerCrashedError,
)
from ray.train import UserCallback
from ray.train.v2.api.exceptions import ControllerError, PreemptionError

from foodseg.cluster.ray_internals.train import lost_worker_errors
from foodseg.cluster.ray_session import causes, expected_failure, line_of
from foodseg.errors import OutOfMemory, RetryLater

_LOST = (
    # actors, nodes and the cluster
    RayActorError, NodeDiedError, LocalRayletDiedError, WorkerCrashedError, ObjectLostError, OutOfMemoryError,
    RaySystemError, RpcError, ActorPlacementGroupRemoved, TaskPlacementGroupRemoved, PreemptionError,
    ConnectionError, TimeoutError,
    # what the other ranks raise when one is lost
    torch.distributed.DistError,
)  # fmt: skip


class RefuseAtOnce(UserCallback):
    """Ends the training where a worker found a user's mistake, which is the same at every start.

    Ray Train calls it in its controller; what it raises there ends all workers, without a retry.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises what a worker refused the run with, if one did."""
        for error in worker_exceptions.values():
            refusal = expected_failure(error)
            if refusal is not None and not isinstance(refusal, RetryLater):
                raise refusal


def reason_of(error: BaseException) -> Exception:
    """Returns the reason of a failed `fit`.

    Returns:
        The foodseg error that was raised; OutOfMemory; RetryLater where something else was lost or took too long;
        RuntimeError for anything else, which is an internal error.
    """
    expected = expected_failure(error)
    if expected is not None:
        return expected
    # the controller itself writes to the run's storage
    lost = (*_LOST, *lost_worker_errors(), *([OSError] if isinstance(error, ControllerError) else []))
    parts = list(causes(error))
    memory = next((part for part in parts if isinstance(part, OutOfMemoryError)), None)
    if memory is not None:  # Ray's further lines are advice
        return OutOfMemory(line_of(memory, 0))
    if any(isinstance(part, lost) or _of_a_peer(part) for part in parts):
        return RetryLater(line_of(error, -1))
    return RuntimeError(line_of(error, -1))


def _of_a_peer(error: BaseException) -> bool:
    """gloo has no exception type for a peer that is gone or does not answer."""
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
