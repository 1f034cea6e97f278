"""A limit on how long a rank waits for its next batch.

for batch in within(stream, 300.0, first=300.0): ...

Only waiting counts: a consumer may take as long as it likes over a batch, to validate, to compile or to upload.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from foodseg.errors import RetryLater

T = TypeVar("T")
NO_PROGRESS_SECONDS = 300.0  # Ray Data's own limit would count the rank's pauses, too
_STOP_SECONDS = 0.5
_END_SECONDS = 10.0  # more than a reader takes that still makes progress


def within(stream: Iterable[T], seconds: float, first: float | None = None) -> Generator[T, None, None]:
    """Yields what `stream` yields, which is read in a thread of its own, one item ahead.

    A consumer that leaves early waits until the thread has ended: an iterator of Ray Data that ends after Ray has been
    shut down would start another Ray.

    Args:
        first: seconds for the first item, before which the readers have to start; None = as for the others.

    Raises:
        RetryLater: the consumer waited longer than `seconds` for one item.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    left = threading.Event()  # by the consumer
    limit = seconds if first is None else first
    reader = threading.Thread(target=_read, args=(stream, ready, left.is_set), daemon=True)
    reader.start()
    stalled = False
    try:
        while True:
            try:
                kind, value = ready.get(timeout=limit)
            except queue.Empty:
                stalled = True
                raise RetryLater(
                    f"no image arrived for {limit:g} s: reading or decoding has stalled; look for storage that "
                    "does not answer, or for CPUs of the cluster that others hold"
                ) from None
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
            limit = seconds
    finally:
        left.set()
        if not stalled:
            reader.join(_END_SECONDS)


def _read(stream: Iterable[Any], ready: "queue.Queue[tuple[str, Any]]", is_left: Callable[[], bool]) -> None:
    def hand(kind: str, value: Any) -> bool:
        while not is_left():
            try:
                ready.put((kind, value), timeout=_STOP_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    try:
        for item in stream:
            if not hand("item", item):
                return
        hand("end", None)
    except BaseException as error:
        hand("error", error)
