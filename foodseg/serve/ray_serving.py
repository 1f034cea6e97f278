"""Starts the endpoint from a deploy file, and swaps a model of a running one; what `foodseg serve` calls.

with serving("serve_configs/local.yaml") as endpoint: ...
swap("meals", "runs/b", address="auto")
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.api import serve_start
from ray.serve._private.client import ServeControllerClient
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from foodseg import storage
from foodseg.checkpoint_files import resolve_checkpoint
from foodseg.config.serve import check_model
from foodseg.errors import FoodsegError, RetryLater, UserError
from foodseg.ray_session import cores, line_of, ray_session
from foodseg.serve.backends import ModelState
from foodseg.serve.deploy_file import SEGMENTER, find_application, read_deploy_file, with_model
from foodseg.serve.keys import keys_for
from foodseg.serve.served_model import ServedModel, checkpoint_sha

START_SECONDS = 300.0  # a large SAM is read from a slow disk in less
_POLL_SECONDS = 0.2
# Of a Ray that is started for the endpoint. foodseg's own has metrics off, for training; Ray gives workers a niceness
# of 15, by which everything else on the machine goes before those who wait for an answer; a proxy that is not ready
# within 5 seconds is killed, which is short on a busy machine; what is larger than 100 KB, such as a picture, is not
# sent but put into the object store and fetched from there, which takes milliseconds; so do Serve's own threads for
# a deployment's code and for its router, which guard against code that blocks, as ours does only while it starts.
_ENVIRONMENT = {
    "RAY_enable_metrics_collection": "1",
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    "RAY_max_direct_call_object_size": str(4 * 2**20),
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "foodseg.serve.ray_proxy:middlewares",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """url: where it answers. ray: address to name in --address. metrics: of Prometheus, None on other machines."""

    url: str
    ray: str
    metrics: str | None


@contextlib.contextmanager
def serving(path: str | None, overrides: Sequence[str] = (), address: str | None = None) -> Iterator[Endpoint]:
    """Runs the body while the endpoint answers; on a Ray of its own, or on the cluster at `address`.

    Args:
        path: Serve's deploy file; None = defaults. overrides: `section.key=value` for our sections.

    Raises:
        UserError: the file, a checkpoint, an address without keys, a port that is taken, a deployment that fails.
        RetryLater: it does not start in time.
    """
    deploy = read_deploy_file(path, overrides)
    options = deploy.tree["http_options"]
    keys_for(deploy.config.http.model_copy(update={"host": options["host"]}), os.environ)
    schema = ServeDeploySchema.model_validate(deploy.tree)
    if address is None:
        _require_free(options["host"], options["port"])
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells of each of its own parts that has started
    with ray_session(address, logical_cpus=max(2, cores())):
        # what `serve run FILE` calls; Serve's public API starts applications only from Python objects, and replicas of
        # those are restarted by every change of `user_config`
        try:
            client = serve_start(
                http_options=schema.http_options.model_dump(), proxy_location=ProxyLocation(schema.proxy_location)
            )
        except (RayError, TimeoutError) as error:
            raise RetryLater(f"the HTTP proxy does not start ({line_of(error, 0)}): free processors") from None
        try:
            client.deploy_apps(schema, _blocking=False)
            name = find_application(deploy.tree["applications"], path or "the defaults")["name"]
            _wait(client, name)
            yield _endpoint(options["host"], options["port"])
        finally:
            serve.shutdown()


def swap(name: str, checkpoint: str, address: str) -> dict[str, Any]:
    """Makes a public name mean another checkpoint, in the endpoint on the cluster at `address`, without a restart.

    The checkpoint is loaded and labels a picture here first, so that a bad one is refused before anything changes.

    Returns:
        name, checkpoint, sha; `before`: the sha that answered until now, or None; seconds that it took.

    Raises:
        UserError: the checkpoint is bad, no endpoint runs there, or the replicas cannot load it.
        RetryLater: they do not load it in time.
    """
    try:
        check_model(name, checkpoint)
    except ValueError as error:
        raise UserError(str(error)) from None
    uri = storage.absolute(resolve_checkpoint(checkpoint))
    sha = checkpoint_sha(uri)
    ServedModel(name, uri, sha)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ray_session(address, logical_cpus=0):
        client = _get_global_client(raise_if_no_controller_running=False)
        if client is None:
            raise UserError(f"no endpoint runs on the cluster at {address}: start one with `foodseg serve`")
        deployed = [app.model_dump(exclude_unset=True) for app in _deployed(client).values()]
        application = find_application(deployed, f"the cluster at {address}")
        handle = DeploymentHandle(SEGMENTER, application["name"])
        # in Serve's throughput mode a handle works only within an event loop, unless it is told otherwise
        handle._init(_run_router_in_separate_loop=True)
        before = next((state.sha for state in _states(handle) if state.name == name), None)
        began = time.monotonic()
        changed = with_model(application, name, uri)
        # Serve removes whatever applications the call leaves out
        rest = [app for app in deployed if app is not application]
        client.deploy_apps(ServeDeploySchema.model_validate({"applications": [*rest, changed]}), _blocking=False)
        _wait_for_model(handle, name, uri, sha)
        seconds = time.monotonic() - began
    return {"name": name, "checkpoint": storage.redact(uri), "sha": sha, "before": before, "seconds": seconds}


def _deployed(client: ServeControllerClient) -> dict[str, Any]:
    applications: dict[str, Any] = ray.get(client._controller.get_app_configs.remote())
    return applications


def _states(handle: DeploymentHandle) -> list[ModelState]:
    states: list[ModelState] = handle.models.remote().result(timeout_s=START_SECONDS)
    return states


def _wait_for_model(handle: DeploymentHandle, name: str, uri: str, sha: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        state = next((state for state in _states(handle) if state.name == name), None)
        if state is not None and state.wanted == storage.redact(uri):
            if state.sha == sha:
                return
            if state.error is not None:
                raise UserError(f"the replicas cannot load it, and serve what they did before: {state.error}")
        time.sleep(_POLL_SECONDS)
    raise RetryLater(f"the model {name} is not loaded after {START_SECONDS:.0f} s: GET /v1/models shows its state")


def _wait(client: ServeControllerClient, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        status = client.get_serve_status(name).app_status
        if status.status == ApplicationStatus.RUNNING:
            client.wait_for_proxies_serving(wait_for_applications_running=True)
            return
        if status.status == ApplicationStatus.DEPLOY_FAILED:
            raise _failure(status.message)
        time.sleep(_POLL_SECONDS)
    raise RetryLater(f"the endpoint does not answer after {START_SECONDS:.0f} s: {status.message or 'still starting'}")


def _failure(message: str) -> FoodsegError:
    """Returns the sentence in what Serve says of a failed deployment, mostly the traceback of a worker."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    ours = next((line for line in reversed(lines) if line.startswith("foodseg.errors.")), None)
    if ours is not None:
        return UserError(ours.partition(": ")[2])
    return UserError(f"the endpoint does not start: {lines[-1] if lines else 'Serve gives no reason'}")


def _endpoint(host: str, port: int) -> Endpoint:
    node = next((n for n in ray.nodes() if n["NodeID"] == ray.get_runtime_context().get_node_id()), None)
    metrics = None if node is None else f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    shown = "127.0.0.1" if host == "0.0.0.0" else host
    return Endpoint(f"http://{shown}:{port}/", ray.get_runtime_context().gcs_address, metrics)


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port} ({error.strerror}): choose another with --set http.port=8001"
            ) from None
