"""A Serve application that says where its replica listens and which request it works on.

{"name": "echo", "import_path": "tests.support.ray_echo:app", "route_prefix": None}
"""

import psutil
from ray import serve

from foodseg.cluster.ray_internals.serve import bind_replica_grpc_to_loopback, request_id


def _listening() -> set[tuple[str, int]]:
    found = psutil.Process().net_connections("inet")
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}


@serve.deployment(name="Echo", ray_actor_options={"num_cpus": 0.05})
class Echo:
    """Binds Serve's server of its replica to loopback."""

    def __init__(self) -> None:
        self._before = _listening()  # of Ray's own
        bind_replica_grpc_to_loopback()

    async def look(self) -> tuple[str | None, list[str]]:
        """Returns the id of this request, and the addresses at which Serve's server listens."""
        return request_id(), sorted(address for address, _ in _listening() - self._before)


app = Echo.bind()  # type: ignore[attr-defined]
