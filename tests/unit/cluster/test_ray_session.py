"""What is started here carries the mark of this process; what a cluster could have is read from its node types."""

import os
import signal
from pathlib import Path

import pytest
import yaml

from foodseg.cluster import ray_session
from foodseg.cluster.orphans import MARK
from foodseg.cluster.ray_session import gpus_to_come, most_gpus
from foodseg.errors import RetryLater

ROOT = Path(__file__).parents[3]


@pytest.fixture
def started(monkeypatch):
    """What `ray.init` would have been called with, and the mark that its processes would have; Ray is not started."""
    calls = []

    def init(**options):
        signal.signal(signal.SIGTERM, lambda *_: None)  # as Ray does
        calls.append((options["address"], os.environ.get(MARK)))
        if "fail" in calls:
            raise ConnectionError("no room")

    monkeypatch.setattr(ray_session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_session.ray, "init", init)
    monkeypatch.setattr(ray_session.ray, "shutdown", lambda: calls.append("shutdown"))
    return calls


@pytest.fixture
def handler():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, own := lambda *_: None)
    yield own
    signal.signal(signal.SIGTERM, before)


def test_what_is_started_here_ends_with_this_process(started, handler):
    with ray_session.ray_session(None, logical_cpus=1):
        (address, mark), *rest = started
        assert address == "local" and mark.startswith(f"{os.getpid()}/") and rest == []
        assert MARK not in os.environ  # what the body starts is its own affair
        assert signal.getsignal(signal.SIGTERM) is handler
    assert started[1:] == ["shutdown"]


def test_a_signal_while_ray_starts_is_answered_by_the_handler_that_was_there(started, monkeypatch):
    def init(**options):
        raise SystemExit(signal.SIGTERM)  # what Ray's own handler does

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_session.ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), ray_session.ray_session(None, logical_cpus=1):
            pass
        assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_cluster_outlives_the_command(started, handler):
    with ray_session.ray_session("auto", logical_cpus=1):
        assert started == [("auto", None)]
        assert signal.getsignal(signal.SIGTERM) is handler
    assert started[1:] == ["shutdown"]


def test_a_ray_that_does_not_start_leaves_nothing(started, handler):
    started.append("fail")
    with pytest.raises(RetryLater, match="Ray does not start on this machine"), ray_session.ray_session(None, 1):
        pass
    assert started[-1] == "shutdown" and MARK not in os.environ
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_projects_own_cluster_can_bring_gpus():
    tree = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    gpu_types = [t for t in tree["available_node_types"].values() if t.get("resources", {}).get("GPU")]
    assert [kind["min_workers"] for kind in gpu_types] == [0]
    assert most_gpus(tree) == sum(kind["max_workers"] * kind["resources"]["GPU"] for kind in gpu_types) > 0


@pytest.mark.parametrize(
    ("tree", "most"),
    [
        ({}, 0),
        ({"max_workers": 4, "available_node_types": {"a": {"resources": {"CPU": 4}}}}, 0),
        ({"max_workers": 4, "available_node_types": {"a": {"resources": {"GPU": 2}}}}, 8),
        ({"max_workers": 4, "available_node_types": {"a": {"resources": {"GPU": 2}, "max_workers": 9}}}, 8),
        ({"max_workers": 4, "available_node_types": {"a": {"resources": {"GPU": 2}, "max_workers": 0}}}, 0),
        ({"max_workers": 4, "available_node_types": {"a": {}, "b": {"resources": {"GPU": 1}, "max_workers": 3}}}, 3),
    ],
)
def test_most_gpus(tree, most):
    assert most_gpus(tree) == most


def test_gpus_to_come(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_session, "_BOOTSTRAP", tmp_path / "bootstrap.yaml")
    monkeypatch.setattr(ray_session, "max_resources_from_cluster_config", lambda: None)
    monkeypatch.setattr(ray_session, "nodes_may_come", lambda: False)
    assert gpus_to_come() == 0
    monkeypatch.setattr(ray_session, "nodes_may_come", lambda: True)
    assert gpus_to_come() is None
    types = {"head": {}, "gpu": {"resources": {"GPU": 4}, "max_workers": 2}}
    (tmp_path / "bootstrap.yaml").write_text(yaml.safe_dump({"max_workers": 12, "available_node_types": types}))
    assert gpus_to_come() == 8
    monkeypatch.setattr(ray_session, "max_resources_from_cluster_config", lambda: {"CPU": 8, "GPU": 1})
    assert gpus_to_come() == 1
