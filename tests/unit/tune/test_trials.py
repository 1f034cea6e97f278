"""The ledger: what is written survives, whichever process writes last or dies in between."""

import json

from foodseg import storage
from foodseg.checkpoint.history import Validation
from foodseg.tune.trials import End, Ledger, Trial, TrialReport, read_trial, write_end

CONFIG = {"run": {"uri": "somewhere"}}


def line(step: int, seconds: float = 1.0, miou: float = 0.5) -> TrialReport:
    return TrialReport(Validation(step, miou, 0.8, 0.6, miou, 0.25 if step == 8 else None), step / 10, seconds)


def test_what_is_noted_is_read_again(tmp_path):
    ledger = Ledger(str(tmp_path))
    ledger.put(Trial("b", 1, {"x.y": 2}, CONFIG))
    ledger.put(Trial("a", 0, {"x.y": 1}, CONFIG))
    ledger.note("b", line(4, 3.0), {"parameters": 7.0})
    ledger.note("b", line(8, 6.0), {"parameters": 7.0})
    again = Ledger(str(tmp_path))
    assert [trial.name for trial in again] == ["a", "b"]
    assert again["b"] == ledger["b"] == read_trial(str(tmp_path), "b")
    assert (again["b"].score, again["b"].share, again["b"].seconds) == (0.5, 0.8, 6.0)
    assert again["b"].costs == {"parameters": 7.0} and again["a"].score is None


def test_the_files_are_plain_data(tmp_path):
    uri = str(tmp_path)
    Ledger(uri).put(Trial("a", 0, {}, CONFIG, reports=(line(4), line(8, 6.0))))
    write_end(uri, "a", End("finished", None, 7.0, (line(4), line(8, 6.0))))
    scores = {"miou": 0.5, "aacc": 0.8, "macc": 0.6, "miou_student": 0.5}
    expected = [
        {"step": 4, **scores, "share": 0.4, "seconds": 1.0},
        {"step": 8, **scores, "miou_ema": 0.25, "share": 0.8, "seconds": 6.0},
    ]
    for folder in ("ledger", "ended"):
        assert json.loads(storage.read_text(storage.join(uri, folder, "a.json")))["reports"] == expected


def test_a_validation_that_is_done_again_replaces_the_first(tmp_path):
    ledger = Ledger(str(tmp_path))
    ledger.put(Trial("a", 0, {}, CONFIG))
    for report in (line(4), line(8, miou=0.1), line(4, 9.0, 0.7)):
        ledger.note("a", report, {})
    assert [report.step for report in ledger["a"].reports] == [4]
    assert (ledger["a"].score, ledger["a"].seconds) == (0.7, 9.0)


def test_an_end_without_a_driver_counts(tmp_path):
    uri = str(tmp_path)
    ledger = Ledger(uri)
    for name in ("a", "b"):
        ledger.put(Trial(name, 0, {}, CONFIG))
    write_end(uri, "a", End("failed", "NaN", 5.0, (line(4),), {"parameters": 3.0}, "a trace"))
    again = Ledger(uri)  # the driver was killed before it read of it
    assert (again["a"].status, again["a"].reason, again["a"].seconds) == ("failed", "NaN", 5.0)
    assert again["a"].costs == {"parameters": 3.0}
    assert again["b"].status == "running"


def test_a_trial_that_says_nothing_was_stopped_by_others(tmp_path):
    ledger = Ledger(str(tmp_path))
    ledger.put(Trial("a", 0, {}, CONFIG))
    assert ledger.close("a") == ledger["a"] and ledger["a"].status == "running"
    assert ledger.close("a", "stopped", "weaker").status == "stopped"
    assert Ledger(str(tmp_path))["a"].reason == "weaker"


def test_a_trial_that_is_reopened_forgets_its_end(tmp_path):
    uri = str(tmp_path)
    ledger = Ledger(uri)
    ledger.put(Trial("a", 0, {}, CONFIG))
    write_end(uri, "a", End("interrupted", "no storage", 5.0, (line(4),)))
    assert ledger.close("a").status == "interrupted"
    assert ledger.reopen("a").status == "running"
    assert Ledger(uri)["a"].status == "running" and Ledger(uri)["a"].seconds == 5.0
