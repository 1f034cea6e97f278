"""What a sweep says: ranks, importance and fronts by hand, files, and a page that loads nothing."""

import json
import re

import pyarrow.parquet as pq
import pytest

from foodseg.checkpoint.history import Validation
from foodseg.config import load_config
from foodseg.config.sweep import SweepConfig
from foodseg.tune.space import parse_space
from foodseg.tune.sweep_report import sweep_html
from foodseg.tune.sweep_result import explained_share, pareto_front, ranked, summarise_sweep, write_sweep_results
from foodseg.tune.trials import Trial, TrialReport
from tests.support.synthetic_set import synthetic_config

SPACE = parse_space({
    "<kind>": {"options": {"a": {}, "<b>": {"loss.dice": 0.5}}},
    "optim.lr": {"loguniform": [1e-4, 1e-2]},
    "loss.features": {"uniform": [0, 1], "when": {"<kind>": "<b>"}},
})  # fmt: skip


def trial(number, score, status="finished", share=1.0, kind="a", lr=1e-3, parameters=1e6, **values):
    reports = () if score is None else (TrialReport(Validation(5, score, 0.5, 0.4, score), share, 36.0),)
    config = synthetic_config("data", "old", f"optim.lr={lr}").model_dump(mode="json")
    known = {"<kind>": kind, "optim.lr": lr, **values}
    reason = "a reason <i>" if status == "failed" else None
    return Trial(f"t{number}", number, known, config, status, reason, 36.0, reports, {"parameters": parameters})


def test_finished_trials_come_first_and_then_those_that_went_far():
    trials = [
        trial(0, 0.3, "stopped", share=0.5), trial(1, 0.2), trial(2, None, "failed", share=0), trial(3, 0.4),
        trial(4, 0.1, "stopped", share=0.9), trial(5, 0.35, "stopped", share=0.5),
    ]  # fmt: skip
    assert [t.number for t in ranked(trials)] == [3, 1, 4, 5, 0, 2]


def test_a_hyperparameter_that_decides_alone_explains_all_but_chance():
    # ranks 0 1 | 2 3: total 5, within 0.5 + 0.5 = 1, chance (2 - 1) * 1 / (4 - 2) = 0.5; (5 - 1 - 0.5) / 5 = 0.7
    order = [trial(0, 0.4), trial(1, 0.3), trial(2, 0.2, kind="<b>"), trial(3, 0.1, kind="<b>")]
    assert explained_share(SPACE.hyperparameters[0], order) == pytest.approx(0.7)


def test_a_number_is_cut_into_thirds():
    # lr rises with the rank: groups of ranks 0 1 | 2 3 | 4 5; total 17.5, within 1.5, chance 2 * 1.5 / 3 = 1
    order = [trial(n, 1 - 0.1 * n, lr=1e-4 * (n + 1)) for n in range(6)]
    assert explained_share(SPACE.hyperparameters[1], order) == pytest.approx((17.5 - 1.5 - 1) / 17.5)


def test_equal_numbers_stay_together():
    """One value for all says nothing, whatever the order of the trials."""
    assert explained_share(SPACE.hyperparameters[1], [trial(n, 1 - 0.1 * n, lr=1e-3) for n in range(6)]) is None
    # two values: groups of ranks 0 1 2 4 | 3 5; total 17.5, within 8.75 + 2, chance 10.75 / 4
    order = [trial(n, 1 - 0.1 * n, lr=1e-3 if n in (0, 1, 2, 4) else 2e-3) for n in range(6)]
    assert explained_share(SPACE.hyperparameters[1], order) == pytest.approx((17.5 - 10.75 - 10.75 / 4) / 17.5)


def test_a_hyperparameter_without_effect_explains_nothing():
    order = [trial(0, 0.4), trial(1, 0.3, kind="<b>"), trial(2, 0.2, kind="<b>"), trial(3, 0.1)]
    assert explained_share(SPACE.hyperparameters[0], order) == 0


def test_too_few_trials_say_nothing_of_a_hyperparameter():
    order = [trial(0, 0.4), trial(1, 0.3, kind="<b>"), trial(2, None, "failed", kind="<b>")]
    assert explained_share(SPACE.hyperparameters[0], order) is None
    assert explained_share(SPACE.hyperparameters[2], order) is None


def test_the_front_is_what_none_beats_in_both():
    trials = [
        trial(0, 0.3, parameters=2e6), trial(1, 0.2, parameters=1e6), trial(2, 0.25, parameters=3e6),
        trial(3, 0.5, parameters=9e6), trial(4, 0.2, parameters=1.5e6), trial(5, 0.9, "stopped", parameters=1),
    ]  # fmt: skip
    assert pareto_front(trials, "parameters") == ("t1", "t0", "t3")
    assert pareto_front(trials, "none") == ()


def swept(uri):
    trials = [
        trial(0, 0.3, parameters=2e6), trial(1, 0.4, lr=3e-3, kind="<b>", **{"loss.features": 0.25}),
        trial(2, 0.1, "stopped", share=0.3), trial(3, None, "failed"), trial(4, 0.35, lr=1e-4),
    ]  # fmt: skip
    return summarise_sweep(trials, SPACE, SweepConfig(uri=str(uri), against="parameters"), workers=2)


def test_the_files(tmp_path):
    result = swept(tmp_path)
    write_sweep_results(result, "a page")
    config = load_config(str(tmp_path / "best.yaml")).config
    assert config.optim.lr == 3e-3 and config.run.uri == str(tmp_path / "best")
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [row["trial"] for row in rows] == ["t1", "t4", "t0", "t2", "t3"]
    assert rows[0]["loss.features"] == 0.25 and rows[1]["loss.features"] is None
    assert [row["miou"] for row in rows] == [0.4, 0.35, 0.3, 0.1, None]
    assert rows[0]["curve_step"] == [5] and rows[4]["reason"] == "a reason <i>"
    plain = json.loads(json.dumps(result.to_json()))
    assert list(plain) == [
        "sweep", "trials", "finished", "stopped", "failed", "interrupted", "running", "worker_hours", "best",
        "importance", "front", "best.yaml", "report.html",
    ]  # fmt: skip
    assert (plain["finished"], plain["stopped"], plain["failed"], plain["running"]) == (3, 1, 1, 0)
    assert plain["worker_hours"] == pytest.approx(5 * 36 * 2 / 3600)
    assert plain["best"]["trial"] == "t1" and plain["front"] == ["t1"]
    assert plain["best.yaml"] == str(tmp_path / "best.yaml")


def test_the_page_loads_nothing_and_escapes_names(tmp_path):
    page = sweep_html(swept(tmp_path), {"data": "<data>"})
    assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")
    assert not re.search(r"<(script|link|iframe|img|b>|kind|data|i>)", page.replace("<b>", "", 5))
    assert "&lt;kind&gt;" in page and "a reason &lt;i&gt;" in page
    assert page.count("<svg") == 3 and "Pareto" not in page
    assert "loss.dice" in page  # what the best option sets
    assert "optim.lr 0.003, loss.features 0.25</td>" in page  # the values of a trial


@pytest.mark.parametrize("trials", [[], [trial(0, None, "failed")], [trial(0, 0.2)], [trial(0, 0.0, "stopped")]])
def test_a_page_of_little(tmp_path, trials):
    result = summarise_sweep(trials, SPACE, SweepConfig(uri=str(tmp_path)), workers=1)
    assert "<svg" in sweep_html(result, {})
