"""What the coordinator of a split costs a block, and how short that lets an update be on many ranks.

    python -m experiments.scale.split_consumers --ranks 64 --seconds 30

The stream has the stages of the training's (`data/ray_stream.py`), but a block holds 1 kB instead of some megabytes of
encoded images: no bandwidth limits it. The ranks are threads of a few processes, without torch.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pyarrow as pa
import ray
from ray.data import DataIterator

from foodseg.bench.cpu_parts import COORDINATOR, part_of
from foodseg.cluster.ray_session import ray_session
from foodseg.data.ray_stream import unit_dataset
from foodseg.data.sampler import TrainingOrder

PROCESSES = 4  # that hold the ranks
BLOCKS_A_UNIT = 32  # for each rank: what a reading task yields
ROW_BYTES = 1024
STEPS_A_BLOCK = 5  # of 8 images of 100 kB: a block of 4 MB


def blocks(units: pa.Table, ranks: int) -> Any:
    """Yields the rows of a unit, one block each."""
    for _ in range(units.num_rows * BLOCKS_A_UNIT * ranks):
        yield pa.table({"rows": pa.array([bytes(ROW_BYTES)], pa.large_binary())})


@ray.remote(num_cpus=0)
class Ranks:
    """Some of the ranks, a thread each."""

    def __init__(self, splits: list[DataIterator]) -> None:
        self._blocks = [iter(split.iter_batches(batch_size=1, batch_format="pyarrow")) for split in splits]
        self._pool = ThreadPoolExecutor(len(splits))

    def begin(self) -> None:
        """Returns once each rank has its first block."""
        list(self._pool.map(next, self._blocks))

    def consume(self, seconds: float) -> int:
        """Returns how many blocks the ranks took in so many seconds."""
        until = time.monotonic() + seconds

        def one(blocks: Any) -> int:
            count = 0
            while time.monotonic() < until:
                next(blocks)
                count += 1
            return count

        return sum(self._pool.map(one, self._blocks))


def coordinator_seconds() -> float:
    """Returns the CPU seconds of the coordinator so far."""
    found = 0.0
    for process in psutil.Process().children(recursive=True):
        if part_of(process.cmdline()) == COORDINATOR:
            times = process.cpu_times()
            found += times.user + times.system
    return found


def measure(ranks: int, seconds: float) -> dict[str, Any]:
    """Returns blocks a second, the coordinator's CPU a block, and the shortest update that follows."""
    with ray_session(None, logical_cpus=4):
        order = TrainingOrder([ranks], 0, ranks, window=ranks)
        units = unit_dataset(order, 0, 400)
        stream = units.map_batches(blocks, fn_kwargs={"ranks": ranks}, batch_size=1, batch_format="pyarrow")
        splits = stream.repartition(target_num_rows_per_block=1).streaming_split(ranks, equal=True)
        actors = [Ranks.remote(splits[index::PROCESSES]) for index in range(PROCESSES)]  # type: ignore[attr-defined]
        ray.get([actor.begin.remote() for actor in actors])
        before, began = coordinator_seconds(), time.monotonic()
        taken = sum(ray.get([actor.consume.remote(seconds) for actor in actors]))
        elapsed = time.monotonic() - began
        rate, busy = taken / elapsed, (coordinator_seconds() - before) / elapsed
    return {
        "ranks": ranks,
        "blocks": taken,
        "blocks_per_second": round(rate, 1),
        "coordinator_cores": round(busy, 3),
        "coordinator_cpu_ms_a_block": round(1000 * busy / rate, 3),
        "saturated_blocks_per_second": round(rate / busy, 1),
        "shortest_update_ms": round(1000 * ranks * busy / rate / STEPS_A_BLOCK, 1),
    }


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.ranks, arguments.seconds)))


if __name__ == "__main__":
    main()
