"""What each replica begins with: its log lines, and the addresses that it listens on."""

from typing import Any

from ray._common.network_utils import is_localhost
from ray.serve._private import replica
from ray.serve.context import _get_serve_request_context
from ray.util import get_node_ip_address

from foodseg.serve.http.json_logs import log_json_to_stderr

_add_port = replica.add_port_to_grpc_server


def start_replica() -> None:
    """Called once in each replica behind the ingress; to the ingress, the guard says which request it is."""
    listen_as_the_node_does()
    log_json_to_stderr(_request_id)


def listen_as_the_node_does() -> None:
    """Keeps Serve's own server of a replica, which runs whatever it is sent, on loopback where the node is there.

    Serve opens it on every address, whether the mode that uses it is on or not, and has no setting for that.
    """
    if is_localhost(get_node_ip_address()):
        replica.add_port_to_grpc_server = _add_loopback_port


def _add_loopback_port(server: Any, address: str) -> Any:
    return _add_port(server, address.replace("[::]", "127.0.0.1"))


def _request_id() -> str | None:
    # Serve hands the id of a request on with every call of a handle
    return _get_serve_request_context().request_id or None
