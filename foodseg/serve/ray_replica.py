"""Setup of each replica: its log format, and the addresses that it listens on.

It is a file of its own because every deployment (`ray_app`, `ray_segmenter`, `ray_sam`, `ray_clip`, `ray_refine`) calls
it, and none of them may load the packages of another's model.
"""

from foodseg.cluster.ray_internals.core import node_is_loopback
from foodseg.cluster.ray_internals.serve import bind_replica_grpc_to_loopback, request_id
from foodseg.serve.http.json_logs import log_json_to_stderr


def start_replica() -> None:
    """Called once in each replica behind the ingress. In the ingress, `Guard` sets the request id of log lines."""
    listen_as_the_node_does()
    log_json_to_stderr(request_id)


def listen_as_the_node_does() -> None:
    """Binds the gRPC server of a replica, which runs whatever it receives, to loopback if the node is on loopback."""
    if node_is_loopback():
        bind_replica_grpc_to_loopback()
