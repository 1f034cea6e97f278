"""Batches form while the processor is busy, never mix kinds, and lose nothing."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from foodseg.serve.batching import Batcher


class Gate:
    """A `run` that waits for the test before it returns, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.started = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def __call__(self, kind: str, items: Sequence[int]) -> list[int]:
        self.batches.append((kind, list(items)))
        self.started.release()
        assert self.open.acquire(timeout=10)
        if -1 in items:
            raise ValueError("refused")
        return [10 * item for item in items]


async def _started(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.started.acquire, timeout=10)


def test_items_that_arrive_meanwhile_are_the_next_batch_and_the_longest_waiting_kind_is_first() -> None:
    async def run() -> list[int]:
        gate = Gate()
        seen: list[tuple[int, int]] = []
        batcher = Batcher(gate, max_batch=2, on_batch=lambda size, waiting: seen.append((size, waiting)))
        tasks = [asyncio.create_task(batcher.submit("small", 1))]
        await _started(gate)  # at once, without waiting for others
        for kind, item in [("big", 2), ("small", 3), ("small", 4), ("small", 5), ("big", 6)]:
            tasks.append(asyncio.create_task(batcher.submit(kind, item)))
        await asyncio.sleep(0)
        assert batcher.waiting == 5
        for _ in range(4):
            gate.open.release()
        results = await asyncio.gather(*tasks)
        assert gate.batches == [("small", [1]), ("big", [2, 6]), ("small", [3, 4]), ("small", [5])]
        assert seen == [(1, 0), (2, 3), (2, 1), (1, 0)]
        assert batcher.waiting == 0
        return results

    assert asyncio.run(run()) == [10, 20, 30, 40, 50, 60]


def test_an_error_reaches_its_batch_alone() -> None:
    async def run() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=8)
        bad, good = (asyncio.create_task(batcher.submit(kind, item)) for kind, item in [("a", -1), ("b", 7)])
        gate.open.release()
        gate.open.release()
        with pytest.raises(ValueError, match="refused"):
            await bad
        assert await good == 70
        gate.open.release()
        assert await batcher.submit("a", 8) == 80  # and it continues

    asyncio.run(run())


def test_a_request_whose_caller_has_gone_is_not_computed() -> None:
    async def run() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=8)
        first = asyncio.create_task(batcher.submit("a", 1))
        await _started(gate)
        gone = asyncio.create_task(batcher.submit("a", 2))
        stays = asyncio.create_task(batcher.submit("a", 3))
        await asyncio.sleep(0)
        gone.cancel()
        gate.open.release()
        gate.open.release()
        assert await asyncio.gather(first, stays) == [10, 30]
        assert gate.batches == [("a", [1]), ("a", [3])]

    asyncio.run(run())
