"""What stops weak trials early: how many brackets, and that each of them has a rung."""

import pytest

from foodseg.config.sweep import SweepConfig
from foodseg.tune.ledger import Ledger
from foodseg.tune.ray_early_stop import EarlyStop, build_scheduler, early_stop


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


def test_no_early_stop():
    assert early_stop(SweepConfig(scheduler="none")) is None
