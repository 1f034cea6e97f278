"""What foodseg takes from the private parts of Ray Serve: its client, what `serve run FILE` calls, and its controller.

Serve's public API starts applications only from Python objects, and replicas of those are restarted by every change of
`user_config`.

The client that `start_serve` and `connected_client` return is private, too: it is only handed to the functions here.
A function imports what is private where it runs, so that what has moved breaks that function and its test alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.serve.config import ProxyLocation
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

if TYPE_CHECKING:
    from ray.serve._private.client import ServeControllerClient


# --- the client ---


def start_serve(http_options: Mapping[str, Any], proxy_location: ProxyLocation) -> "ServeControllerClient":
    """Starts Serve's controller and proxies on the connected Ray, or connects to those that run.

    Raises:
        RayError, TimeoutError: a proxy does not start.
    """
    from ray.serve._private.api import serve_start

    return serve_start(http_options=dict(http_options), proxy_location=proxy_location)


def connected_client() -> "ServeControllerClient | None":
    """Returns the client of the Serve that runs on the connected Ray, None where no Serve runs."""
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)


def close_handles(client: "ServeControllerClient") -> None:
    """Closes the handles that the client keeps."""
    client.shutdown_cached_handles()


def forget_client() -> None:
    """Ends this process's connection to Serve; Serve itself keeps running."""
    from ray.serve.context import _set_global_client

    _set_global_client(None)


def listening_host() -> str | None:
    """Returns the address that Serve's proxies listen on; None where no Ray is connected or no Serve runs on it."""
    # without a connected Ray the look for a client would start one
    client = connected_client() if ray.is_initialized() else None
    if client is None:
        return None
    host: str = client.http_config.host
    return host


# --- applications ---


@dataclass(frozen=True)
class ApplicationState:
    """status, message: of the application. healthy: names of its deployments that are ready."""

    status: ApplicationStatus
    message: str
    healthy: tuple[str, ...]


def deploy(client: "ServeControllerClient", schema: ServeDeploySchema) -> None:
    """Replaces all applications by those of `schema`; returns before they run."""
    client.deploy_apps(schema, _blocking=False)


def deployed_applications(client: "ServeControllerClient") -> list[dict[str, Any]]:
    """Returns the applications as they were deployed, in the form of a deploy file's `applications`."""
    configs = ray.get(client._controller.get_app_configs.remote()).values()
    return [config.model_dump(exclude_unset=True) for config in configs]


def application_state(client: "ServeControllerClient", application: str) -> ApplicationState:
    """Returns the state of a deployed application."""
    from ray.serve._private.common import DeploymentStatus

    found = client.get_serve_status(application)
    healthy = tuple(part.name for part in found.deployment_statuses if part.status == DeploymentStatus.HEALTHY)
    return ApplicationState(found.app_status.status, found.app_status.message, healthy)


def wait_until_serving(client: "ServeControllerClient") -> None:
    """Returns when every proxy forwards requests to the applications that run.

    Raises:
        TimeoutError: a proxy does not.
    """
    client.wait_for_proxies_serving(wait_for_applications_running=True)


# --- the controller ---


def begin_shutdown(client: "ServeControllerClient", seconds: float) -> None:
    """Tells the controller to end everything; returns when it has heard that, not when it is done.

    Raises:
        RayError: the controller is gone.
        TimeoutError: it does not answer within `seconds`.
    """
    ray.get(client._controller.graceful_shutdown.remote(wait=False), timeout=seconds)


def controller_runs() -> bool:
    """Returns whether Serve's controller is still there."""
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

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
    from ray.serve.context import _get_serve_request_context

    return _get_serve_request_context().request_id or None


def session_id_header() -> str:
    """Returns the name of the header by which a client chooses a replica; an environment variable of Serve sets it."""
    from ray.serve._private.constants import SERVE_SESSION_ID

    return SERVE_SESSION_ID


def is_replica_of(actor: str, deployment: str) -> bool:
    """Returns whether an actor of this name is a replica of the deployment, of any application."""
    return f"#{deployment}#" in actor


def call_in_replicas(deployment: str, function: Callable[[], Any]) -> list[Any]:
    """Returns what the function returns in each replica of a deployment; [] where the deployment has none.

    Raises:
        RayError: a replica is gone, or the function raises.
    """
    named = ray.util.list_named_actors(all_namespaces=True)
    actors = [ray.get_actor(**one) for one in named if is_replica_of(one["name"], deployment)]
    found: list[Any] = ray.get([actor.__ray_call__.remote(lambda _: function()) for actor in actors])
    return found


def bind_replica_grpc_to_loopback() -> None:
    """Lets Serve's own server of this replica listen on 127.0.0.1 alone; called before Serve opens that server.

    The server runs whatever it is sent. Serve opens it on every address, whether the mode that uses it is on or not,
    and has no setting for that.
    """
    from ray.serve._private import replica

    add_port = replica.add_port_to_grpc_server

    def add_loopback_port(server: Any, address: str) -> Any:
        return add_port(server, address.replace("[::]", "127.0.0.1"))

    replica.add_port_to_grpc_server = add_loopback_port
