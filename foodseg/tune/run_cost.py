"""What a training took, by its own log: seconds an update and the peak memory of its process.

    run_cost("runs/ablation/runs/image-only-seed0")     # RunCost(seconds_per_update=0.41, memory_mib=1210.0)

Validation and checkpoints are not in the seconds, as the log leaves them out (`train/loop.py`).
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from foodseg import storage


@dataclass(frozen=True)
class RunCost:
    """Seconds for an update of `train.global_batch` images, and the most memory in MiB, of the GPU if there is one."""

    seconds_per_update: float
    memory_mib: float


def run_cost(run_uri: str, global_batch: int) -> RunCost | None:
    """Reads the cost of a run from its log.jsonl; None where it has logged nothing."""
    where = storage.join(run_uri, "log.jsonl")
    if not storage.exists(where):
        return None
    lines = [json.loads(line) for line in storage.read_text(where).splitlines()]
    logged = [line for line in lines if "images_per_second" in line]  # the others are validations
    if not logged:
        return None
    images = [line["positions"][1] - line["positions"][0] for line in logged]
    seconds = sum(count / line["images_per_second"] for count, line in zip(images, logged, strict=True))
    return RunCost(seconds * global_batch / sum(images), max(line["memory_mib"] for line in logged))


def median_cost(costs: Iterable[RunCost | None]) -> RunCost | None:
    """Returns the medians over the runs whose cost is known; None without one."""
    known = [cost for cost in costs if cost is not None]
    if not known:
        return None
    return RunCost(
        statistics.median(cost.seconds_per_update for cost in known),
        statistics.median(cost.memory_mib for cost in known),
    )
