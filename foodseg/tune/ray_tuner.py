"""Runs the trials of a sweep, or the runs of an ablation, side by side on Ray Tune.

Tune starts, stops and restarts trials and frees what they held; what is known of them lies in our ledger. So a sweep
whose driver was killed starts a new Tune, with the trials that did not come to their end first, and the scheduler is
told once more what the others had reached.
"""

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from foodseg.config import ExperimentConfig
from foodseg.config.load import with_overrides
from foodseg.config.sweep import Against
from foodseg.data.ray_dataset import STREAM_CPUS
from foodseg.errors import RetryLater, UserError
from foodseg.ray_session import cores, data_cpus, free_nodes, living_nodes, nodes_may_come, ray_session
from foodseg.train.placement import require_room, side_by_side
from foodseg.train.ray_failures import ctrl_c_interrupts
from foodseg.train.ray_groups import release_lost_groups
from foodseg.train.ray_trainer import KEEP_MEMORY
from foodseg.train.tracking import end_tracking
from foodseg.tune.ledger import FINAL, Ledger, Status, Trial
from foodseg.tune.patience import Patience
from foodseg.tune.ray_early_stop import EarlyStop, build_scheduler
from foodseg.tune.ray_trial import Afterwards, run_trial
from foodseg.tune.search import Search
from foodseg.tune.space import Values

REFUSED = 100  # invalid configurations in a row, after which a search has nothing more to give
LOOK_SECONDS = 2.0  # between two looks for what stopped trials had reserved
LAST_LOOKS = 15
DRIVER = {"memory": 2.0**20}  # Ray refuses a trial that needs nothing; a CPU would be taken from those who decode
# Tune's own files and tables are of no use here, and its way of printing errors hides ours
_QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
          "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000", "RAY_CHDIR_TO_TRIAL_DIR": "0",
          "RAY_AIR_NEW_OUTPUT": "0"}  # fmt: skip
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
    final: what counts as an end; a trial with another status is taken up again.
    changed: called after every trial that ended.
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


def with_own_threads(config: ExperimentConfig) -> ExperimentConfig:
    """Gives each worker one thread, and with GPUs one of those, where the configuration does not say how many."""
    gpus = {"GPU": 1.0} if config.scaling.use_gpu else {}
    own = {"CPU": 1.0, **gpus, **(config.scaling.resources_per_worker or {})}
    return with_overrides(config, [f"scaling.resources_per_worker={json.dumps(own)}"])


def run_trials(plan: Plan, example: ExperimentConfig, address: str | None) -> None:
    """Runs what is left until the search or a limit ends it.

    Args:
        example: any trial's configuration; all have the same workers.
        address: Ray cluster to join; None starts one here.

    Raises:
        UserError: no trial has room on the cluster.
        KeyboardInterrupt: Ctrl-C; what runs goes on with the next call.
    """
    worker: dict[str, float] = {"CPU": 1.0, **(example.scaling.resources_per_worker or {})}
    workers = max(example.world_sizes)
    in_process = example.scaling.num_workers == 0
    threads = worker["CPU"]
    # without Ray Data nobody but the trial needs a CPU
    stream = 0 if in_process else STREAM_CPUS
    here = plan.limits.concurrent or max(1, int(cores() / max(1.0, workers * threads)))
    cpus = here * (math.ceil(workers * threads) + (0 if in_process else data_cpus()))
    environment: Mapping[str, str] = {} if example.scaling.use_gpu else KEEP_MEMORY
    with ray_session(address, logical_cpus=cpus, environment=environment), _quiet_tune():
        nodes = list(living_nodes().values())
        room = side_by_side(nodes, worker, workers, stream)
        if not room and not nodes_may_come():
            require_room(nodes, worker, [workers], stream)
        most = here if address is None else plan.limits.concurrent or max(1, room)
        concurrent = max(1, min(most, room or most))
        if not in_process:  # Tune itself makes the others wait, and they hold nothing meanwhile
            concurrent = _beside_others(concurrent, worker, workers)
        _log.info("%d trial%s at a time", concurrent, "" if concurrent == 1 else "s")
        _run(plan, concurrent, dict(worker) if in_process else DRIVER, example.train.max_failures, workers)


def _beside_others(most: int, worker: dict[str, float], workers: int) -> int:
    """Returns how many trials have room beside what others hold: trials that lack CPUs to decode would stand still."""
    for _ in range(LAST_LOOKS):  # what a killed driver held comes back within seconds
        room = side_by_side(list(free_nodes().values()), worker, workers, STREAM_CPUS)
        if room >= most:
            return most
        time.sleep(LOOK_SECONDS)
    _log.info("others hold a part of the cluster, which has room for %d of %d trials", room, most)
    return max(1, room)


def _run(plan: Plan, concurrent: int, resources: dict[str, float], max_failures: int, workers: int) -> None:
    scheduler = build_scheduler(plan.early_stop, plan.ledger)
    budget = _Budget(plan, workers)
    asker = _Asker(plan, budget)
    uri, against, afterwards = plan.ledger.uri, plan.against, plan.afterwards

    def trial(config: dict[str, Any]) -> None:
        run_trial(uri, config["trial"], against, afterwards)

    with tempfile.TemporaryDirectory(prefix="foodseg-tune-") as folder, ctrl_c_interrupts():
        tune.Tuner(
            tune.with_resources(trial, resources),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                max_concurrent_trials=concurrent,
                search_alg=asker,
                scheduler=scheduler,
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                stop=budget,
                failure_config=tune.FailureConfig(max_failures=max_failures),
                callbacks=[_Scribe(plan, asker)],
                verbose=0,
            ),
        ).fit()
    if resources == DRIVER:
        _release_all()
    left = [trial.name for trial in plan.ledger if trial.status == "running"]
    for name in left:
        plan.ledger.close(name, "interrupted", budget.used_up or "the sweep was interrupted")
    if left and not budget.used_up:
        raise KeyboardInterrupt
    if budget.used_up:
        _log.info("%s: the sweep ends here; --resume with a larger one goes on", budget.used_up)


def _release_all() -> None:
    """The processes of a stopped trial end one after the other; the next user of the cluster finds it free."""
    quiet = 0
    for _ in range(LAST_LOOKS):
        quiet = 0 if release_lost_groups() else quiet + 1
        if quiet == 3:
            return
        time.sleep(LOOK_SECONDS)


class _Apart:
    """Tune pickles what it is given, for a way of resuming that is not used: then it holds nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Asker(_Apart, Searcher):
    """Gives Tune one trial after the other: first those that did not come to their end, then new ones.

    One that is interrupted while this runs is taken up again, when what it lacked may be there.
    """

    def __init__(self, plan: Plan, budget: "_Budget") -> None:
        super().__init__(metric=None, mode=None)
        self._plan, self._budget, self._next = plan, budget, 0
        self._patience = Patience()
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
        """Returns what Tune hands to the trial: its name. What it is to do stands in the ledger. None = ask later."""
        if self._budget.is_spent() or self._patience.is_over():
            return Searcher.FINISHED
        if self._patience.lasts():
            return None
        trial = self._next_trial()
        if trial is None:
            return None if self._running else Searcher.FINISHED
        self._running.add(trial.name)
        return {"trial": trial.name}

    def _next_trial(self) -> Trial | None:
        plan = self._plan
        while self._unfinished:
            trial = plan.ledger.reopen(self._unfinished.pop(0))
            if self._configured(trial):
                return trial
        for _ in range(REFUSED):
            number = self._next
            full = plan.limits.trials is not None and number >= plan.limits.trials
            values = None if self._exhausted or full else plan.search.ask(number)
            if values is None:
                return None
            self._next += 1
            trial = Trial(plan.name(number, values), number, values, {})
            if self._configured(trial):
                shown = ", ".join(f"{knob} {_short(value)}" for knob, value in values.items())
                _log.info("%s begins: %s", trial.name, shown)
                return trial
        _log.warning("%d trials in a row had no valid configuration: no more are tried", REFUSED)
        self._exhausted = True
        return None

    def ended(self, trial: Trial) -> None:
        """Hears how a trial ended that was given out."""
        self._running.discard(trial.name)
        if trial.status != "interrupted":
            self._patience.ended()
            return
        if self._patience.interrupted(trial.name):
            self._unfinished.append(trial.name)
        if self._patience.is_over():
            _log.warning("trials are interrupted again and again: no more begin; go on with --resume")
        else:
            _log.warning("no trial begins for %.0f s, then it is tried again", self._patience.seconds_left)

    def _configured(self, trial: Trial) -> bool:
        """Writes the trial down with its configuration, or that its values make none: then it is over."""
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
        pass  # `_Scribe` hears more of it

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep goes on from its ledger")


class _Budget(_Apart, tune.Stopper):
    """Ends the sweep when its hours are used up."""

    def __init__(self, plan: Plan, workers: int) -> None:
        self._plan, self._workers, self._started = plan, workers, time.monotonic()
        self.used_up: str | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Called by Tune after everything that happens."""
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


class _Scribe(_Apart, tune.Callback):
    """Writes down what Tune sees, and gives back what stopped trials had reserved."""

    def __init__(self, plan: Plan, asker: _Asker) -> None:
        self._plan, self._asker, self._looked_at = plan, asker, time.monotonic()

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Called by Tune about ten times a second."""
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at = time.monotonic()
            release_lost_groups()

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "report" in result:
            self._plan.ledger.note(trial.config["trial"], result["report"], result["costs"])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        name = trial.config["trial"]
        reason = f"weaker than others after {100 * self._plan.ledger[name].share:.0f} % of its steps"
        self._ended(self._plan.ledger.close(name, "stopped", reason))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        # what the process itself could not write down: it was killed, or its node was lost
        told = (
            Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2] if trial.error_file else ""
        )
        lines = [line for line in told.splitlines()[1:] if line.strip()] or ["the process ended"]
        reason = lines[-1 if "ray::" in lines[0] else 0]  # an exception stands at the end of its trace
        status: Status = "interrupted" if RetryLater.__name__ in told else "failed"  # the former: storage is away
        self._ended(self._plan.ledger.close(trial.config["trial"], status, reason.strip()[:300]))

    def _ended(self, trial: Trial) -> None:
        if trial.status != "interrupted":
            self._plan.search.tell(trial)
            end_tracking(trial.parsed())
        score = "" if trial.score is None else f", mIoU on val {100 * trial.score:.2f}"
        reason = f" ({trial.reason})" if trial.reason else ""
        ended = sum(other.status in FINAL for other in self._plan.ledger)
        level = logging.INFO if trial.status in ("finished", "stopped") else logging.WARNING
        _log.log(level, "%s %s%s%s; %d ended", trial.name, trial.status, reason, score, ended)
        self._asker.ended(trial)
        self._plan.changed()


@contextmanager
def _quiet_tune() -> Iterator[None]:
    logger = logging.getLogger("ray.tune")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        logger.setLevel(before)


def _name_of(trial: TuneTrial) -> str:
    return str(trial.config["trial"])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
