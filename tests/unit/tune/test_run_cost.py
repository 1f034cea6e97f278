"""Seconds an update and memory from a run's log, by hand."""

import json
from pathlib import Path

import pytest

from foodseg.tune.run_cost import RunCost, median_cost, run_cost


def write_log(folder: Path, *lines: dict[str, object]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps({"step": 1, **line}) + "\n" for line in lines))
    return str(folder)


def progress(first: int, last: int, rate: float, memory: float) -> dict[str, object]:
    return {"images_per_second": rate, "memory_mib": memory, "positions": [first, last], "loss/cross_entropy": 1.0}


def test_the_mean_over_all_updates(tmp_path: Path) -> None:
    # 40 images in 10 s and 8 in 4 s: 14 s for 12 updates of 4 images
    lines = [progress(0, 40, 4.0, 900.0), {"val/miou": 0.3}, progress(40, 48, 2.0, 1100.0)]
    assert run_cost(write_log(tmp_path, *lines), 4) == RunCost(pytest.approx(14 / 12), 1100.0)


def test_a_run_that_has_logged_nothing(tmp_path: Path) -> None:
    assert run_cost(str(tmp_path), 4) is None
    assert run_cost(write_log(tmp_path, {"val/miou": 0.3}), 4) is None


def test_the_median_over_runs() -> None:
    costs = [RunCost(3.0, 10.0), None, RunCost(1.0, 30.0), RunCost(2.0, 20.0)]
    assert median_cost(costs) == RunCost(2.0, 20.0)
    assert median_cost([None]) is None
