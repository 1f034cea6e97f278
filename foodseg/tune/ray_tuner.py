"""Runs the trials of a sweep, or the runs of an ablation, side by side on Ray Tune.

Tune starts, stops and restarts trials and frees what they held; their state is in our ledger. A sweep whose driver was
killed therefore starts a new Tune, with the unfinished trials first, and replays the validations of the others to the
scheduler.
"""

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial as TuneTrial

from foodseg.cluster.placement import require_room, side_by_side
from foodseg.cluster.ray_internals.core import error_reason, error_text, release_lost_groups
from foodseg.cluster.ray_session import (
    cores,
    data_cpus,
    expected_failure,
    free_nodes,
    living_nodes,
    nodes_may_come,
    ray_session,
)
from foodseg.config import ExperimentConfig
from foodseg.config.load import with_settings
from foodseg.data.ray_stream import stream_cpus
from foodseg.errors import RetryLater
from foodseg.train.ray_failures import ctrl_c_interrupts
from foodseg.train.ray_trainer import KEEP_MEMORY, with_decoders_that_fit
from foodseg.train.tracking import end_tracking
from foodseg.tune.ray_early_stop import build_scheduler
from foodseg.tune.ray_trial_queue import Budget, NotPickled, Plan, TrialQueue
from foodseg.tune.trials import FINAL, Status, Trial, TrialReport

LOOK_SECONDS = 2.0  # between two checks for what stopped trials had reserved
LAST_LOOKS = 15
DRIVER = {"memory": 2.0**20}  # Ray refuses a trial without resources; a CPU would be missing for decoding
# Tune's own files and tables are of no use here, and its way of printing errors hides ours
_QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
          "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000", "RAY_CHDIR_TO_TRIAL_DIR": "0",
          "RAY_AIR_NEW_OUTPUT": "0"}  # fmt: skip
_IN_MLFLOW: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_log = logging.getLogger(__name__)


def with_own_threads(config: ExperimentConfig) -> ExperimentConfig:
    """Gives each worker one CPU thread (with GPUs also one GPU) where the configuration does not say how many."""
    gpus = {"GPU": 1.0} if config.scaling.use_gpu else {}
    own = {"CPU": 1.0, **gpus, **(config.scaling.resources_per_worker or {})}
    return with_settings(config, {"scaling.resources_per_worker": own})


def run_trials(plan: Plan, example: ExperimentConfig, address: str | None) -> None:
    """Runs what is left until the search or a limit ends it.

    Args:
        example: any trial's configuration; all have the same workers.
        address: Ray cluster to join; None starts one here.

    Raises:
        UserError: the cluster has too little capacity for a trial.
        KeyboardInterrupt: Ctrl-C; running trials are resumed by the next call.
    """
    worker: dict[str, float] = {"CPU": 1.0, **(example.scaling.resources_per_worker or {})}
    workers = max(example.world_sizes)
    in_process = example.scaling.num_workers == 0
    threads = worker["CPU"]
    worker["CPU"] += example.decoders
    # without Ray Data only the trial itself needs a CPU
    stream = 0 if in_process else stream_cpus(example)
    here = plan.limits.concurrent or max(1, int(cores() / max(1.0, workers * threads)))
    cpus = here * (math.ceil(workers * worker["CPU"]) + (0 if in_process else data_cpus()))
    environment: Mapping[str, str] = {} if example.scaling.use_gpu else KEEP_MEMORY
    with ray_session(address, logical_cpus=cpus, environment=environment), _quiet_tune():
        nodes = list(living_nodes().values())
        if not nodes_may_come() and not in_process:
            example = with_decoders_that_fit(example, nodes)  # as each trial will
            worker["CPU"] = threads + example.decoders
        room = side_by_side(nodes, worker, workers, stream)
        if not room and not nodes_may_come():
            require_room(nodes, worker, [workers], stream)
        concurrent = plan.limits.concurrent or (here if address is None else max(1, room))
        if not nodes_may_come():  # trials that wait make a cluster grow
            concurrent = min(concurrent, room)
            if not in_process:  # Tune itself makes the others wait without resources
                concurrent = _in_free_capacity(concurrent, worker, workers, stream)
        _log.info("%d trial%s at a time", concurrent, "" if concurrent == 1 else "s")
        _run(plan, concurrent, dict(worker) if in_process else DRIVER, example.train.max_failures, workers)


def _in_free_capacity(most: int, worker: dict[str, float], workers: int, stream: int) -> int:
    """Returns how many trials fit into the free capacity: trials without CPUs to decode would make no progress."""
    for _ in range(LAST_LOOKS):  # what a killed driver held is freed within seconds
        room = side_by_side(list(free_nodes().values()), worker, workers, stream)
        if room >= most:
            return most
        time.sleep(LOOK_SECONDS)
    _log.info("others use a part of the cluster, which has capacity for %d of %d trials", room, most)
    return max(1, room)


def _run(plan: Plan, concurrent: int, resources: dict[str, float], max_failures: int, workers: int) -> None:
    scheduler = build_scheduler(plan.early_stop, plan.ledger)
    budget = Budget(plan, workers)
    queue = TrialQueue(plan, budget)
    run, uri, against, afterwards = plan.run, plan.ledger.uri, plan.against, plan.afterwards

    def trial(config: dict[str, Any]) -> None:
        run(uri, config["trial"], against, afterwards)

    with tempfile.TemporaryDirectory(prefix="foodseg-tune-") as folder, ctrl_c_interrupts(), _own_errors():
        tune.Tuner(
            tune.with_resources(trial, resources),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                max_concurrent_trials=concurrent,
                search_alg=queue,
                scheduler=scheduler,
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                stop=budget,
                failure_config=tune.FailureConfig(max_failures=max_failures),
                callbacks=[_Recorder(plan, queue)],
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
        _log.info("%s: the sweep ends here; resume it with --resume and a larger budget", budget.used_up)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Tune wraps whatever its callbacks raise."""
    try:
        yield
    except TuneError as error:
        raise expected_failure(error) or error from None


def _release_all() -> None:
    """Waits until the processes of stopped trials have ended, so that the cluster is free for the next user."""
    quiet = 0
    for _ in range(LAST_LOOKS):
        quiet = 0 if release_lost_groups() else quiet + 1
        if quiet == 3:
            return
        time.sleep(LOOK_SECONDS)


class _Recorder(NotPickled, tune.Callback):
    """Records the events of Tune in the ledger, and frees what stopped trials had reserved."""

    def __init__(self, plan: Plan, queue: TrialQueue) -> None:
        self._plan, self._queue, self._looked_at = plan, queue, time.monotonic()

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Called by Tune about ten times a second."""
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at = time.monotonic()
            release_lost_groups()

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "report" in result:
            self._plan.ledger.note(trial.config["trial"], TrialReport.from_json(result["report"]), result["costs"])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        name = trial.config["trial"]
        reason = f"weaker than others after {100 * self._plan.ledger[name].share:.0f} % of its steps"
        self._ended(self._plan.ledger.close(name, "stopped", reason))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        # the process itself could not record it: it was killed, or its node was lost
        text = error_text(trial.error_file)
        reason = error_reason(text) or "the process ended"
        status: Status = "interrupted" if RetryLater.__name__ in text else "failed"  # RetryLater: storage is away
        self._ended(self._plan.ledger.close(trial.config["trial"], status, reason[:300]))

    def _ended(self, trial: Trial) -> None:
        if trial.status != "interrupted":
            self._plan.search.tell(trial)
            end_tracking(trial.parsed(), _IN_MLFLOW[trial.status])
        score = "" if trial.score is None else f", mIoU on val {100 * trial.score:.2f}"
        reason = f" ({trial.reason})" if trial.reason else ""
        ended = sum(other.status in FINAL for other in self._plan.ledger)
        level = logging.INFO if trial.status in ("finished", "stopped") else logging.WARNING
        _log.log(level, "%s %s%s%s; %d ended", trial.name, trial.status, reason, score, ended)
        self._queue.ended(trial)
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
