"""Parts of a sweep are killed; it ends with every trial finished all the same."""

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from foodseg import storage
from foodseg.config import ExperimentConfig
from foodseg.errors import RetryLater
from foodseg.tune import backoff
from foodseg.tune.ray_sweep import run_sweep
from foodseg.tune.ray_trial_queue import Limits, Plan
from foodseg.tune.ray_tuner import run_trials
from foodseg.tune.search import ListedSearch
from foodseg.tune.sweep_files import read_sweep
from foodseg.tune.trials import Ledger
from tests.support.drivers import wait_for
from tests.support.ray_trials import run_quickly
from tests.support.s3_server import S3Server
from tests.support.sweep_files import write_sweep
from tests.support.synthetic_set import synthetic_config, write_synthetic

pytestmark = pytest.mark.chaos

SPACE = {"optim.lr": {"choice": [1e-2, 1e-3]}}
SWEEP = {"searcher": "grid", "trials": None, "concurrent": 1, "scheduler": "none"}


def reports(uri: str) -> int:
    """Returns how many validations are recorded, over all trials; a `Ledger` here would write, as the driver does."""
    where = f"{uri}/ledger"
    names = [name for name in storage.list_names(where) if name.endswith(".json")]
    return sum(len(json.loads(storage.read_text(f"{where}/{name}"))["reports"]) for name in names)


def test_a_killed_trial_resumes_from_its_checkpoint(ray_cluster: None, tmp_path: Path) -> None:
    uri = str(tmp_path / "sweep")
    settings = ["train.steps=120"]
    path = write_sweep(
        tmp_path / "s.yaml", write_synthetic(tmp_path / "data"), uri, space=SPACE, sweep=SWEEP, overrides=settings
    )
    with ThreadPoolExecutor(1) as pool:
        sweep = pool.submit(run_sweep, read_sweep(path, []))
        wait_for(lambda: reports(uri) >= 3 or sweep.done())
        trials = [p for p in psutil.Process().children(recursive=True) if "ImplicitFunc" in " ".join(p.cmdline())]
        trials[0].send_signal(signal.SIGKILL)
        result = sweep.result(timeout=280)
    assert (result.count("finished"), result.count("failed")) == (2, 0)
    steps = [line.step for line in next(iter(Ledger(uri))).reports]
    assert steps == list(range(4, 121, 4))
    logged = (tmp_path / "sweep" / "trials" / "trial-0000" / "log.jsonl").read_text().splitlines()
    done = [line["step"] for line in map(json.loads, logged) if "positions" in line]
    # it went on from a checkpoint: the first steps were not done again, later ones may have been
    assert done.count(1) == 1 and set(done) == set(range(1, 121))


def test_a_trial_with_workers_outlives_one_of_them(ray_cluster: None, tmp_path: Path) -> None:
    uri = str(tmp_path / "sweep")
    path = write_sweep(
        tmp_path / "s.yaml", write_synthetic(tmp_path / "data"), uri,
        space={"optim.lr": {"choice": [1e-2]}}, sweep=SWEEP,
        overrides=["scaling.num_workers=2", "train.steps=80"],
    )  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        sweep = pool.submit(run_sweep, read_sweep(path, []))
        wait_for(lambda: reports(uri) >= 3 or sweep.done())
        assert not sweep.done()
        workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
        result = sweep.result(timeout=280)
    assert (result.count("finished"), result.count("failed")) == (1, 0)
    (trial,) = Ledger(uri)
    assert [line.step for line in trial.reports] == list(range(4, 81, 4))
    history = (tmp_path / "sweep" / "trials" / trial.name / "history.jsonl").read_text().splitlines()
    assert trial.score == json.loads(history[-1])["miou"]


def test_interrupted_trials_are_tried_again_three_times(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.1)
    ledger, folder = Ledger(str(tmp_path / "sweep")), str(tmp_path)
    names = ["goes well", "once", "always", "second", "third", "fourth"]

    def afterwards(name: str, config: ExperimentConfig) -> None:
        tries = Path(folder, name)
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if name == "always" or (name == "once" and tries.read_text() == "x"):
            raise RetryLater("what it needs is away")

    run_trials(
        Plan(
            ledger=ledger,
            search=ListedSearch([{"name": name} for name in names]),
            configure=lambda number, values: synthetic_config(
                "data", tmp_path / f"run-{number}", "scaling.num_workers=0"
            ),
            name=lambda number, values: str(values["name"]),
            limits=Limits(concurrent=1),
            afterwards=afterwards,
            run=run_quickly,
        ),
        synthetic_config("data", tmp_path / "run"),
        None,
    )

    lost = {trial.name for trial in ledger if trial.status == "interrupted"}
    assert lost == {"always"} and all(trial.status == "finished" for trial in ledger if trial.name not in lost)
    # an interrupted trial is retried after another one has ended
    assert [len(Path(folder, name).read_text()) for name in names] == [1, 2, 3, 1, 1, 1]
    assert ledger["always"].reason == "what it needs is away"


def test_a_driver_that_can_write_nothing_down_ends_with_one_sentence(ray_cluster: None, tmp_path: Path) -> None:
    def changed() -> None:
        raise RetryLater("storage failed for hours")

    plan = Plan(
        ledger=Ledger(str(tmp_path / "sweep")),
        search=ListedSearch([{}]),
        configure=lambda number, values: synthetic_config("data", tmp_path / "run"),
        name=lambda number, values: "the only one",
        limits=Limits(concurrent=1),
        changed=changed,
        run=run_quickly,
    )
    with pytest.raises(RetryLater, match=r"^storage failed for hours$"):
        run_trials(plan, synthetic_config("data", tmp_path / "run"), None)


def test_storage_that_is_away_for_a_while(ray_cluster: None, s3: S3Server, tmp_path: Path) -> None:
    uri = "s3://foodseg/sweeps/away"
    data = write_synthetic("s3://foodseg/sweeps/data")  # type: ignore[arg-type]
    path = write_sweep(tmp_path / "s.yaml", data, uri, space=SPACE, sweep=SWEEP, overrides=["train.steps=40"])
    with ThreadPoolExecutor(1) as pool:
        sweep = pool.submit(run_sweep, read_sweep(path, []))
        wait_for(lambda: reports(uri) >= 2 or sweep.done())
        assert not sweep.done()
        s3.kill()
        time.sleep(20)
        s3.start()
        result = sweep.result(timeout=280)
    assert (result.count("finished"), result.count("failed")) == (2, 0)
    assert storage.exists(f"{uri}/best.yaml")
