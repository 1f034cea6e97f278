"""What each replica begins with: its log lines, and the addresses that it listens on."""

from foodseg.cluster.ray_internals.core import node_is_loopback
from foodseg.cluster.ray_internals.serve import bind_replica_grpc_to_loopback, request_id
from foodseg.serve.http.json_logs import log_json_to_stderr


def start_replica() -> None:
    """Called once in each replica behind the ingress; to the ingress, the guard says which request it is."""
    listen_as_the_node_does()
    log_json_to_stderr(request_id)


def listen_as_the_node_does() -> None:
    """Keeps Serve's own server of a replica, which runs whatever it is sent, on loopback where the node is there."""
    if node_is_loopback():
        bind_replica_grpc_to_loopback()
