"""Which trials are stopped before their end: successive halving, which remembers the trials of earlier calls."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from foodseg.config.sweep import SweepConfig
from foodseg.tune.trials import Ledger

BRACKETS = 3  # of `hyperband`, at most


@dataclass(frozen=True)
class EarlyStop:
    """Successive halving: `brackets` of it, the first from `grace` (a share of the steps) on."""

    grace: float
    reduction: float
    brackets: int


def early_stop(sweep: SweepConfig) -> EarlyStop | None:
    """Returns what `sweep.scheduler` names; None = every trial trains to its end."""
    if sweep.scheduler == "none":
        return None
    # each bracket begins `reduction` times later than the one before; one that began at the end would stop no trial
    useful = math.ceil(round(math.log(1 / sweep.grace, sweep.reduction), 6))
    brackets = min(BRACKETS, useful) if sweep.scheduler == "hyperband" else 1
    return EarlyStop(sweep.grace, sweep.reduction, brackets)


class _ByName(AsyncHyperBandScheduler):
    """Identifies a trial by its name: Tune gives a resumed trial another id.

    By its id, a resumed trial would be compared at its next validation with the others' first rung, and be counted
    twice.
    """

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        if trial.config["trial"] not in self._trial_info:
            super().on_trial_add(controller, _named(trial))

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return str(super().on_trial_result(controller, _named(trial), result))

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        pass  # its results are known; it stays in its bracket, in case it is resumed

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        pass


def _named(trial: Any) -> Any:
    return SimpleNamespace(trial_id=trial.config["trial"])


def build_scheduler(rule: EarlyStop | None, ledger: Ledger) -> TrialScheduler:
    """Builds the scheduler, and replays the validations of the trials of earlier calls."""
    if rule is None:
        return FIFOScheduler()
    scheduler = _ByName(
        time_attr="percent",
        metric="miou",
        mode="max",
        max_t=100,
        grace_period=100 * rule.grace,
        reduction_factor=rule.reduction,
        brackets=rule.brackets,
        stop_last_trials=False,
    )
    for trial in ledger:
        past = SimpleNamespace(config={"trial": trial.name})
        scheduler.on_trial_add(None, past)
        for report in trial.reports:
            scheduler.on_trial_result(None, past, {"percent": 100 * report.share, "miou": report.miou})
    return scheduler
