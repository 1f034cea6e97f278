"""Applies a function to many items on Ray Data: in order, with a progress bar on the driver.

sizes = in_parallel(records, size_of, batch=16, title="looking at pictures")
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from foodseg.progress import Progress


def in_parallel(items: Sequence[Any], function: Callable[[Any], Any], batch: int, title: str) -> list[Any]:
    """Returns what `function` makes of every item, in the order of the items; a task takes `batch` of them.

    Raises:
        UserError, RetryLater: what the function raises, wrapped by Ray (see `ray_session.expected_failure`).
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else a UserError loses its type and its sentence on the way here
    context.execution_options.preserve_order = True
    # a block holds its own items and no others: what a task costs does not grow with their number
    batches = [{"items": pickle.dumps(items[start : start + batch])} for start in range(0, len(items), batch)]
    source = ray.data.from_items(batches, override_num_blocks=max(1, len(batches)))

    def apply(table: pa.Table) -> pa.Table:
        results = [[function(item) for item in pickle.loads(own)] for own in table.column("items").to_pylist()]
        return pa.table({"results": pa.array([pickle.dumps(own) for own in results], pa.large_binary())})

    done: list[Any] = []
    with Progress(title, len(items)) as progress:
        for blocks in source.map_batches(apply, batch_size=None, batch_format="pyarrow", num_cpus=1).iter_batches(
            batch_size=None, batch_format="pyarrow"
        ):
            for own in blocks.column("results").to_pylist():
                results = pickle.loads(own)
                done += results
                progress.advance(len(results))
    return done
