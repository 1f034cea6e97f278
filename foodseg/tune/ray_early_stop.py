"""Which trials are stopped before their end: successive halving, which remembers the trials of earlier calls."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from foodseg.tune.ledger import FINAL, Ledger

BRACKETS = 3  # of `hyperband`


@dataclass(frozen=True)
class EarlyStop:
    """Successive halving: `brackets` of it, the first from `grace` (a share of the steps) on."""

    grace: float
    reduction: float
    brackets: int


def build_scheduler(early_stop: EarlyStop | None, ledger: Ledger) -> TrialScheduler:
    """Builds the scheduler, and tells it how far the trials had come that are at their end."""
    if early_stop is None:
        return FIFOScheduler()
    scheduler = AsyncHyperBandScheduler(
        time_attr="percent",
        metric="miou",
        mode="max",
        max_t=100,
        grace_period=100 * early_stop.grace,
        reduction_factor=early_stop.reduction,
        brackets=early_stop.brackets,
        stop_last_trials=False,
    )
    for trial in ledger:
        if trial.status in FINAL:
            past: Any = SimpleNamespace(trial_id=trial.name)
            scheduler.on_trial_add(None, past)
            for line in trial.reports:
                scheduler.on_trial_result(None, past, {"percent": 100 * line["share"], "miou": line["miou"]})
    return scheduler
