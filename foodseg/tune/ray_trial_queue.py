"""What a sweep or an ablation runs: which trial Tune is given next, and when there are no more.

With `resume`, trials that have ended are not given again, and interrupted ones come first.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from foodseg.config import ExperimentConfig
from foodseg.config.sweep import Against
from foodseg.errors import UserError
from foodseg.tune.backoff import Backoff
from foodseg.tune.ray_early_stop import EarlyStop
from foodseg.tune.ray_trial import Afterwards, RunTrial, run_trial
from foodseg.tune.search import Search
from foodseg.tune.space import Values
from foodseg.tune.trials import FINAL, Ledger, Status, Trial

REFUSED = 100  # invalid configurations in a row, after which the search is taken as exhausted
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """When no further trial begins; None = no limit. Hours are of this call; those of workers over all attempts."""

    trials: int | None = None
    hours: float | None = None
    worker_hours: float | None = None
    concurrent: int | None = None


@dataclass(frozen=True)
class Plan:
    """What is run.

    configure: the configuration of a trial from its number and values, with its own run.uri.
    final: statuses that count as an end; a trial with another one is resumed.
    changed: called after every trial that ended.
    run: what is done in the process of a trial.
    """

    ledger: Ledger
    search: Search
    configure: Callable[[int, Values], ExperimentConfig]
    name: Callable[[int, Values], str]
    limits: Limits
    early_stop: EarlyStop | None = None
    against: Against = "none"
    afterwards: Afterwards | None = None
    final: tuple[Status, ...] = FINAL
    changed: Callable[[], object] = lambda: None
    run: RunTrial = run_trial


class NotPickled:
    """Pickled as empty: Tune pickles its callbacks and searchers for its own way of resuming, which is not used."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Budget(NotPickled, tune.Stopper):
    """Stops the sweep when its hours are used up."""

    def __init__(self, plan: Plan, workers: int) -> None:
        self._plan, self._workers, self._started = plan, workers, time.monotonic()
        self.used_up: str | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Called by Tune after every event."""
        return self.is_spent()

    def is_spent(self) -> bool:
        """Whether no further trial may begin; then `used_up` says why."""
        limits = self._plan.limits
        if limits.hours is not None and time.monotonic() - self._started > 3600 * limits.hours:
            self.used_up = f"sweep.hours = {limits.hours:g} are used up"
        if limits.worker_hours is not None:
            trained = sum(trial.seconds for trial in self._plan.ledger) * self._workers / 3600
            if trained > limits.worker_hours:
                self.used_up = f"sweep.worker_hours = {limits.worker_hours:g} are used up"
        return self.used_up is not None


class TrialQueue(NotPickled, Searcher):
    """Gives Tune one trial after the other: first unfinished ones, then new ones.

    A trial that is interrupted meanwhile is resumed after a pause.
    """

    def __init__(self, plan: Plan, budget: Budget) -> None:
        super().__init__(metric=None, mode=None)
        self._plan, self._budget, self._next = plan, budget, 0
        self._backoff = Backoff()
        self._unfinished: list[str] = []
        self._running: set[str] = set()
        self._exhausted = False
        for trial in plan.ledger:
            plan.search.ask(trial.number, trial.values)
            self._next = trial.number + 1
            if trial.status in plan.final:
                plan.search.tell(trial)
            else:
                self._unfinished.append(trial.name)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        """Returns what Tune passes to the trial: its name; the rest is in the ledger. None = ask again later."""
        if self._backoff.is_pausing():
            if self._running:
                return None
            self._wait()
        if self._budget.is_spent() or self._backoff.is_exhausted():
            return Searcher.FINISHED
        trial = self._next_trial()
        if trial is None:
            return None if self._running else Searcher.FINISHED
        self._running.add(trial.name)
        return {"trial": trial.name}

    def _wait(self) -> None:
        """Waits until the pause ends or the hours are used up; Ctrl-C works meanwhile, which Tune would not check."""
        ours = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, signal.default_int_handler) if ours else None
        try:
            while self._backoff.is_pausing() and not self._budget.is_spent():
                time.sleep(min(1, self._backoff.seconds_left))
        finally:
            if ours:
                signal.signal(signal.SIGINT, before)

    def _next_trial(self) -> Trial | None:
        proposals = [self._unfinished_trial, self._new_trial]
        for proposal in reversed(proposals) if self._backoff.in_doubt else proposals:
            trial = proposal()
            if trial is not None:
                return trial
        return None

    def _unfinished_trial(self) -> Trial | None:
        while self._unfinished:
            trial = self._plan.ledger.reopen(self._unfinished.pop(0))
            if self._configured(trial):
                return trial
        return None

    def _new_trial(self) -> Trial | None:
        plan = self._plan
        for _ in range(REFUSED):
            number = self._next
            full = plan.limits.trials is not None and number >= plan.limits.trials
            values = None if self._exhausted or full else plan.search.ask(number)
            if values is None:
                return None
            self._next += 1
            trial = Trial(plan.name(number, values), number, values, {})
            if self._configured(trial):
                shown = ", ".join(f"{param} {_short(value)}" for param, value in values.items())
                _log.info("%s begins: %s", trial.name, shown)
                return trial
        _log.warning("%d trials in a row had no valid configuration: no more are tried", REFUSED)
        self._exhausted = True
        return None

    def ended(self, trial: Trial) -> None:
        """Takes note of how a trial ended."""
        self._running.discard(trial.name)
        if trial.status != "interrupted":
            self._backoff.ended()
            return
        again = self._backoff.interrupted(trial.name)
        if again:
            self._unfinished.append(trial.name)
        if self._backoff.is_exhausted():
            _log.warning("trials are interrupted again and again: no more begin; run it again with --resume")
        else:
            then = f"then {trial.name} is tried again" if again else f"{trial.name} is left to --resume"
            _log.warning("no trial begins for %.0f s; %s", self._backoff.seconds_left, then)

    def _configured(self, trial: Trial) -> bool:
        """Records the trial with its configuration; where its values make no valid one, it is recorded as failed."""
        plan = self._plan
        try:
            config = plan.configure(trial.number, trial.values).model_dump(mode="json")
        except UserError as error:
            refused = plan.ledger.put(replace(trial, status="failed", reason=str(error)))
            plan.search.tell(refused)
            _log.warning("%s failed (%s)", trial.name, error)
            plan.changed()
            return False
        plan.ledger.put(replace(trial, config=config))
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass  # `_Recorder` records it

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep resumes from its ledger")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
