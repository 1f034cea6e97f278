"""Runs a plan of tasks on Ray Data: shards are written once, a run that was killed resumes, results come in order.

    tasks = [ShardTask("00000", records[:16]), ShardTask("00001", records[16:])]
    results = run_shards(ShardPlan(folder, tasks), write, read, "checking images")

Ray Data's own checkpointing (`ray.data.checkpoint.CheckpointConfig`, beta in Ray 2.60) does not fit. It skips rows by
id in a pipeline that only reads, maps and writes files, names these files itself, and returns no results, while an
audit's results come back to the driver and a shard is a function of its rows. It also loads all finished ids into
memory, reserves 1 GiB for each filtering actor, and reaches storage by a pyarrow filesystem, past `storage`.
"""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext

from foodseg.cluster.shard_plan import Inputs, Result, ShardPlan, create_or_take, stored_results
from foodseg.progress import Progress

WAVE, WAVE_PER_CPU = (
    1024,
    32,
)  # tasks that Ray knows at a time: what it and this process keep does not grow with the plan

_log = logging.getLogger(__name__)


def run_shards(
    plan: ShardPlan[Inputs],
    write: Callable[[Inputs], bytes],
    read: Callable[[Inputs, bytes], Result],
    title: str,
    gpus: float = 0,
) -> list[Result]:
    """Does the tasks of a plan that are not done yet; returns the results of all, in the order of the tasks.

    A task whose worker dies is done again by Ray. Inputs are pickled on the way to a worker, shards never are.

    Args:
        write: in a worker, makes the shard of a task of its inputs. It may be called again for a task that was under
            way when a worker or this process was killed.
        read: in this process, makes the result of inputs and shard; ValueError where the shard is not one of these
            inputs.
        title: of the progress.
        gpus: that a task reserves; each takes a CPU, too.

    Raises:
        UserError, RetryLater: what `write` raises, wrapped by Ray (see `ray_session.expected_failure`), or the storage.
    """
    results = stored_results(plan, read)
    total = sum(task.items for task in plan.tasks)
    left = [number for number in range(len(plan.tasks)) if number not in results]
    if results:
        there = sum(plan.tasks[number].items for number in results)
        _log.info("%s: resuming, %d of %d are there", title, there, total)
    with Progress(title, sum(plan.tasks[number].items for number in left)) as progress:
        size = max(WAVE, WAVE_PER_CPU * int(ray.cluster_resources().get("CPU", 0)))
        for start in range(0, len(left), size):
            wave = left[start : start + size]
            for number, shard in zip(wave, _shards(plan, wave, write, gpus), strict=True):
                task = plan.tasks[number]
                results[number] = read(task.inputs, shard)
                progress.advance(task.items)
    return [results[number] for number in range(len(plan.tasks))]


def _shards(
    plan: ShardPlan[Inputs], numbers: Sequence[int], write: Callable[[Inputs], bytes], gpus: float
) -> Iterator[bytes]:
    """Yields the shards of these tasks, in order, each once it is stored."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else a UserError loses its type and its sentence on the way here
    context.execution_options.preserve_order = True
    # a block holds one task and no other: what a task costs does not grow with their number
    source = ray.data.from_items(_Pickled(plan, numbers), override_num_blocks=len(numbers))

    def work(table: pa.Table) -> pa.Table:
        own = [pickle.loads(task) for task in table.column("task").to_pylist()]
        return pa.table({"shard": pa.array([create_or_take(uri, write(inputs)) for uri, inputs in own], _BYTES)})

    blocks = source.map_batches(work, batch_size=None, batch_format="pyarrow", num_cpus=1, num_gpus=gpus)
    for block in blocks.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from block.column("shard").to_pylist()


_BYTES = pa.large_binary()


class _Pickled(Sequence[dict[str, bytes]]):
    """The tasks as rows for Ray, each pickled when Ray asks for it: never all at once."""

    def __init__(self, plan: ShardPlan[Any], numbers: Sequence[int]) -> None:
        self._plan, self._numbers = plan, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        task = self._plan.tasks[self._numbers[index]]
        return {"task": pickle.dumps((self._plan.where(task), task.inputs))}
