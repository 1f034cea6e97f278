"""How many training workers a cluster can hold and still feed with data. Arithmetic only, without Ray.

Ray gives training workers precedence over Ray Data, which reads and decodes with what they leave free. So a cluster
that is filled with workers makes no progress, and Ray does not say why.

    usable_workers(nodes, {"CPU": 4}, [1, 2, 4], cpus_for_data=2)       # 2, on two nodes of 6 CPUs
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foodseg.errors import Unavailable

Resources = Mapping[str, float]  # of Ray's scheduler: {"CPU": 8, "GPU": 1, ...}


@dataclass(frozen=True)
class Placement:
    """How many workers fit, and how many whole CPUs they leave (Ray Data counts no fractions of a CPU)."""

    workers: int
    cpus_left: int


def place(nodes: Sequence[Resources], worker: Resources, most: int) -> Placement:
    """Fills one node after the other with up to `most` workers, those with GPUs first, then the largest."""
    workers = left = 0
    for node in sorted(nodes, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)), reverse=True):
        here = _fitting(node, worker, most - workers)
        workers += here
        left += _whole(node.get("CPU", 0) - here * worker.get("CPU", 0))
    return Placement(workers, left)


def usable_workers(nodes: Sequence[Resources], worker: Resources, sizes: Sequence[int], cpus_for_data: int) -> int:
    """Returns the largest of `sizes` that has room on the nodes and leaves `cpus_for_data`; 0 if none has."""
    for size in sorted(sizes, reverse=True):
        found = place(nodes, worker, size)
        if found.workers == size and found.cpus_left >= cpus_for_data:
            return size
    return 0


def side_by_side(nodes: Sequence[Resources], worker: Resources, workers: int, cpus_for_data: int) -> int:
    """Returns how many trainings of `workers` have room at once, each with `cpus_for_data` of its own.

    With more, each would hold a part of what it needs and wait for the others forever.
    """
    count = 0
    while usable_workers(nodes, worker, [(count + 1) * workers], (count + 1) * cpus_for_data):
        count += 1
    return count


def fair_cpus(nodes: Sequence[Resources], workers: int, cpus_for_data: int) -> int:
    """Returns the most CPUs that each of `workers` can have while the data has its own; at least 1."""
    largest = max((_whole(node.get("CPU", 0)) for node in nodes), default=1)
    for cpus in range(largest, 1, -1):
        if usable_workers(nodes, {"CPU": cpus}, [workers], cpus_for_data):
            return cpus
    return 1


def require_room(nodes: Sequence[Resources], worker: Resources, sizes: Sequence[int], cpus_for_data: int) -> None:
    """Refuses a cluster on which none of `sizes` workers would make progress.

    Raises:
        Unavailable: naming what the cluster has, what is needed, and what to change.
    """
    if usable_workers(nodes, worker, sizes, cpus_for_data):
        return
    fewest = min(sizes)
    found = place(nodes, worker, fewest)
    if found.workers < fewest:
        has = _in_words({name: sum(node.get(name, 0) for node in nodes) for name in worker})
        without_gpu = ", set scaling.use_gpu=false" if "GPU" in worker else ""
        raise Unavailable(
            f"the cluster (nodes: {len(nodes)}, in all {has}) has no room for {workers_in_words(fewest, worker)}: "
            f"lower scaling.num_workers or scaling.resources_per_worker{without_gpu}, or add nodes"
        )
    raise Unavailable(
        f"{workers_in_words(fewest, worker)} would leave {found.cpus_left} of the cluster's CPUs for reading and "
        f"decoding, which need {cpus_for_data}: lower scaling.num_workers or scaling.resources_per_worker, or add nodes"
    )


def workers_in_words(workers: int, worker: Resources) -> str:
    """Returns for example "2 workers with 4 CPU, 1 GPU each"."""
    return f"1 worker with {_in_words(worker)}" if workers == 1 else f"{workers} workers with {_in_words(worker)} each"


def _in_words(resources: Resources) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _fitting(node: Resources, worker: Resources, most: int) -> int:
    return min([most, *(_whole(node.get(name, 0) / amount) for name, amount in worker.items() if amount > 0)])


def _whole(amount: float) -> int:
    return math.floor(amount + 1e-6)  # 0.9 / 0.1 is 9, too
