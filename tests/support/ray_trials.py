"""A trial without a training, for tests of what a sweep does with its trials.

run_sweep(read_sweep(path, []), run_each=run_quickly)
"""

import time

from ray import tune

from foodseg.checkpoint.history import Validation
from foodseg.config.sweep import Against
from foodseg.errors import RetryLater
from foodseg.tune.ray_trial import Afterwards, tune_result
from foodseg.tune.trials import End, TrialReport, read_trial, write_end

STEPS = (4, 8, 12)  # as tests/support/sweep_files.py has trials validated


def run_quickly(uri: str, name: str, against: Against, afterwards: Afterwards | None, *, pause: float = 0.0) -> None:
    """Resumes after the last recorded validation, and writes how it ended as `run_trial` does.

    pause: seconds after each validation, in which a trial can be stopped.
    """
    trial = read_trial(uri, name)
    began, reports = time.time() - trial.seconds, list(trial.reports)
    for step in STEPS[len(reports) :]:
        time.sleep(0.01)  # a step takes time: else a budget of hours would never be used up
        scores = Validation(step, step / 100, 0.5, 0.5, step / 100)
        report = TrialReport(scores, step / STEPS[-1], time.time() - began)
        reports.append(report)
        if step < STEPS[-1]:  # Tune has nothing to decide at the end
            tune.report(tune_result(report, {}))
            time.sleep(pause)
    status, reason = "finished", None
    if afterwards is not None:
        try:
            afterwards(name, trial.parsed())
        except RetryLater as error:
            status, reason = "interrupted", str(error)
    write_end(uri, name, End(status, reason, time.time() - began, tuple(reports)))  # type: ignore[arg-type]
