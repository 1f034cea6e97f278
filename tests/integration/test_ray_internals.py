"""The private parts of Ray that foodseg uses exist and do what it expects: a test for each of our names.

When another version of Ray is installed, these tests fail first, and each says which part has changed.
"""

import inspect
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
import ray.train
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig
from ray.data import DataContext
from ray.exceptions import RayTaskError
from ray.serve._private import http_util
from ray.serve.config import ProxyLocation
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ServeDeploySchema
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.util.placement_group import placement_group

from foodseg.cluster.ray_internals import core, train
from foodseg.cluster.ray_internals import data as data_internals
from foodseg.cluster.ray_internals import serve as serve_internals
from foodseg.data.ray_stream import PacedScheduling
from foodseg.train.ray_elastic import Announcer, ElasticTrainer, ElasticWorkers
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
    assert core.max_resources_from_cluster_config() is None  # no launcher has started this one
    groups = [NodeGroupConfig(resources={"CPU": 4, "GPU": 2}, min_count=0, max_count=3, name="gpu")]
    monkeypatch.setattr(core.state, "get_cluster_config", lambda: ClusterConfig(node_group_configs=groups))
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
    monkeypatch.setattr(ray._private.worker, "_global_node", None)  # as before Ray is started
    before, environment = core.ray_constants.ENABLE_RAY_CLUSTER, dict(os.environ)
    with pytest.raises(KeyError), core.loopback_only():
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
        raise KeyError
    assert core.ray_constants.ENABLE_RAY_CLUSTER is before
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


# --- data ---


def test_ray_data_calls_a_callback_in_each_round(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counts(data_internals.ExecutionCallback):
        rounds = 0

        def on_execution_step(self, executor: Any) -> None:
            Counts.rounds += 1

    monkeypatch.setattr(DataContext.get_current(), "custom_execution_callback_classes", [Counts])
    assert ray.data.range(4).map_batches(lambda batch: batch).count() == 4
    assert Counts.rounds > 0
    method = data_internals.ExecutionCallback.on_execution_step
    assert parameters(PacedScheduling.on_execution_step) == parameters(method)


# --- train ---


@pytest.mark.parametrize(
    ("ours", "base", "method"),
    [
        (ElasticWorkers, train.ElasticScalingPolicy, "make_decision_for_non_running_worker_group"),
        (ElasticWorkers, train.ElasticScalingPolicy, "_get_num_workers_for_resource_request"),
        (ElasticWorkers, train.ElasticScalingPolicy, "_count_possible_workers"),
        (Announcer, train.ControllerCallback, "after_controller_state_update"),
        (train.TidyTrainer, TorchTrainer, "_create_default_callbacks"),
    ],
)
def test_what_is_overridden_has_the_parameters_of_ray(ours: type, base: type, method: str) -> None:
    assert issubclass(ours, base) and getattr(ours, method) is not getattr(base, method)
    assert parameters(getattr(ours, method)) == parameters(getattr(base, method))


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
    usual, tidy = (
        [type(one).__name__ for one in parts_of(trainer, monkeypatch)["callbacks"]]
        for trainer in (TorchTrainer, train.TidyTrainer)
    )
    assert sorted(usual) == sorted([*tidy, "PlacementGroupCleanerCallback"])


def test_an_elastic_trainer_hands_on_its_policy(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ElasticWorkers(ray.train.ScalingConfig(num_workers=(1, 2)), [1, 2], cpus_for_data=1)
    assert "scaling_policy" in parts_of(train.TidyTrainer, monkeypatch)
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
    found = train.worker_resources(ray.train.ScalingConfig(num_workers=2, **options))
    assert {name: found[name] for name in expected} == expected


def test_the_states_of_the_controller_can_be_told_apart() -> None:
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
    resize, wait = train.ResizeDecision(2, {"CPU": 1.0}), train.NoopDecision()
    assert all(isinstance(one, train.ScalingDecision) for one in (resize, wait))
    assert not isinstance(resize, train.NoopDecision) and not isinstance(wait, train.ResizeDecision)


def test_the_errors_of_a_lost_worker_group_are_not_those_of_its_code() -> None:
    lost = (
        train.CollectiveTimeoutError,
        train.InsufficientClusterResourcesError,
        train.WorkerGroupStartupFailedError,
        train.WorkerGroupStartupTimeoutError,
        train.WorkerHealthCheckTimeoutError,
    )
    assert len(set(lost)) == len(lost)
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


def status(client: serve_internals.ServeControllerClient) -> Any:
    return client.get_serve_status("echo")


def test_what_was_deployed_runs_and_can_be_read_again(client: Any) -> None:
    deployed = serve_internals.deployed_applications(client)  # `deploy` has not waited
    assert [(app["name"], app["import_path"]) for app in deployed] == [("echo", "tests.support.ray_echo:app")]
    wait_until(lambda: status(client).app_status.status == ApplicationStatus.RUNNING, str(status(client)))
    (part,) = status(client).deployment_statuses
    assert (part.name, part.status) == ("Echo", serve_internals.DeploymentStatus.HEALTHY)
    schema = ServeDeploySchema.model_validate({"applications": deployed})
    serve_internals.deploy(client, schema)
    assert serve_internals.deployed_applications(client) == deployed


def test_a_replica_knows_its_request_and_listens_on_loopback(client: Any) -> None:
    wait_until(lambda: status(client).app_status.status == ApplicationStatus.RUNNING, str(status(client)))
    handle = DeploymentHandle("Echo", "echo")
    serve_internals.route_in_own_loop(handle)
    response = handle.look.remote()
    found, addresses = response.result(timeout_s=60)
    assert found and found == response.request_id
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def test_outside_of_a_request_there_is_no_id() -> None:
    assert serve_internals.request_id() is None


def test_the_header_of_a_session() -> None:
    assert http_util.SERVE_SESSION_ID == serve_internals.SESSION_ID_HEADER != ""


def test_the_client_has_what_is_called(client: Any) -> None:
    assert client.http_config.host == "127.0.0.1"
    assert "wait_for_applications_running" in parameters(client.wait_for_proxies_serving)
    assert parameters(client.shutdown_cached_handles) == []


def test_a_client_is_forgotten_and_found_again(client: Any) -> None:
    assert serve_internals.connected_client() is client
    serve_internals.forget_client()
    again = serve_internals.connected_client()
    assert again is not None and again is not client
    assert len(serve_internals.deployed_applications(again)) == 1


def test_a_shutdown_ends_the_controller(client: Any) -> None:
    """The last of those that need the client."""
    assert serve_internals.controller_runs()
    client.shutdown_cached_handles()
    serve_internals.begin_shutdown(client, 30)
    wait_until(lambda: not serve_internals.controller_runs(), "the controller is still there")
    serve_internals.forget_client()
    assert serve_internals.connected_client() is None
