"""The start and stop of an endpoint, with fakes of Ray and Serve that record the calls; tests/e2e starts real ones."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foodseg import storage
from foodseg.errors import UserError
from foodseg.serve import ray_serving
from foodseg.serve.ray_serving import ApplicationStatus, ServedEndpoint, serving
from tests.support.tiny_checkpoints import free_port


class Client:
    """A fake of Serve's client."""

    def __init__(self, calls: list[Any], failure: str) -> None:
        self.calls, self.failure, self.looked = calls, failure, 0

    def deploy_apps(self, schema: Any, _blocking: bool) -> None:
        self.calls.append("deploy")

    def get_serve_status(self, name: str) -> Any:
        self.looked += 1
        parts = [SimpleNamespace(name="Segmenter", status="HEALTHY")] * (self.looked > 1)
        status = ApplicationStatus.RUNNING if self.looked > 2 else ApplicationStatus.DEPLOYING
        if self.failure:
            status = ApplicationStatus.DEPLOY_FAILED
        return SimpleNamespace(
            app_status=SimpleNamespace(status=status, message=self.failure), deployment_statuses=parts
        )

    def wait_for_proxies_serving(self, **_: Any) -> None:
        self.calls.append("answers")

    def shutdown_cached_handles(self) -> None:
        self.calls.append("handles closed")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[Any]:
    """What was done, in order; the parameter is why the deployment fails, if it does."""
    calls: list[Any] = []
    client = Client(calls, getattr(request, "param", ""))

    @contextlib.contextmanager
    def session(address: str | None, logical_cpus: int) -> Iterator[None]:
        calls.append("Ray")
        yield

    class Handle:
        def __init__(self, deployment: str, application: str) -> None:
            self.name = (deployment, application)
            self.drain = SimpleNamespace(remote=self.call)

        def _init(self, **_: Any) -> None: ...

        def call(self, seconds: float) -> Any:
            calls.append((*self.name, seconds))
            return SimpleNamespace(result=lambda timeout_s: 0)

    ingress = SimpleNamespace(replica_states={"RUNNING": 2})
    application = SimpleNamespace(deployments={"Ingress": ingress})
    status = SimpleNamespace(applications={"foodseg": application})
    for name, value in {
        "start_serve": lambda *_: client,
        "ray_session": session,
        "DeploymentHandle": Handle,
        "serve": SimpleNamespace(status=lambda: status),
        "connected_client": lambda: client,
        "forget_client": lambda: calls.append("client forgotten"),
        "_endpoint": lambda host, port: ServedEndpoint("u", "r", None),
    }.items():
        monkeypatch.setattr(ray_serving, name, value)
    monkeypatch.setattr(ray_serving.ray, "is_initialized", lambda: False)
    return calls


def settings(folder: Path) -> list[str]:
    storage.write_text(f"{folder}/run/manifest.json", "{}")
    return [f"segmenter.models.meals={folder}/run", f"http.port={free_port()}", "http.request_seconds=30"]


def test_it_prints_its_progress_and_answers_requests_in_flight(calls: list[Any], tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt), serving(None, settings(tmp_path), None, lines.append):
        assert calls == ["Ray", "deploy", "answers"]
        raise KeyboardInterrupt
    drained = [("Ingress", "foodseg", 30.0)] * 2  # every replica of it
    assert calls[3:] == [*drained, "handles closed", "client forgotten"]
    assert [line for line in lines if line.startswith("[")] and f"meals ({tmp_path}/run)" in "\n".join(lines)
    assert any("Segmenter is ready" in line for line in lines) and "is ready after" in lines[-1]


@pytest.mark.parametrize(
    "calls", ["Traceback\nfoodseg.errors.UserError: the weights are of another model"], indirect=True
)
def test_an_endpoint_that_cannot_start_ends_with_its_error(calls: list[Any], tmp_path: Path) -> None:
    lines: list[str] = []
    with (
        pytest.raises(UserError, match="the weights are of another model"),
        serving(None, settings(tmp_path), None, lines.append),
    ):
        raise AssertionError
    assert "client forgotten" in calls
    assert not any("is ready after" in line for line in lines)
