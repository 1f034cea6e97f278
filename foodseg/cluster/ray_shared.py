"""A value that many tasks need, sent to each machine and unpickled in each process once.

    shared = Shared((reader, order))
    dataset.map_batches(partial(encode, shared=shared))      # in the task: reader, order = shared.get()

What a task's closure holds itself is unpickled by every task: 57 ms for a manifest of 11,700 shards.
"""

from typing import Generic, TypeVar, cast

import cachetools
import ray

T = TypeVar("T")
KEPT = 4  # values in a process: those of two streams, such as that of a run which was just restarted

_values: cachetools.LRUCache[str, object] = cachetools.LRUCache(KEPT)


class Shared(Generic[T]):
    """A value in the object store, which stays there as long as a closure that holds this."""

    def __init__(self, value: T) -> None:
        self._ref = ray.put(value)

    def get(self) -> T:
        """Returns the value: the same object each time within a process, so it must not be changed."""
        key = self._ref.hex()
        if key not in _values:
            _values[key] = ray.get(self._ref)
        return cast(T, _values[key])
