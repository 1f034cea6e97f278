"""What a Ray of foodseg's own listens on, as far as it shows without starting one; tests/e2e looks at the ports."""

import asyncio
import inspect
import os

import psutil
import pytest
from grpc import aio

from foodseg.cluster import ray_session
from foodseg.cluster.ray_internals import core
from foodseg.cluster.ray_internals import serve as internals
from foodseg.serve import ray_replica

ray, replica = ray_session.ray, internals.replica


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


@pytest.mark.parametrize(("node", "other"), [("127.0.0.1", []), ("192.0.2.7", ["::"])])
def test_the_server_of_a_replica_listens_as_its_node_does(
    node: str, other: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "add_port_to_grpc_server", replica.add_port_to_grpc_server)  # to be put back
    monkeypatch.setattr(core, "get_node_ip_address", lambda: node)
    ray_replica.listen_as_the_node_does()

    async def listening() -> list[str]:
        server = aio.server()
        port = replica.add_port_to_grpc_server(server, "[::]:0")
        await server.start()
        found = psutil.Process().net_connections("inet")
        await server.stop(0)
        return [one.laddr.ip for one in found if one.laddr.port == port and one.status == psutil.CONN_LISTEN]

    found = asyncio.run(listening())
    assert found
    assert [address for address in found if address.removeprefix("::ffff:") != "127.0.0.1"] == other
    # the name that Serve looks up when it opens that server, after our constructor
    assert 'add_port_to_grpc_server(self._server, "[::]:0")' in inspect.getsource(replica)
