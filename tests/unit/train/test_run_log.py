"""What a run writes down: the same numbers in log.jsonl, in TensorBoard's files and in MLflow."""

import json
import shutil
from pathlib import Path

import pytest

from foodseg.config.load import leaves
from foodseg.errors import UserError
from foodseg.train.loop import train
from foodseg.train.run_log import RunLog
from foodseg.train.tracking import end_tracking
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config, write_synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_synthetic(tmp_path_factory.mktemp("data"))


@pytest.fixture
def mlflow_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server would do the same, slower
    return (tmp_path / "mlruns").as_uri()


def test_mlflow_gets_the_numbers_of_the_log(data: str, tmp_path: Path, mlflow_uri: str) -> None:
    from mlflow.tracking import MlflowClient

    config = synthetic_config(data, tmp_path / "first", f"train.mlflow_uri={mlflow_uri}", "train.steps=3")
    run, context = prepared(config)
    train(run.config, run.manifest, run.total_steps, context)

    client = MlflowClient(mlflow_uri)
    (tracked,) = client.search_runs([client.get_experiment_by_name("foodseg").experiment_id])
    assert tracked.info.run_name == "first" and tracked.info.status == "FINISHED"
    logged = [json.loads(line) for line in (tmp_path / "first" / "log.jsonl").read_text().splitlines()]
    for name in ("loss/cross_entropy", "lr", "val/miou"):
        found = [(m.step, m.value) for m in client.get_metric_history(tracked.info.run_id, name)]
        assert found == [(line["step"], line[name]) for line in logged if name in line], name
    assert [path.path for path in client.list_artifacts(tracked.info.run_id)] == ["config.json"]
    assert tracked.data.params == {key: str(value) for key, value in leaves(run.config.model_dump(mode="json"))}


def test_an_interrupted_run_is_one_run_in_mlflow(data: str, tmp_path: Path, mlflow_uri: str) -> None:
    from mlflow.tracking import MlflowClient

    config = synthetic_config(data, tmp_path / "a 'quoted' run", f"train.mlflow_uri={mlflow_uri}")
    other = synthetic_config(data, tmp_path / "other", f"train.mlflow_uri={mlflow_uri}")
    client = MlflowClient(mlflow_uri)

    def tracked() -> dict[str, str]:
        found = client.search_runs([client.get_experiment_by_name("foodseg").experiment_id])
        assert len(found) == len({run.info.run_name for run in found})
        return {run.info.run_name: run.info.status for run in found}

    with pytest.raises(RuntimeError), RunLog(config) as log:
        log.write(1, {"loss/cross_entropy": 0.5}, "one")
        raise RuntimeError
    with RunLog(other):
        assert tracked() == {"a 'quoted' run": "FAILED", "other": "RUNNING"}
    with pytest.raises(SystemExit), RunLog(config):  # continues until Tune stops it
        raise SystemExit
    assert tracked() == {"a 'quoted' run": "KILLED", "other": "FINISHED"}
    with RunLog(config) as log:
        assert tracked() == {"a 'quoted' run": "RUNNING", "other": "FINISHED"}
        log.write(2, {"loss/cross_entropy": 0.25}, "two")
        # as from the process of a sweep that stops this one
        end_tracking(other, "KILLED")
        end_tracking(config, "KILLED")
        assert tracked() == {"a 'quoted' run": "KILLED", "other": "FINISHED"}


def test_a_server_that_is_gone_does_not_end_a_sweep(
    data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    end_tracking(synthetic_config(data, tmp_path / "run", "train.mlflow_uri=http://127.0.0.1:1"), "KILLED")
    assert "run stays open: train.mlflow_uri http://127.0.0.1:1: no server answers there" in caplog.text
    caplog.clear()
    end_tracking(synthetic_config(data, tmp_path / "run"), "KILLED")
    assert not caplog.text


def test_mlflow_that_is_lost_in_mid_run_costs_only_its_curves(
    data: str, tmp_path: Path, mlflow_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RunLog(synthetic_config(data, tmp_path / "run", f"train.mlflow_uri={mlflow_uri}")) as log:
        shutil.rmtree(tmp_path / "mlruns")
        for step in (1, 2):
            log.write(step, {"loss/cross_entropy": 0.5}, "a line")
    assert caplog.text.count(f"the run continues without MLflow: train.mlflow_uri {mlflow_uri}: ") == 1
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


def test_one_lost_request_does_not_change_how_the_run_ended(data: str, tmp_path: Path, mlflow_uri: str) -> None:
    from mlflow.tracking import MlflowClient

    config = synthetic_config(data, tmp_path / "run", f"train.mlflow_uri={mlflow_uri}")
    client = MlflowClient(mlflow_uri)
    with RunLog(config) as log, pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", lambda *_, **__: 1 / 0)
        log.write(1, {"loss/cross_entropy": 0.5}, "a line")
    end_tracking(config, "KILLED")  # as a sweep does for every trial: this one has ended by itself
    (run,) = client.search_runs([client.get_experiment_by_name("foodseg").experiment_id])
    assert run.info.status == "FINISHED"
    with RunLog(config):  # nothing of it is left open in this process
        pass


def test_an_address_that_mlflow_refuses_is_named(data: str, tmp_path: Path) -> None:
    config = synthetic_config(data, tmp_path, "train.mlflow_uri=gopher://nowhere")
    with pytest.raises(UserError, match=r"train.mlflow_uri gopher://nowhere: MLflow refuses it"), RunLog(config):
        pass


def test_tensorboard_gets_the_numbers_of_the_log(data: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(synthetic_config(data, tmp_path)) as log:
        log.write(1, {"loss/cross_entropy": 0.5, "positions": [0, 4]}, "one")
        log.write(2, {"loss/cross_entropy": 0.25}, "two")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/cross_entropy")] == [(1, 0.5), (2, 0.25)]
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]
