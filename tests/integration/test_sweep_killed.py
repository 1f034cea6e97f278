"""A sweep whose driver is killed (SIGKILL) is resumed: finished trials are kept, others resume where they were."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from foodseg.tune.trials import Ledger, Trial
from tests.support.drivers import kill_driver, wait_for
from tests.support.sweep_files import write_sweep
from tests.support.synthetic_set import write_synthetic


def trials(uri: Path) -> list[Trial]:
    """What the ledger says, without taking note of anything."""
    return [Trial(**json.loads(path.read_text())) for path in sorted((uri / "ledger").glob("*.json"))]


def logged_steps(uri: Path, trial: str) -> list[int]:
    log = uri / "trials" / trial / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [line["step"] for line in lines if "positions" in line]


@pytest.mark.chaos
def test_a_killed_driver(tmp_path: Path) -> None:
    """The first trial is short; the second is killed after its first validation; the third was never begun."""
    lengths = {name: {"train.steps": steps} for name, steps in {"short": 8, "long": 400, "last": 9}.items()}
    path = write_sweep(
        tmp_path / "sweep.yaml",
        write_synthetic(tmp_path / "data"),
        tmp_path / "sweep",
        space={"length": {"options": lengths}},
        sweep={"searcher": "grid", "trials": None, "concurrent": 1, "scheduler": "none"},
    )
    uri = tmp_path / "sweep"
    command = [sys.executable, "-m", "foodseg", "tune", "--config", path, "--json"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: driver.poll() is not None or len(logged_steps(uri, "trial-0001")) >= 20, 280)
    assert driver.poll() is None, driver.communicate()[1].decode()
    kill_driver(driver)
    first, second = trials(uri)
    assert (first.status, second.status) == ("finished", "running")
    assert logged_steps(uri, "trial-0001")[-1] < 400

    changed = ["--resume", "--set", "sweep.concurrent=2"]
    resumed = subprocess.run([*command, *changed], capture_output=True, text=True, timeout=280, check=False)
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout)
    assert (result["trials"], result["finished"]) == (3, 3)
    assert logged_steps(uri, "trial-0000") == list(range(1, 9))  # not trained again
    steps = logged_steps(uri, "trial-0001")
    assert sorted(set(steps)) == list(range(1, 401)) and len(steps) - 400 < 4  # repeated: those since the checkpoint
    assert logged_steps(uri, "trial-0002") == list(range(1, 10))
    second = Ledger(str(uri))["trial-0001"]
    assert [line.step for line in second.reports] == list(range(4, 401, 4))
