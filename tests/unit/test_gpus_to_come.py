"""What a cluster could have is read from its node types."""

from pathlib import Path

import pytest
import yaml

from foodseg import ray_session
from foodseg.ray_session import gpus_to_come, most_gpus

ROOT = Path(__file__).parents[2]


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
    monkeypatch.setattr(ray_session.state, "get_max_resources_from_cluster_config", lambda: None)
    monkeypatch.setattr(ray_session, "nodes_may_come", lambda: False)
    assert gpus_to_come() == 0
    monkeypatch.setattr(ray_session, "nodes_may_come", lambda: True)
    assert gpus_to_come() is None
    types = {"head": {}, "gpu": {"resources": {"GPU": 4}, "max_workers": 2}}
    (tmp_path / "bootstrap.yaml").write_text(yaml.safe_dump({"max_workers": 12, "available_node_types": types}))
    assert gpus_to_come() == 8
    monkeypatch.setattr(ray_session.state, "get_max_resources_from_cluster_config", lambda: {"CPU": 8, "GPU": 1})
    assert gpus_to_come() == 1
