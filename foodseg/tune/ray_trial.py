"""One trial of a sweep, in its Tune actor: the same `run_training` as everywhere, and a record of how it ended.

Heavy modules are imported inside functions: Ray's controller of a training unpickles `TuneReports` without torch.
"""

import time
import traceback
from collections.abc import Callable

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from foodseg import storage
from foodseg.checkpoint.history import parse_history
from foodseg.config import ExperimentConfig
from foodseg.config.sweep import Against
from foodseg.errors import FoodsegError, OutOfMemory, RetryLater, Unavailable
from foodseg.train.results import Report
from foodseg.tune.trials import End, Status, Trial, TrialReport, read_trial, write_end

Afterwards = Callable[[str, ExperimentConfig], None]
"""Called with the trial's name and configuration after training, before the trial counts as finished; it is pickled."""
RunTrial = Callable[[str, str, Against, Afterwards | None], None]
"""Runs a trial of the sweep at a URI, by its name, and writes how it ended: `run_trial`; it is pickled."""


class TuneReports:
    """Passes validations on to Tune: from this process, or from the controller of a training with workers.

    In this process it waits until Tune has decided whether the trial continues; a training with workers does not wait.
    """

    def __init__(self, trial: Trial, workers: int, costs: dict[str, float]) -> None:
        self._costs = costs
        self._since = time.time() - trial.seconds
        self._queue = TuneReportCallback() if workers else None

    def __call__(self, report: Report) -> None:
        # between two validations, or at the end, when there is nothing left to decide
        if report.validation is None or report.share >= 1:
            return
        own = TrialReport(report.validation, report.share, time.time() - self._since)
        update = tune_result(own, self._costs)
        if self._queue is not None:
            self._queue.after_report(None, [update], None)
        else:
            tune.report(update)


def tune_result(report: TrialReport, costs: dict[str, float]) -> dict[str, object]:
    """Returns a validation as Tune takes it: `percent` and `miou` for its scheduler, the rest for the ledger."""
    return {"report": report.to_json(), "costs": costs, "percent": 100 * report.share, "miou": report.miou}


def run_trial(uri: str, name: str, against: Against, afterwards: Afterwards | None) -> None:
    """Trains or resumes the trial `name` of the sweep at `uri`, and writes how it ended.

    A training that fails does not raise: Tune retries whatever raises, and a loss of NaN would be NaN again. Tune
    itself notices when the process ends.
    """
    storage.expect(uri)  # the driver has written there
    trial = read_trial(uri, name)
    started, total, costs = time.time() - trial.seconds, 0, dict(trial.costs)
    status: Status = "finished"
    reason = trace = None
    try:
        from foodseg.train.ray_trainer import run_training
        from foodseg.train.run import plan_run
        from foodseg.tune.cost import model_cost

        config = trial.parsed()
        storage.expect(config.run.uri, config.data.uri, *(source.uri for source in config.data.uris))
        run = plan_run(config)
        total, costs = run.total_steps, model_cost(config, run.manifest.class_table, against)
        workers = max(config.world_sizes) if config.scaling.num_workers else 0
        begun = storage.exists(storage.join(config.run.uri, "config.yaml"))
        run_training(config, resume=begun, on_report=TuneReports(trial, workers, costs))
        if afterwards is not None:
            afterwards(name, config)
    except (RetryLater, Unavailable) as error:
        # capacity and servers were there when the sweep began; but a trial that took too much memory will do so again
        status, reason = "failed" if isinstance(error, OutOfMemory) else "interrupted", str(error)
    except FoodsegError as error:
        status, reason = "failed", str(error)
    except Exception as error:  # a bug, or out of memory: the other trials continue
        lines = str(error).strip().splitlines() or [""]
        status, reason, trace = "failed", f"{type(error).__name__}: {lines[0]}"[:500], traceback.format_exc()
    seconds = time.time() - started
    reports = _validations(uri, trial, total, seconds)
    write_end(uri, name, End(status, reason, seconds, reports, costs, trace))


def _validations(uri: str, trial: Trial, total: int, seconds: float) -> tuple[TrialReport, ...]:
    """Returns the validations that the run has recorded, with the seconds that the ledger has for each."""
    noted = read_trial(uri, trial.name).reports
    where = storage.join(trial.run_uri, "history.jsonl")
    if not total or not storage.exists(where):
        return noted
    after = {report.step: report.seconds for report in noted}
    return tuple(
        TrialReport(each, each.step / total, after.get(each.step, seconds))
        for each in parse_history(storage.read_text(where))
    )
