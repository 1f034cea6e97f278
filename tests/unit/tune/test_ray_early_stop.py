"""What stops weak trials early: how many brackets, and that each of them has a rung."""

from types import SimpleNamespace

import pytest

from foodseg.checkpoint.history import Validation
from foodseg.config.sweep import SweepConfig
from foodseg.tune.ray_early_stop import EarlyStop, build_scheduler, early_stop
from foodseg.tune.trials import Ledger, Trial, TrialReport


@pytest.mark.parametrize(
    ("scheduler", "grace", "reduction", "brackets"),
    [
        ("asha", 0.1, 3, 1),
        ("hyperband", 0.01, 3, 3),  # from 1, 3 and 9 % on; a fourth could begin at 27 %
        ("hyperband", 0.2, 3, 2),  # from 20 and 60 % on; a third would begin at 180 %
        ("hyperband", 1 / 3, 3, 1),  # a second would begin at the end
        ("hyperband", 0.25, 2, 2),
        ("hyperband", 0.9, 3, 1),
    ],
)
def test_every_bracket_can_stop_a_trial(scheduler, grace, reduction, brackets, tmp_path):
    rule = early_stop(SweepConfig(scheduler=scheduler, grace=grace, reduction=reduction))
    assert rule == EarlyStop(grace, reduction, brackets)
    built = build_scheduler(rule, Ledger(str(tmp_path)))
    # where each bracket begins to compare, in percent of a trial's steps
    lowest = [min(milestone for milestone, _ in bracket._rungs) for bracket in built._brackets]
    assert lowest == pytest.approx([100 * grace * reduction**number for number in range(brackets)])
    assert max(lowest) < 100


def reports_of(name, trial_id):
    """As Tune shows a trial to its scheduler; the id is another one whenever it is taken up."""
    return SimpleNamespace(trial_id=trial_id, config={"trial": name})


def report(percent, miou):
    return {"percent": percent, "miou": miou}


@pytest.mark.parametrize("killed", [False, True])
def test_a_resumed_trial_is_compared_where_it_was(killed, tmp_path):
    """Had 0.40 at 20 % been taken for its score at 10 %, the other one would be stopped for its better 0.35."""
    rule, first, other = EarlyStop(0.1, 3, 1), reports_of("trial-0000", "a"), reports_of("trial-0001", "b")
    if killed:
        ledger = Ledger(str(tmp_path))
        noted = TrialReport(Validation(1, 0.3, 0.5, 0.4, 0.3), 0.1, 1.0)
        ledger.put(Trial("trial-0000", 0, {}, {}, "running", reports=(noted,)))
        scheduler = build_scheduler(rule, ledger)
    else:  # it was interrupted, and is taken up by the same call
        scheduler = build_scheduler(rule, Ledger(str(tmp_path)))
        scheduler.on_trial_add(None, first)
        assert scheduler.on_trial_result(None, first, report(10, 0.3)) == "CONTINUE"
        scheduler.on_trial_complete(None, first, report(10, 0.3))
    again = reports_of("trial-0000", "c")
    scheduler.on_trial_add(None, again)
    assert scheduler.on_trial_result(None, again, report(20, 0.4)) == "CONTINUE"
    scheduler.on_trial_add(None, other)
    assert scheduler.on_trial_result(None, other, report(10, 0.35)) == "CONTINUE"
    # a third that is weaker than both at 10 % goes, and what the first one reaches at 30 % counts there
    weak = reports_of("trial-0002", "d")
    scheduler.on_trial_add(None, weak)
    assert scheduler.on_trial_result(None, weak, report(10, 0.2)) == "STOP"
    assert scheduler.on_trial_result(None, again, report(30, 0.5)) == "CONTINUE"
    assert scheduler.on_trial_result(None, other, report(30, 0.45)) == "STOP"


def test_no_early_stop():
    assert early_stop(SweepConfig(scheduler="none")) is None
