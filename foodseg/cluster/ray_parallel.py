"""Applies a function to many items on Ray Data: in order, with a progress bar on the driver.

sizes = in_parallel([records[:16], records[16:]], size_of, "looking at images")
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from foodseg.progress import Progress


def in_parallel(batches: Sequence[Sequence[Any]], function: Callable[[Any], Any], title: str) -> list[Any]:
    """Returns what `function` makes of every item, in the order of the items; a task takes one of the batches.

    Raises:
        UserError, RetryLater: what the function raises, wrapped by Ray (see `ray_session.expected_failure`).
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else a UserError loses its type and its sentence on the way here
    context.execution_options.preserve_order = True
    # a block holds its own items and no others: what a task costs does not grow with their number
    source = ray.data.from_items(_Pickled(batches), override_num_blocks=max(1, len(batches)))

    def apply(table: pa.Table) -> pa.Table:
        results = [[function(item) for item in pickle.loads(own)] for own in table.column("items").to_pylist()]
        return pa.table({"results": pa.array([pickle.dumps(own) for own in results], pa.large_binary())})

    done: list[Any] = []
    with Progress(title, sum(map(len, batches))) as progress:
        for blocks in source.map_batches(apply, batch_size=None, batch_format="pyarrow", num_cpus=1).iter_batches(
            batch_size=None, batch_format="pyarrow"
        ):
            for own in blocks.column("results").to_pylist():
                results = pickle.loads(own)
                done += results
                progress.advance(len(results))
    return done


class _Pickled(Sequence[dict[str, bytes]]):
    """The batches as rows for Ray, each pickled when Ray asks for it: never all at once."""

    def __init__(self, batches: Sequence[Sequence[Any]]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        return {"items": pickle.dumps(self._batches[index])}
