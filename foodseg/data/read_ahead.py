"""Computes the next items in threads while the caller works on the present one; the order stays.

for table in read_ahead(reader.take, parts): ...      # while one part is scored, the next one is fetched
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 1) -> Iterator[Result]:
    """Yields `function(item)` for each item, in order; the next `ahead` of them are computed meanwhile.

    Args:
        function: called in `ahead` threads, for each item once. items: taken in the thread of the caller, one by one.

    Raises:
        Exception: what `function` raises, when the turn of its item has come.
    """
    left = iter(items)
    with ThreadPoolExecutor(ahead, thread_name_prefix="read-ahead") as pool:
        waiting = deque(pool.submit(function, item) for item in islice(left, ahead))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(left, 1))
                yield result
        finally:
            for one in waiting:
                one.cancel()
