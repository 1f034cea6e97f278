"""Starts the endpoint from a deploy file, and swaps a model of a running one; `foodseg serve` calls it.

with serving("serve_configs/local.yaml") as endpoint: ...
swap("meals", "runs/b", address="auto")
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import ProxyLocation
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from foodseg import storage
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.cluster.ray_internals.serve import (
    application_state,
    begin_shutdown,
    close_handles,
    connected_client,
    controller_runs,
    deploy,
    deployed_applications,
    forget_client,
    route_in_own_loop,
    start_serve,
    wait_until_serving,
)
from foodseg.cluster.ray_session import cores, line_of, ray_session
from foodseg.config.serve import ServeConfig, check_model
from foodseg.errors import FoodsegError, RetryLater, UserError
from foodseg.serve.deploy_file import INGRESS, SEGMENTER, find_application, read_deploy_file, with_model
from foodseg.serve.http.api_keys import keys_for
from foodseg.serve.protocols import ModelState
from foodseg.serve.served_model import ServedModel, checkpoint_sha
from foodseg.serve.startup_progress import StartupProgress

START_SECONDS = 300.0  # a large SAM is read from a slow disk in less
STOP_SECONDS = 30.0  # replicas that are still busy have 20
_POLL_SECONDS = 0.2
# Set for a Ray that is started for the endpoint. By default foodseg turns metrics off, for training. Ray gives workers
# a niceness of 15, so that everything else on the machine runs before requests. Serve kills a proxy that is not ready
# within 5 seconds, which is short on a busy machine. Ray moves what is larger than 100 KB, such as an image, through
# the object store, which costs milliseconds. So do Serve's own threads for a deployment's code and for its router;
# they guard against code that blocks, and ours blocks only while it starts.
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
class ServedEndpoint:
    """url: where it answers. ray: address to name in --address. metrics: of Prometheus, None on other machines."""

    url: str
    ray: str
    metrics: str | None


@contextlib.contextmanager
def serving(
    path: str | None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[ServedEndpoint]:
    """Runs the body while the endpoint answers; on a Ray of its own, or on the cluster at `address`.

    At the end, requests in flight are answered first; KeyboardInterrupt cuts that short.

    Args:
        path: Serve's deploy file; None = defaults. overrides: `section.key=value` for our sections.
        say: called with each line of the progress of the start.

    Raises:
        UserError: the file, a checkpoint, an address without keys, a port that is taken, a deployment that fails.
        RetryLater: it does not start in time.
    """
    file = read_deploy_file(path, overrides)
    options = file.tree["http_options"]
    keys_for(file.config.http.model_copy(update={"host": options["host"]}), os.environ)
    schema = ServeDeploySchema.model_validate(file.tree)
    if address is None:
        _require_free(options["host"], options["port"])
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # else it logs the start of each of its own actors
    name = find_application(file.tree["applications"], path or "the defaults")["name"]
    own = address is None and not ray.is_initialized()
    with contextlib.ExitStack() as stack:
        with StartupProgress(_stages(file.config), say) as progress:
            progress.next()
            stack.enter_context(ray_session(address, logical_cpus=max(2, cores())))
            progress.next()
            try:
                client = start_serve(schema.http_options.model_dump(), ProxyLocation(schema.proxy_location))
            except (RayError, TimeoutError) as error:
                raise RetryLater(f"the HTTP proxy does not start ({line_of(error, 0)}): free processors") from None
            stack.callback(_forget if own else _shut_down)
            progress.next()
            deploy(client, schema)
            _wait(client, name, progress.note)
        try:
            yield _endpoint(options["host"], options["port"])
        finally:
            with contextlib.suppress(KeyboardInterrupt):
                _drain(name, file.config.http.request_seconds)


@dataclass(frozen=True)
class Swapped:
    """The checkpoint that a public name now serves, its URI without secrets.

    before: sha of the one that it served until now; None = none. seconds: that the swap took.
    """

    name: str
    checkpoint: str
    sha: str
    before: str | None
    seconds: float

    def to_json(self) -> dict[str, object]:
        """Returns it as `foodseg serve swap --json` prints it."""
        return asdict(self)


def swap(name: str, checkpoint: str, address: str) -> Swapped:
    """Swaps the checkpoint of a public name, in the endpoint on the cluster at `address`, without a restart.

    The checkpoint is loaded and labels an image here first, so that a bad one is refused before anything changes.

    Raises:
        UserError: the checkpoint is bad, no endpoint runs there, or the replicas cannot load it.
        RetryLater: they do not load it in time.
    """
    try:
        check_model(name, checkpoint)
    except ValueError as error:
        raise UserError(str(error)) from None
    uri = resolve_checkpoint(checkpoint)
    sha = checkpoint_sha(uri)
    ServedModel(name, uri, sha)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ray_session(address, logical_cpus=0):
        client = connected_client()
        if client is None:
            raise UserError(f"no endpoint runs on the cluster at {address}: start one with `foodseg serve`")
        deployed = deployed_applications(client)
        application = find_application(deployed, f"the cluster at {address}")
        handle = DeploymentHandle(SEGMENTER, application["name"])
        # in Serve's throughput mode a handle works only within an event loop by default
        route_in_own_loop(handle)
        before = next((state.sha for state in _states(handle) if state.name == name), None)
        began = time.monotonic()
        changed = with_model(application, name, uri)
        # Serve removes whatever applications the call leaves out
        rest = [app for app in deployed if app is not application]
        deploy(client, ServeDeploySchema.model_validate({"applications": [*rest, changed]}))
        _wait_for_model(handle, name, uri, sha)
        seconds = time.monotonic() - began
    return Swapped(name, storage.redact(uri), sha, before, seconds)


def _stages(config: ServeConfig) -> list[tuple[str, float]]:
    """Returns the stages of the start, and about how long each takes on an idle laptop."""
    models = ", ".join(f"{name} ({storage.redact(uri)})" for name, uri in config.segmenter.models.items())
    parts = [models or "no model", *(["Segment Anything"] if config.sam else []), *(["CLIP"] if config.clip else [])]
    parts += [f"the model of regions ({storage.redact(config.regions.model)})"] if config.regions else []
    return [
        ("starting Ray", 6.0),
        ("starting Serve and its proxy", 6.0),
        (f"loading {', '.join(parts)}", 8.0 + 5.0 * len(parts)),  # each imports torch in a process of its own
    ]


def _drain(name: str, seconds: float) -> None:
    """Makes the ingress refuse new requests and answer those in flight."""
    try:
        replicas = sum(serve.status().applications[name].deployments[INGRESS].replica_states.values())
        handle = DeploymentHandle(INGRESS, name)
        route_in_own_loop(handle)
        calls = [
            handle.drain.remote(seconds) for _ in range(replicas)
        ]  # the router picks the replica with the fewest requests
        for call in calls:
            call.result(timeout_s=seconds + 5)
    except Exception as error:  # of any kind: the endpoint ends all the same
        _log.warning("cannot wait for requests in flight (%s)", line_of(error, 0))


def _forget() -> None:
    """Closes the connection to a Serve whose Ray cluster is about to be stopped.

    Serve's own shutdown would stop its actors one by one and wait for each; its last message is an error.
    """
    client = connected_client()
    if client is not None:
        close_handles(client)
    forget_client()


def _shut_down() -> None:
    """Stops the endpoint on a cluster that continues to run, as `serve.shutdown` does.

    `serve.shutdown` waits in a call of the controller, which ends with the controller; Ray reports that as a failure on
    the terminal.
    """
    client = connected_client()
    if client is None:
        return
    close_handles(client)
    deadline = time.monotonic() + STOP_SECONDS
    try:
        begin_shutdown(client, STOP_SECONDS)
        while controller_runs():
            if time.monotonic() >= deadline:
                _log.warning("Serve is still stopping its actors on the cluster after %.0f s", STOP_SECONDS)
                break
            time.sleep(_POLL_SECONDS)
    except (RayError, TimeoutError):  # the controller is gone
        pass
    forget_client()


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


def _wait(client: Any, name: str, note: Callable[[str], None]) -> None:
    deadline = time.monotonic() + START_SECONDS
    ready: set[str] = set()
    while time.monotonic() < deadline:
        state = application_state(client, name)
        for deployment in state.healthy:
            if deployment not in ready:
                ready.add(deployment)
                note(f"{deployment} is ready")
        if state.status == ApplicationStatus.RUNNING:
            wait_until_serving(client)
            return
        if state.status == ApplicationStatus.DEPLOY_FAILED:
            raise _failure(state.message)
        time.sleep(_POLL_SECONDS)
    raise RetryLater(f"the endpoint does not answer after {START_SECONDS:.0f} s: {state.message or 'still starting'}")


def _failure(message: str) -> FoodsegError:
    """Returns the error behind Serve's message on a failed deployment, which is mostly the traceback of a worker."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    ours = next((line for line in reversed(lines) if line.startswith("foodseg.errors.")), None)
    if ours is not None:
        return UserError(ours.partition(": ")[2])
    return UserError(f"the endpoint does not start: {lines[-1] if lines else 'Serve gives no reason'}")


def _endpoint(host: str, port: int) -> ServedEndpoint:
    node = next((n for n in ray.nodes() if n["NodeID"] == ray.get_runtime_context().get_node_id()), None)
    metrics = None if node is None else f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    shown = "127.0.0.1" if host == "0.0.0.0" else host
    return ServedEndpoint(f"http://{shown}:{port}/", ray.get_runtime_context().gcs_address, metrics)


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port} ({error.strerror}): choose another with --set http.port=8001"
            ) from None
