"""What foodseg takes from the private parts of Ray Serve: its client, what `serve run FILE` calls, and its controller.

Serve's public API starts applications only from Python objects, and replicas of those are restarted by every change of
`user_config`.
"""

from collections.abc import Mapping
from typing import Any

import ray
from ray.serve._private import replica
from ray.serve._private.api import serve_start
from ray.serve._private.client import ServeControllerClient
from ray.serve._private.common import DeploymentStatus
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve._private.constants import SERVE_SESSION_ID as SESSION_ID_HEADER
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client, _get_serve_request_context, _set_global_client
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ServeDeploySchema

__all__ = [
    "SESSION_ID_HEADER",
    "DeploymentStatus",
    "ServeControllerClient",
    "begin_shutdown",
    "bind_replica_grpc_to_loopback",
    "connected_client",
    "controller_runs",
    "deploy",
    "deployed_applications",
    "forget_client",
    "request_id",
    "route_in_own_loop",
    "start_serve",
]

_add_port = replica.add_port_to_grpc_server


# --- the client ---


def start_serve(http_options: Mapping[str, Any], proxy_location: ProxyLocation) -> ServeControllerClient:
    """Starts Serve's controller and proxies on the connected Ray, or connects to those that run.

    Raises:
        RayError, TimeoutError: a proxy does not start.
    """
    return serve_start(http_options=dict(http_options), proxy_location=proxy_location)


def connected_client() -> ServeControllerClient | None:
    """Returns the client of the Serve that runs on the connected Ray, None where no Serve runs."""
    return _get_global_client(raise_if_no_controller_running=False)


def forget_client() -> None:
    """Ends this process's connection to Serve; Serve itself keeps running."""
    _set_global_client(None)


def deploy(client: ServeControllerClient, schema: ServeDeploySchema) -> None:
    """Replaces all applications by those of `schema`; returns before they run."""
    client.deploy_apps(schema, _blocking=False)


def deployed_applications(client: ServeControllerClient) -> list[dict[str, Any]]:
    """Returns the applications as they were deployed, in the form of a deploy file's `applications`."""
    configs = ray.get(client._controller.get_app_configs.remote()).values()
    return [config.model_dump(exclude_unset=True) for config in configs]


# --- the controller ---


def begin_shutdown(client: ServeControllerClient, seconds: float) -> None:
    """Tells the controller to end everything; returns when it has heard that, not when it is done.

    Raises:
        RayError: the controller is gone.
        TimeoutError: it does not answer within `seconds`.
    """
    ray.get(client._controller.graceful_shutdown.remote(wait=False), timeout=seconds)


def controller_runs() -> bool:
    """Returns whether Serve's controller is still there."""
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


# --- handles and replicas ---


def route_in_own_loop(handle: DeploymentHandle) -> None:
    """Lets a new handle work outside an event loop in Serve's throughput mode, too."""
    handle._init(_run_router_in_separate_loop=True)


def request_id() -> str | None:
    """Returns the id of the request that is worked on, which Serve hands on with every call of a handle."""
    return _get_serve_request_context().request_id or None


def bind_replica_grpc_to_loopback() -> None:
    """Lets Serve's own server of this replica listen on 127.0.0.1 alone; called before Serve opens that server.

    The server runs whatever it is sent. Serve opens it on every address, whether the mode that uses it is on or not,
    and has no setting for that.
    """
    replica.add_port_to_grpc_server = _add_loopback_port


def _add_loopback_port(server: Any, address: str) -> Any:
    return _add_port(server, address.replace("[::]", "127.0.0.1"))
