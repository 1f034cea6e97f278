"""Continuous batching: requests that arrive while the processor is busy form the next batch, one queue per kind.

    batcher = Batcher(run, max_batch=8)        # run(kind, items) -> results, in a thread of its own
    result = await batcher.submit(kind, item)

No item waits for a batch to fill: if the processor is free, the item runs at once. Items that arrive while it is busy
form the next batch; the kind that has waited longest comes first. (`ray.serve.batch` takes a batch off its queue before
the processor is free. With several queues, half-filled batches then wait while the items that would fill them queue
behind them.)
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class _Waiting:
    item: Any
    done: asyncio.Future[Any]
    number: int


@dataclass(eq=False)
class _Queues:
    by_kind: dict[Hashable, deque[_Waiting]] = field(default_factory=dict)
    number: int = 0

    def add(self, kind: Hashable, item: Any, done: asyncio.Future[Any]) -> None:
        self.number += 1
        self.by_kind.setdefault(kind, deque()).append(_Waiting(item, done, self.number))

    def take(self, most: int) -> tuple[Hashable, list[_Waiting]]:
        """Removes up to `most` items of the kind whose first one has waited longest."""
        kind = min(self.by_kind, key=lambda k: self.by_kind[k][0].number)
        queue = self.by_kind[kind]
        batch = [queue.popleft() for _ in range(min(most, len(queue)))]
        if not queue:
            del self.by_kind[kind]
        return kind, batch


class Batcher:
    """Used from one event loop; `run` never runs twice at once."""

    def __init__(
        self,
        run: Callable[[Any, Sequence[Any]], Sequence[Any]],
        max_batch: int,
        on_batch: Callable[[int, int], None] = lambda size, waiting: None,
    ) -> None:
        """`run` returns one result per item, or raises for all; on_batch(size, waiting) is called before each run."""
        self._run = run
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._queues = _Queues()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, kind: Hashable, item: Any) -> Any:
        """Returns the result of `item`, which is only ever batched with others of its kind.

        Raises what `run` raises. An item is dropped if its caller has gone away before its batch starts.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queues.add(kind, item, done)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await done

    @property
    def waiting(self) -> int:
        """Items that are not in a batch yet."""
        return sum(map(len, self._queues.by_kind.values()))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queues.by_kind:
                kind, taken = self._queues.take(self._max_batch)
                batch = [waiting for waiting in taken if not waiting.done.done()]  # cancelled: the caller has gone
                if not batch:
                    continue
                self._on_batch(len(batch), self.waiting)
                items = [waiting.item for waiting in batch]
                try:
                    results = await loop.run_in_executor(self._thread, self._run, kind, items)
                except Exception as error:
                    for waiting in batch:
                        if not waiting.done.done():
                            waiting.done.set_exception(error)
                    continue
                for waiting, result in zip(batch, results, strict=True):
                    if not waiting.done.done():
                        waiting.done.set_result(result)
        finally:
            self._worker = None
