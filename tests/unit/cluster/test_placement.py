"""How many workers fit, and what they leave for the data: numbers worked out by hand."""

import re

import pytest

from foodseg.cluster.placement import (
    Placement,
    fair_cpus,
    place,
    require_room,
    side_by_side,
    usable_workers,
    workers_in_words,
)
from foodseg.errors import UserError

GPU_NODE, CPU_NODE, HEAD = {"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0}, {"node:__internal_head__": 1.0}


@pytest.mark.parametrize(
    ("nodes", "worker", "most", "found"),
    [
        ([], {"CPU": 1}, 3, Placement(0, 0)),
        ([{"CPU": 4}], {"CPU": 1}, 0, Placement(0, 4)),
        ([{"CPU": 4}], {"CPU": 1}, 9, Placement(4, 0)),
        ([{"CPU": 4}, {"CPU": 3}], {"CPU": 2}, 9, Placement(3, 1)),
        ([{"CPU": 3}, {"CPU": 4}], {"CPU": 2}, 2, Placement(2, 3)),  # the larger node first
        # one and a half CPUs are left on the first node, and Ray Data counts one
        ([{"CPU": 2}, {"CPU": 2}], {"CPU": 0.25}, 2, Placement(2, 3)),
        ([{"CPU": 2}, {"CPU": 2}], {"CPU": 1.5}, 2, Placement(2, 0)),
        ([{"CPU": 0.9}], {"CPU": 0.1}, 20, Placement(9, 0)),
        ([HEAD, CPU_NODE, GPU_NODE, GPU_NODE], {"CPU": 2, "GPU": 1}, 4, Placement(2, 28)),
        ([{"CPU": 4}], {"CPU": 0}, 3, Placement(3, 4)),
        ([{"CPU": 4, "trainer": 1}, {"CPU": 4}], {"CPU": 1, "trainer": 1}, 3, Placement(1, 7)),
    ],
)
def test_place(nodes: list[dict[str, float]], worker: dict[str, float], most: int, found: Placement) -> None:
    assert place(nodes, worker, most) == found


@pytest.mark.parametrize(
    ("nodes", "sizes", "usable"),
    [
        ([{"CPU": 3}, {"CPU": 3}, {"CPU": 2}], [1, 2], 2),
        # a node is lost: two workers would still fit, and leave the data one CPU
        ([{"CPU": 3}, {"CPU": 2}], [1, 2], 1),
        ([{"CPU": 3}], [1, 2], 0),
        ([{"CPU": 8}, {"CPU": 8}], [2, 4, 8], 4),
        ([{"CPU": 100}], [2, 4, 8], 8),
    ],
)
def test_usable_workers_leave_two_cpus_for_the_data(
    nodes: list[dict[str, float]], sizes: list[int], usable: int
) -> None:
    assert usable_workers(nodes, {"CPU": 2}, sizes, cpus_for_data=2) == usable


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus"),
    [
        ([{"CPU": 16}, {"CPU": 16}], 2, 15),  # one and one are left
        ([{"CPU": 16}], 2, 7),
        ([{"CPU": 4}, {"CPU": 2}], 1, 4),
        ([{"CPU": 2}], 1, 1),
        ([HEAD], 8, 1),
        ([], 8, 1),
    ],
)
def test_fair_cpus(nodes: list[dict[str, float]], workers: int, cpus: int) -> None:
    assert fair_cpus(nodes, workers, cpus_for_data=2) == cpus


def test_in_words() -> None:
    assert workers_in_words(1, {"CPU": 4.0}) == "1 worker with 4 CPU"
    assert workers_in_words(2, {"CPU": 4.0, "GPU": 0.5}) == "2 workers with 4 CPU, 0.5 GPU each"


@pytest.mark.parametrize(
    ("nodes", "worker", "sizes", "words"),
    [
        (
            [{"CPU": 4}],
            {"CPU": 1},
            [7],
            "the cluster (nodes: 1, in all 4 CPU) has no room for 7 workers with 1 CPU each: "
            "lower scaling.num_workers or scaling.resources_per_worker, or add nodes",
        ),
        (
            [HEAD, {"CPU": 4}, {"CPU": 4}],
            {"CPU": 6},
            [1],
            "the cluster (nodes: 3, in all 8 CPU) has no room for 1 worker with 6 CPU: lower scaling.num_workers",
        ),
        (
            [{"CPU": 16}],
            {"CPU": 1, "GPU": 1},
            [2, 4],
            "in all 16 CPU, 0 GPU) has no room for 2 workers with 1 CPU, 1 GPU each: lower scaling.num_workers or "
            "scaling.resources_per_worker, set scaling.use_gpu=false, or add nodes",
        ),
        (
            [{"CPU": 4}],
            {"CPU": 2},
            [2],
            "2 workers with 2 CPU each would leave 0 of the cluster's CPUs for reading and decoding, which need 2: ",
        ),
    ],
)
def test_a_cluster_that_is_too_small_is_refused(
    nodes: list[dict[str, float]], worker: dict[str, float], sizes: list[int], words: str
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        require_room(nodes, worker, sizes, cpus_for_data=2)


def test_a_cluster_that_holds_the_fewest_workers_is_taken() -> None:
    nodes, worker = [GPU_NODE, CPU_NODE], {"CPU": 1, "GPU": 1}
    assert 0 < usable_workers(nodes, worker, [1, 2, 4], cpus_for_data=2) < 4
    require_room(nodes, worker, [1, 2, 4], cpus_for_data=2)


@pytest.mark.parametrize(
    ("nodes", "worker", "workers", "data", "expected"),
    [
        ([{"CPU": 8}], {"CPU": 1}, 1, 0, 8),
        ([{"CPU": 8}], {"CPU": 1}, 1, 2, 2),  # a third would need 9
        ([{"CPU": 8}], {"CPU": 1}, 2, 2, 2),
        ([{"CPU": 8}], {"CPU": 1}, 3, 2, 1),
        ([{"CPU": 2}], {"CPU": 1}, 1, 2, 0),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}], {"CPU": 1, "GPU": 1}, 2, 2, 2),
        ([{"CPU": 8, "GPU": 1}], {"CPU": 1, "GPU": 1}, 2, 2, 0),
        ([], {"CPU": 1}, 1, 0, 0),
    ],
)
def test_trainings_side_by_side(nodes, worker, workers, data, expected):
    assert side_by_side(nodes, worker, workers, data) == expected
