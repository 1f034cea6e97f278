"""Sweeps on the shared cluster: what they write, what they survive, what they give back."""

import json
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from foodseg.checkpoint.history import Validation
from foodseg.config import load_config
from foodseg.errors import RetryLater
from foodseg.train.ray_trainer import run_training
from foodseg.tune import ray_tuner
from foodseg.tune.ray_sweep import run_sweep
from foodseg.tune.sweep_files import begin, read_sweep
from foodseg.tune.sweep_result import SweepResult
from foodseg.tune.trials import Ledger, Trial, TrialReport
from tests.support.compare import close
from tests.support.ray_cluster import CPUS
from tests.support.ray_trials import run_quickly
from tests.support.sweep_files import write_sweep
from tests.support.synthetic_set import write_synthetic

pytestmark = pytest.mark.chaos

GRID = {"searcher": "grid", "trials": None, "concurrent": 1}


def free_cpus(wanted: float, seconds: float = 60) -> float:
    """Returns how many CPUs are free, once there are enough or the time is over."""
    deadline = time.monotonic() + seconds
    while ray.available_resources().get("CPU", 0) < wanted and time.monotonic() < deadline:
        time.sleep(0.5)
    return float(ray.available_resources().get("CPU", 0))


def logged_steps(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "positions" in line]


@pytest.fixture(scope="module")
def swept(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepResult]:
    """Of three trials one after the other the second fails with NaN, and the last one does not learn."""
    folder = tmp_path_factory.mktemp("sweep")
    space = {"optim.lr": {"choice": [1e-2, 1e30, 1e-9]}}
    sweep = {**GRID, "scheduler": "asha", "grace": 0.3, "reduction": 2, "against": "parameters"}
    path = write_sweep(
        folder / "sweep.yaml", write_synthetic(folder / "data"), folder / "sweep", space=space, sweep=sweep
    )
    return folder / "sweep", run_sweep(read_sweep(path, []))


def test_a_failing_trial_is_recorded_and_does_not_end_the_sweep(swept: tuple[Path, SweepResult]) -> None:
    uri, result = swept
    trials = list(Ledger(str(uri)))
    assert len(result.trials) == 3 and result.count("failed") == 1
    assert trials[1].status == "failed" and "lower optim.lr" in (trials[1].reason or "")


def test_a_weak_trial_is_stopped_early(swept: tuple[Path, SweepResult]) -> None:
    uri, result = swept
    trials = list(Ledger(str(uri)))
    assert [trial.status for trial in trials] == ["finished", "failed", "stopped"]
    assert result.count("stopped") == 1
    assert trials[2].share == pytest.approx(1 / 3)
    assert logged_steps(uri / "trials" / trials[2].name)[-1] == 4  # of 12
    assert trials[2].reason == "weaker than others after 33 % of its steps"


def test_what_a_sweep_leaves_behind(swept: tuple[Path, SweepResult]) -> None:
    uri, result = swept
    table = pq.read_table(uri / "trials.parquet").to_pylist()
    assert (table[0]["trial"], table[2]["trial"]) == ("trial-0000", "trial-0001")  # the best, and the failed one
    assert table[0]["optim.lr"] == "0.01" and table[0]["parameters"] > 10_000 and table[0]["front"]
    assert table[0]["curve_step"] == [4, 8, 12]
    page = (uri / "report.html").read_text()
    assert "trial-0000" in page and page.count("<svg") == 3 and "<script" not in page
    assert result.front == ("trial-0000",)
    assert free_cpus(CPUS) == CPUS


def test_the_best_configuration_gives_the_same_score_again(swept: tuple[Path, SweepResult]) -> None:
    uri, result = swept
    config = load_config(str(uri / "best.yaml")).config
    assert config.run.uri == str(uri / "best") and config.optim.lr == 1e-2
    assert result.best is not None and result.best.score is not None
    assert run_training(config).miou == close(result.best.score)


def test_a_finished_sweep_that_is_resumed_runs_nothing_again(swept: tuple[Path, SweepResult]) -> None:
    uri, result = swept
    before = {path: path.stat().st_mtime_ns for path in (uri / "trials").rglob("log.jsonl")}
    again = run_sweep(read_sweep(str(uri / "sweep.yaml"), []), resume=True)
    assert again.to_json() == result.to_json()
    assert {path: path.stat().st_mtime_ns for path in (uri / "trials").rglob("log.jsonl")} == before


def test_a_stopped_trial_with_workers_frees_them(ray_cluster: None, tmp_path: Path) -> None:
    """The first trial is known from before, so that the others are weak at their first validation.

    The third finds the workers of the second free at once.
    """
    uri = str(tmp_path / "sweep")
    path = write_sweep(
        tmp_path / "sweep.yaml",
        write_synthetic(tmp_path / "data"),
        uri,
        space={"optim.lr": {"choice": [1e-2, 1e-9, 2e-9]}},
        sweep={**GRID, "scheduler": "asha", "grace": 0.02, "reduction": 2},
        overrides=["scaling.num_workers=1", "train.steps=1000", "train.validate_every=20"],
    )
    plan = read_sweep(path, [])
    begin(uri, "sweep.yaml", plan.given, resume=False)
    reports = tuple(TrialReport(Validation(step, 0.9, 0.9, 0.9, 0.9), step / 1000, 1.0) for step in range(20, 1001, 20))
    Ledger(uri).put(Trial("trial-0000", 0, {"optim.lr": "0.01"}, plan.given["config"], "finished", reports=reports))
    assert free_cpus(CPUS) == CPUS

    run_sweep(plan, resume=True)

    assert free_cpus(CPUS, seconds=30) == CPUS
    _, *weak = Ledger(uri)
    for trial in weak:
        assert (trial.status, trial.reason) == ("stopped", "weaker than others after 2 % of its steps")
        assert 20 <= logged_steps(tmp_path / "sweep" / "trials" / trial.name)[-1] < 1000
    assert weak[1].seconds < weak[0].seconds + 60


def test_a_sweep_starts_no_more_trials_than_fit_into_the_free_capacity(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two trials of two workers would take all that is left, and wait for CPUs to read and decode without end."""
    monkeypatch.setattr(ray_tuner, "LAST_LOOKS", 2)
    caplog.set_level("INFO", logger="foodseg")
    path = write_sweep(
        tmp_path / "sweep.yaml", write_synthetic(tmp_path / "data"), tmp_path / "sweep",
        space={"optim.lr": {"choice": [1e-2, 1e-3]}}, sweep={**GRID, "scheduler": "none", "concurrent": None},
        overrides=["scaling.num_workers=2", "data.decode=cluster", "train.validate_every=1000"],
    )  # fmt: skip
    assert free_cpus(CPUS) == CPUS
    other = ray.remote(num_cpus=CPUS - 4)(Holder).remote()
    ray.get(other.hold.remote())
    try:
        result = run_sweep(read_sweep(path, []), address="auto", run_each=run_quickly)
    finally:
        ray.kill(other)
    assert result.count("finished") == 2
    assert "others use a part of the cluster, which has capacity for 1 of 2 trials" in caplog.text


class Holder:
    """Another user of the cluster."""

    def hold(self) -> None:
        pass


def test_a_budget_ends_a_sweep_and_a_larger_one_resumes_it(ray_cluster: None, tmp_path: Path) -> None:
    uri = tmp_path / "sweep"
    path = write_sweep(
        tmp_path / "sweep.yaml",
        write_synthetic(tmp_path / "data"),
        uri,
        space={"optim.lr": {"loguniform": [1e-3, 1e-2]}},
        sweep={"searcher": "tpe", "trials": 2, "scheduler": "none", "concurrent": 1, "worker_hours": 1e-9},
    )
    with pytest.raises(
        RetryLater, match=r"no trial .* \(sweep\.worker_hours = 1e-09 are used up\): run it again with --resume"
    ):
        run_sweep(read_sweep(path, []), run_each=partial(run_quickly, pause=20))
    (first,) = Ledger(str(uri))
    assert first.status == "interrupted" and first.seconds > 0 and [line.step for line in first.reports] == [4]

    result = run_sweep(read_sweep(path, ["sweep.worker_hours=1"]), resume=True, run_each=run_quickly)
    assert (len(result.trials), result.count("finished")) == (2, 2)
    resumed, _ = Ledger(str(uri))
    assert resumed.values == first.values and resumed.seconds > first.seconds
    assert resumed.reports[0] == first.reports[0] and [line.step for line in resumed.reports] == [4, 8, 12]
