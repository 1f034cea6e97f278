"""What a Ray of foodseg's own listens on, as far as it shows without starting one; tests/e2e looks at the ports."""

import os

import pytest

from foodseg.cluster import ray_session
from foodseg.cluster.ray_internals import core

ray = ray_session.ray


def test_ray_starts_on_loopback_and_the_environment_is_restored() -> None:
    assert not ray.is_initialized()
    before = dict(os.environ)
    outside = ray.util.get_node_ip_address()
    with core.loopback_only():
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"  # what its processes are started with
    assert ray.util.get_node_ip_address() == outside
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1:6379", True), ("localhost:6379", True), ("ray://127.0.0.1:10001", True), ("192.0.2.7:6379", False)],
)
def test_which_clusters_are_reached_at_loopback(address: str, loopback: bool) -> None:
    assert ray_session._is_loopback(address) == loopback
