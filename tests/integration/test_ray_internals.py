"""The private parts of Ray that foodseg uses exist and do what it expects: a test for each of our names.

When another version of Ray is installed, these tests fail first, and each says which part has changed. So a test
imports what is private, or needs it, where it runs: what has moved must fail one test and not all.
"""

import asyncio
import inspect
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
import ray.data
import ray.train
from grpc import aio
from ray.data import DataContext
from ray.exceptions import RayTaskError
from ray.serve.config import ProxyLocation
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ServeDeploySchema
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.tune.error import TuneError
from ray.tune.experiment import Trial as TuneTrial
from ray.util.placement_group import placement_group

from foodseg.cluster.ray_internals import core
from foodseg.cluster.ray_internals import serve as serve_internals
from foodseg.serve.ray_replica import listen_as_the_node_does
from tests.support.tiny_checkpoints import free_port

ROOT = Path(__file__).parents[2]


def wait_until(reached: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def in_a_process_of_its_own(code: str, environment: dict[str, str]) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


# --- core ---


def test_free_resources_of_a_node(ray_cluster: None) -> None:
    (node,) = ray.nodes()
    free = wait_until(core.available_resources_per_node, "no node is known")
    assert set(free) == {node["NodeID"]}
    assert free[node["NodeID"]]["memory"] <= node["Resources"]["memory"]


def test_maximum_resources_of_a_cluster(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.state import state
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    assert core.max_resources_from_cluster_config() is None  # no launcher has started this one
    groups = [NodeGroupConfig(resources={"CPU": 4, "GPU": 2}, min_count=0, max_count=3, name="gpu")]
    monkeypatch.setattr(state, "get_cluster_config", lambda: ClusterConfig(node_group_configs=groups))
    assert core.max_resources_from_cluster_config() == {"CPU": 12, "GPU": 6}


@ray.remote(num_cpus=0)
class Holder:
    def hold(self) -> None:
        self._group = placement_group([{"CPU": 1}])
        ray.get(self._group.ready())


def test_groups_of_a_dead_actor_are_released_and_those_of_a_living_one_are_not(ray_cluster: None) -> None:
    core.release_lost_groups()  # of tests before
    lost, living = Holder.remote(), Holder.remote()
    ray.get([lost.hold.remote(), living.hold.remote()])
    assert core.release_lost_groups() == 0
    ray.kill(lost)
    assert wait_until(core.release_lost_groups, "the group of the dead actor is still there") == 1
    assert core.release_lost_groups() == 0
    ray.kill(living)
    wait_until(core.release_lost_groups, "the group of the other actor is still there")


def test_the_address_of_the_ray_that_was_started_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert core.cluster_address() == ""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379\n")
    assert core.cluster_address() == "127.0.0.1:6379"


def test_whether_the_node_is_loopback(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (node,) = ray.nodes()
    assert core.node_is_loopback() == node["NodeManagerAddress"].startswith("127.")
    for address, local in [("127.0.0.1", True), ("192.0.2.7", False)]:
        monkeypatch.setattr(core, "get_node_ip_address", lambda address=address: address)
        assert core.node_is_loopback() is local


def test_the_loopback_switch_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants, worker

    monkeypatch.setattr(worker, "_global_node", None)  # as before Ray is started
    before, environment = ray_constants.ENABLE_RAY_CLUSTER, dict(os.environ)
    with pytest.raises(KeyError), core.loopback_only():
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
        raise KeyError
    assert ray_constants.ENABLE_RAY_CLUSTER is before
    assert dict(os.environ) == environment


@pytest.mark.parametrize(("token", "mode"), [({"RAY_AUTH_TOKEN": "a" * 32}, "token"), ({}, "None")])
def test_a_token_is_offered_where_there_is_one(token: dict[str, str], mode: str, tmp_path: Path) -> None:
    code = "import os; from foodseg.cluster.ray_internals.core import offer_token; offer_token(); "
    code += "print(os.environ.get('RAY_AUTH_MODE'))"
    assert in_a_process_of_its_own(code, {"HOME": str(tmp_path), **token}) == mode


def test_the_key_value_store(ray_cluster: None) -> None:
    core.kv_put("test", "a/1", b"one")
    core.kv_put("test", "a/2", b"two")
    core.kv_put("test", "b/1", b"other prefix")
    core.kv_put("another", "a/3", b"other namespace")
    assert sorted(core.kv_keys("test", "a/")) == ["a/1", "a/2"]
    core.kv_put("test", "a/1", b"new")
    assert (core.kv_get("test", "a/1"), core.kv_get("test", "a/3")) == (b"new", None)
    for key in ("a/1", "a/1", "b/1"):  # the second time it is not there
        core.kv_delete("test", key)
    assert core.kv_keys("test", "") == ["a/2"]
    core.kv_delete("test", "a/2")
    core.kv_delete("another", "a/3")


def test_the_cause_in_an_error_of_ray() -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

    cause = KeyError("the cause")
    for error in (
        RayTaskError("f", "trace", cause),
        ControllerError(cause),
        UserExceptionWithTraceback(cause, "trace"),
        WorkerHealthCheckFailedError("lost", cause),
        WorkerGroupError("two workers failed", {0: cause}),
    ):
        assert core.wrapped_errors(error) == [cause], type(error)
    assert core.wrapped_errors(ValueError("none")) == []


class FailedTrial:
    """What a trial of Ray Tune has of itself when it writes its file of failures."""

    is_restoring = False

    def __init__(self, folder: Path) -> None:
        self.run_metadata = SimpleNamespace(num_failures=0, error_filename=None, invalidate_cache=lambda: None)
        self.local_path, self.error_file = str(folder), str(folder / "error.txt")


def test_the_newest_failure_in_the_error_file_of_a_trial(tmp_path: Path) -> None:
    trial: Any = FailedTrial(tmp_path)
    for words in ("the first failure", "ray::trial()\n  File 'a.py'\nRetryLater: storage is away"):
        TuneTrial.handle_error(trial, TuneError(words))
        assert core.error_text(trial.error_file) == words + "\n"
    assert core.error_text(None) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ""),
        (" \n", ""),
        ("  the actor died\nits node was lost\n", "the actor died"),
        ("ray::trial()\n  File 'a.py'\nRetryLater: storage is away\n\n", "RetryLater: storage is away"),
    ],
)
def test_the_line_of_a_failure_that_says_what_happened(text: str, reason: str) -> None:
    assert core.error_reason(text) == reason


# --- data ---


def test_ray_data_calls_a_callback_in_each_round(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from foodseg.cluster.ray_internals.data import ExecutionCallback
    from foodseg.data.ray_stream import PacedScheduling

    class Counts(ExecutionCallback):
        rounds = 0

        def on_execution_step(self, executor: Any) -> None:
            Counts.rounds += 1

    monkeypatch.setattr(DataContext.get_current(), "custom_execution_callback_classes", [Counts])
    assert ray.data.range(4).map_batches(lambda batch: batch).count() == 4
    assert Counts.rounds > 0
    assert parameters(PacedScheduling.on_execution_step) == parameters(ExecutionCallback.on_execution_step)


# --- train ---


@pytest.mark.parametrize(
    ("ours", "base", "method"),
    [
        ("ElasticWorkers", "ElasticScalingPolicy", "make_decision_for_non_running_worker_group"),
        ("ElasticWorkers", "ElasticScalingPolicy", "_get_num_workers_for_resource_request"),
        ("ElasticWorkers", "ElasticScalingPolicy", "_count_possible_workers"),
        ("Announcer", "ControllerCallback", "after_controller_state_update"),
        ("TidyTrainer", "TorchTrainer", "_create_default_callbacks"),
    ],
)
def test_what_is_overridden_has_the_parameters_of_ray(ours: str, base: str, method: str) -> None:
    from foodseg.cluster.ray_internals import train
    from foodseg.train import ray_elastic

    our_class, base_class = getattr(ray_elastic, ours), getattr(train, base)
    assert issubclass(our_class, base_class) and getattr(our_class, method) is not getattr(base_class, method)
    assert parameters(getattr(our_class, method)) == parameters(getattr(base_class, method))


class Started(Exception):
    """Raised instead of a training, with what the controller would have got."""


def parts_of(trainer: type[TorchTrainer], monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> dict[str, Any]:
    def start(self: Any, **parts: Any) -> None:
        raise Started(parts)

    monkeypatch.setattr(TorchTrainer, "_initialize_and_run_controller", start)
    scaling = ray.train.ScalingConfig(num_workers=1)
    with pytest.raises(Started) as found:
        trainer(lambda: None, scaling_config=scaling, **arguments).fit()
    parts: dict[str, Any] = found.value.args[0]
    return parts


def test_a_tidy_trainer_has_all_callbacks_but_the_one_that_watches(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foodseg.cluster.ray_internals.train import TidyTrainer

    usual, tidy = (
        [type(one).__name__ for one in parts_of(trainer, monkeypatch)["callbacks"]]
        for trainer in (TorchTrainer, TidyTrainer)
    )
    assert sorted(usual) == sorted([*tidy, "PlacementGroupCleanerCallback"])


def test_an_elastic_trainer_hands_on_its_policy(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from foodseg.cluster.ray_internals.train import TidyTrainer
    from foodseg.train.ray_elastic import ElasticTrainer, ElasticWorkers

    policy = ElasticWorkers(ray.train.ScalingConfig(num_workers=(1, 2)), [1, 2], cpus_for_data=1)
    assert "scaling_policy" in parts_of(TidyTrainer, monkeypatch)
    assert parts_of(ElasticTrainer, monkeypatch, policy=policy)["scaling_policy"] is policy


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"CPU": 1}),
        ({"use_gpu": True}, {"GPU": 1}),
        ({"resources_per_worker": {"CPU": 3.0, "disk": 1.0}}, {"CPU": 3.0, "disk": 1.0}),
    ],
)
def test_the_resources_of_a_worker(options: dict[str, Any], expected: dict[str, float]) -> None:
    from foodseg.cluster.ray_internals import train

    found = train.worker_resources(ray.train.ScalingConfig(num_workers=2, **options))
    assert {name: found[name] for name in expected} == expected


def test_the_states_of_the_controller_can_be_told_apart() -> None:
    from foodseg.cluster.ray_internals import train

    error, decision = WorkerGroupError("lost", {}), train.ResizeDecision(2, {"CPU": 1.0})
    states = [
        train.InitializingState(),
        train.SchedulingState(decision),
        train.ReschedulingState(error),
        train.RunningState(),
        train.RestartingState(error),
        train.ResizingState(decision),
    ]
    assert all(isinstance(state, train.TrainControllerState) for state in states)
    assert not any(isinstance(a, type(b)) for a, b in itertools.permutations(states, 2))
    assert states[1].scaling_decision.num_workers == 2
    assert states[4].training_failed_error is error


def test_the_decisions_of_a_policy_can_be_told_apart() -> None:
    from foodseg.cluster.ray_internals import train

    resize, wait = train.ResizeDecision(2, {"CPU": 1.0}), train.NoopDecision()
    assert all(isinstance(one, train.ScalingDecision) for one in (resize, wait))
    assert not isinstance(resize, train.NoopDecision) and not isinstance(wait, train.ResizeDecision)


def test_the_errors_of_a_lost_worker_group_are_not_those_of_its_code() -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    from foodseg.cluster.ray_internals.train import lost_worker_errors

    lost = lost_worker_errors()
    assert len(set(lost)) == len(lost) == 5
    for kind in lost:
        assert issubclass(kind, Exception)
        assert not any(issubclass(other, kind) for other in (UserExceptionWithTraceback, WorkerGroupError, ValueError))


# --- serve ---


@pytest.fixture(scope="module")
def client(ray_cluster: None) -> Iterator[Any]:
    """Serve without a proxy, and the application `echo` on it; ended by a test or here."""
    options = {"host": "127.0.0.1", "port": free_port()}
    client = serve_internals.start_serve(options, ProxyLocation.Disabled)
    application = {"name": "echo", "import_path": "tests.support.ray_echo:app", "route_prefix": None}
    serve_internals.deploy(client, ServeDeploySchema.model_validate({"applications": [application]}))
    yield client
    ray.serve.shutdown()


def wait_until_running(client: Any) -> None:
    wait_until(
        lambda: serve_internals.application_state(client, "echo").status == ApplicationStatus.RUNNING,
        "the application does not run",
    )


def test_what_was_deployed_runs_and_can_be_read_again(client: Any) -> None:
    deployed = serve_internals.deployed_applications(client)  # `deploy` has not waited
    assert [(app["name"], app["import_path"]) for app in deployed] == [("echo", "tests.support.ray_echo:app")]
    wait_until_running(client)
    state = serve_internals.application_state(client, "echo")
    assert state == serve_internals.ApplicationState(ApplicationStatus.RUNNING, state.message, ("Echo",))
    serve_internals.wait_until_serving(client)
    schema = ServeDeploySchema.model_validate({"applications": deployed})
    serve_internals.deploy(client, schema)
    assert serve_internals.deployed_applications(client) == deployed


def test_a_replica_knows_its_request_and_listens_on_loopback(client: Any) -> None:
    wait_until_running(client)
    handle = DeploymentHandle("Echo", "echo")
    serve_internals.route_in_own_loop(handle)
    response = handle.look.remote()
    found, addresses = response.result(timeout_s=60)
    assert found and found == response.request_id
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def test_a_function_runs_in_each_replica(client: Any) -> None:
    wait_until_running(client)
    (process,) = serve_internals.call_in_replicas("Echo", os.getpid)
    assert process != os.getpid()
    assert serve_internals.call_in_replicas("Ech", os.getpid) == []


def test_the_name_of_a_replica_has_that_of_its_deployment() -> None:
    from ray.serve._private.common import DeploymentID, ReplicaID

    name = ReplicaID("a1b2c3d4", DeploymentID("Echo", "application")).to_full_id_str()
    assert serve_internals.is_replica_of(name, "Echo")
    assert not any(serve_internals.is_replica_of(name, other) for other in ("Ech", "application", "a1b2c3d4"))


@pytest.mark.parametrize(("node", "other"), [("127.0.0.1", []), ("192.0.2.7", ["::"])])
def test_bind_replica_grpc_to_loopback(node: str, other: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's own server of a replica listens as its node does."""
    from ray.serve._private import replica

    monkeypatch.setattr(replica, "add_port_to_grpc_server", replica.add_port_to_grpc_server)  # to be put back
    monkeypatch.setattr(core, "get_node_ip_address", lambda: node)
    listen_as_the_node_does()  # calls serve_internals.bind_replica_grpc_to_loopback on a loopback node

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


def test_outside_of_a_request_there_is_no_id() -> None:
    assert serve_internals.request_id() is None


def test_the_header_of_a_session() -> None:
    from ray.serve._private import http_util

    assert http_util.SERVE_SESSION_ID == serve_internals.session_id_header() != ""


def test_the_address_that_serve_listens_on(client: Any) -> None:
    assert serve_internals.listening_host() == "127.0.0.1"


def test_the_client_has_what_is_called() -> None:
    """Its methods that `close_handles`, `application_state`, `wait_until_serving` and `deploy` call."""
    from ray.serve._private.client import ServeControllerClient

    assert parameters(ServeControllerClient.shutdown_cached_handles) == ["self"]
    assert parameters(ServeControllerClient.get_serve_status) == ["self", "name"]
    assert "wait_for_applications_running" in parameters(ServeControllerClient.wait_for_proxies_serving)
    assert "_blocking" in parameters(ServeControllerClient.deploy_apps)
    assert isinstance(ServeControllerClient.http_config, property)


def test_a_client_is_forgotten_and_found_again(client: Any) -> None:
    assert serve_internals.connected_client() is client
    serve_internals.forget_client()
    again = serve_internals.connected_client()
    assert again is not None and again is not client
    assert len(serve_internals.deployed_applications(again)) == 1


def test_a_shutdown_ends_the_controller(client: Any) -> None:
    """The last of those that need the client."""
    assert serve_internals.controller_runs()
    serve_internals.close_handles(client)
    serve_internals.begin_shutdown(client, 30)
    wait_until(lambda: not serve_internals.controller_runs(), "the controller is still there")
    serve_internals.forget_client()
    assert serve_internals.connected_client() is None
    assert serve_internals.listening_host() is None
