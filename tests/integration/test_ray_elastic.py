"""How many workers an elastic run takes, and what is logged; without starting a cluster."""

import logging
import socket

import pytest
import ray
import ray.train
from ray.train.v2.api.exceptions import WorkerGroupError

from foodseg.cluster.ray_internals.train import (
    ReschedulingState,
    ResizeDecision,
    RestartingState,
    RunningState,
    SchedulingState,
)
from foodseg.cluster.ray_session import living_nodes
from foodseg.train import ray_elastic
from foodseg.train.ray_elastic import REPEAT_SECONDS, Announcer, ElasticWorkers


def elastic(
    monkeypatch, nodes: dict[str, float], worker: dict[str, float], *, may_come: bool = False
) -> ElasticWorkers:
    """A policy for 1, 2 or 4 workers on nodes of so many CPUs (and one GPU each where the worker wants one)."""
    living = {name: {"CPU": cpus, "GPU": worker.get("GPU", 0)} for name, cpus in nodes.items()}
    monkeypatch.setattr(ray_elastic, "living_nodes", lambda: living)
    monkeypatch.setattr(ray_elastic, "nodes_may_come", lambda: may_come)
    scaling = ray.train.ScalingConfig(num_workers=(1, 4), resources_per_worker=worker, use_gpu="GPU" in worker)
    return ElasticWorkers(scaling, [1, 2, 4], cpus_for_data=2)


@pytest.mark.parametrize(
    ("nodes", "reserved", "workers"),
    [
        ({"a": 8, "b": 8}, {"a": 8, "b": 8}, 4),
        ({"a": 4, "b": 4}, {"a": 4, "b": 4}, 2),  # four would leave the data nothing
        ({"a": 6, "b": 4}, {"a": 6, "b": 4}, 4),
        ({"a": 8}, {"a": 6}, 2),  # three find room, but do not divide the batch
        ({"a": 4}, {"a": 4, "gone": 4}, 1),  # the reservation is older than the loss
        ({"a": 3}, {"a": 3}, 0),  # one worker leaves one CPU: too few
        ({}, {"gone": 8}, 0),
    ],
)
def test_the_number_of_workers(monkeypatch, nodes: dict[str, float], reserved: dict[str, float], workers: int) -> None:
    policy = elastic(monkeypatch, nodes, {"CPU": 2})
    assert policy._count_possible_workers({name: {"CPU": cpus} for name, cpus in reserved.items()}) == workers


def test_what_is_asked_for_leaves_the_data_its_cpus(monkeypatch) -> None:
    assert elastic(monkeypatch, {"a": 4, "b": 4}, {"CPU": 2})._get_num_workers_for_resource_request() == 2
    assert elastic(monkeypatch, {}, {"CPU": 2})._get_num_workers_for_resource_request() == 1


def test_nodes_are_asked_for_where_they_may_come_and_the_data_has_no_use_for_them(monkeypatch) -> None:
    gpu = elastic(monkeypatch, {}, {"CPU": 2, "GPU": 1}, may_come=True)
    assert gpu._get_num_workers_for_resource_request() == 4
    assert elastic(monkeypatch, {"a": 4}, {"CPU": 2}, may_come=True)._get_num_workers_for_resource_request() == 1


def test_a_node_that_does_not_answer_is_not_counted(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nodes = [
            {"NodeID": "up", "Alive": True, "NodeManagerPort": listening.getsockname()[1]},
            {"NodeID": "lost", "Alive": True, "NodeManagerPort": closed.getsockname()[1]},
            {"NodeID": "known to be lost", "Alive": False, "NodeManagerPort": listening.getsockname()[1]},
        ]
        for node in nodes:
            node |= {"NodeManagerAddress": "127.0.0.1", "Resources": {"CPU": 2.0}}
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        assert living_nodes() == {"up": {"CPU": 2.0}}


def test_the_user_hears_of_losses_sizes_and_waiting(monkeypatch) -> None:
    said: list[tuple[int, str]] = []
    monkeypatch.setattr(ray_elastic, "send_line", lambda relay, level, text: said.append((level, text)))
    clock = [100.0]
    monkeypatch.setattr(ray_elastic.time, "monotonic", lambda: clock[0])
    announcer = Announcer("relay", "1 worker with 2 CPU", None)

    def enter(state: object, after: object) -> None:
        announcer.after_controller_state_update(after, state)

    two, one = (SchedulingState(ResizeDecision(number, {"CPU": 2})) for number in (2, 1))
    running = RunningState()
    lost = RestartingState(WorkerGroupError("long", {1: RuntimeError("Traceback\n  ...\nIt broke. Advice follows.")}))
    enter(two, after=running)
    enter(running, after=two)
    enter(lost, after=running)
    enter(lost, after=lost)
    clock[0] += REPEAT_SECONDS
    enter(lost, after=lost)
    enter(lost, after=lost)
    enter(one, after=lost)
    clock[0] += REPEAT_SECONDS
    enter(ReschedulingState(lost.training_failed_error), after=one)

    waiting = (logging.WARNING, "the cluster has no room for 1 worker with 2 CPU: waiting for nodes")
    assert said == [
        (logging.INFO, "training on 2 workers"),
        (logging.WARNING, "workers were lost (It broke); resuming from the newest checkpoint"),
        waiting,
        (logging.INFO, "training on 1 worker"),
        waiting,
    ]
