"""What a failed training comes down to: the user's, worth another try, or ours. No cluster is needed."""

import os
import pickle
import signal

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from foodseg.cluster.ray_session import _is_here, line_of
from foodseg.errors import MissingFile, OutOfMemory, RetryLater, UserError
from foodseg.train.ray_failures import ctrl_c_interrupts, reason_of

PEER = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")


def group(*errors: Exception) -> WorkerGroupError:
    """As Ray Train reports workers, rank by rank: after a journey between processes."""
    wrapped = {
        rank: error if isinstance(error, RayError) else UserExceptionWithTraceback(error, f"Traceback\n{error}")
        for rank, error in enumerate(errors)
    }
    found = pickle.loads(pickle.dumps(WorkerGroupError("\n".join(map(str, errors)), wrapped)))
    assert isinstance(found, WorkerGroupError)
    return found


CASES = [
    (group(UserError("no such thing")), UserError, "no such thing"),
    (group(ZeroDivisionError("by 0"), MissingFile("no such file")), MissingFile, "no such file"),
    (ControllerError(UserError("no")), UserError, "no"),
    (ControllerError(RayTaskError("f", "trace", UserError("no"))), UserError, "no"),
    (group(RetryLater("S3 is away")), RetryLater, "S3 is away"),
    (group(ActorDiedError()), RetryLater, ""),
    (group(OutOfMemoryError("the node ran low on memory"), ActorDiedError()), OutOfMemory, "low on memory"),
    (group(PEER), RetryLater, "Connection closed by peer"),
    (group(ValueError("a mistake"), TimeoutError("too slow")), RetryLater, "too slow"),
    (group(WorkerHealthCheckFailedError("lost", ActorDiedError())), RetryLater, ""),
    (ControllerError(WorkerGroupStartupTimeoutError(2)), RetryLater, "timed out"),
    (ControllerError(OSError("AWS Error NETWORK_CONNECTION")), RetryLater, "AWS Error"),
    (ActorDiedError(), RetryLater, ""),
    (ConnectionError("the cluster is gone"), RetryLater, "the cluster is gone"),
    (group(ZeroDivisionError("by 0")), RuntimeError, "by 0"),
    (group(OSError("a file of our own")), RuntimeError, "a file of our own"),
    (ControllerError(KeyError("x")), RuntimeError, "'x'"),
]


@pytest.mark.parametrize(("error", "kind", "words"), CASES)
def test_what_it_comes_down_to(error: Exception, kind: type[Exception], words: str) -> None:
    reason = reason_of(error)

    assert type(reason) is kind
    assert words in str(reason)


def test_an_error_without_words_has_a_name() -> None:
    assert line_of(OSError(), 0) == "OSError" and line_of(ValueError(" \n"), -1) == "ValueError"
    assert line_of(ValueError("one\ntwo\n"), 0) == "one" and line_of(ValueError("one\ntwo\n"), -1) == "two"


def test_ctrl_c_is_an_interrupt_although_ray_exits_with_0() -> None:
    before = signal.getsignal(signal.SIGINT)

    def ray_handler(number: int, frame: object) -> None:
        raise SystemExit(0)

    with pytest.raises(KeyboardInterrupt), ctrl_c_interrupts():
        signal.signal(signal.SIGINT, ray_handler)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("address", "here"),
    [("127.0.0.1:6379", True), ("ray://127.0.0.1:10001", True), ("203.0.113.9:6379", False), ("auto", False)],
)
def test_the_token_of_this_machine_is_shown_to_this_machine_alone(address: str, here: bool) -> None:
    assert _is_here(address) is here
