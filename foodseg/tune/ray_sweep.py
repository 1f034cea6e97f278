"""`foodseg tune`: a sweep from its file to best.yaml, trials.parquet and report.html.

run_sweep(read_sweep("jobs/configs/sweep.yaml", ["sweep.trials=8"]))
"""

from dataclasses import replace

import numpy as np

from foodseg import storage
from foodseg.config import ExperimentConfig
from foodseg.config.explain import validated
from foodseg.config.load import with_settings
from foodseg.config.marks import with_resolved_uris
from foodseg.config.sweep import SweepFile
from foodseg.errors import RetryLater, UserError
from foodseg.storage.writer_lock import in_use
from foodseg.train.run import Run, plan_run, require_models, with_absolute_uris
from foodseg.train.tracking import require_mlflow
from foodseg.tune.ray_early_stop import early_stop
from foodseg.tune.ray_trial import RunTrial, run_trial
from foodseg.tune.ray_trial_queue import Limits, Plan
from foodseg.tune.ray_tuner import run_trials, with_own_threads
from foodseg.tune.search import Search, build_search
from foodseg.tune.space import RandomSource, Values, configured, corners
from foodseg.tune.sweep_files import SweepPlan, begin
from foodseg.tune.sweep_report import sweep_html
from foodseg.tune.sweep_result import SweepResult, summarise_sweep, write_sweep_results
from foodseg.tune.trials import DRIVER_RETRY_SECONDS, Ledger


def run_sweep(
    plan: SweepPlan, *, resume: bool = False, address: str | None = None, run_each: RunTrial = run_trial
) -> SweepResult:
    """Runs a sweep, or resumes it.

    Args:
        plan: of `read_sweep`.
        resume: resume the sweep in `sweep.uri`: finished trials are kept, unfinished ones are resumed.
        address: Ray cluster to join; None starts one here.
        run_each: what is done in the process of each trial.

    Returns:
        All trials, with a best one.

    Raises:
        UserError: an invalid configuration; the cluster has too little capacity; no trial finished.
        RetryLater: no trial finished, since storage or cluster were lost or the budget is used up.
        KeyboardInterrupt: Ctrl-C.
    """
    plan = replace(plan, sweep=validated({"sweep": with_resolved_uris(plan.sweep)}, SweepFile).sweep)
    sweep = plan.sweep
    search = build_search(sweep, plan.space)
    some = plan.space.draw(RandomSource(np.random.default_rng(sweep.seed)))
    run = _checked(plan, _configuration(plan, _name(0, some), some))
    with in_use(sweep.uri, "sweep.uri"):
        begin(sweep.uri, "sweep.yaml", plan.given, resume)
        return _searched(plan, search, run, address, run_each)


def _searched(plan: SweepPlan, search: Search, run: Run, address: str | None, run_each: RunTrial) -> SweepResult:
    """Runs the trials; returns what `run_sweep` returns."""
    sweep = plan.sweep
    ledger = Ledger(sweep.uri, DRIVER_RETRY_SECONDS)
    workers = max(run.config.world_sizes)

    def report() -> SweepResult:
        result = summarise_sweep(list(ledger), plan.space, sweep, workers)
        write_sweep_results(result, sweep_html(result, _facts(run)))
        return result

    run_trials(
        Plan(
            ledger=ledger,
            search=search,
            configure=lambda number, values: _configuration(plan, _name(number, values), values),
            name=_name,
            limits=Limits(sweep.trials, sweep.hours, sweep.worker_hours, sweep.concurrent),
            early_stop=early_stop(sweep),
            against=sweep.against,
            changed=lambda: storage.until_answered(report, DRIVER_RETRY_SECONDS),
            run=run_each,
        ),
        run.config,
        address,
    )
    result = report()
    if result.best is None and not result.count("interrupted"):
        reason = next((trial.reason for trial in ledger if trial.status == "failed"), "no trial was begun")
        raise UserError(f"no trial of the sweep {storage.redact(sweep.uri)} came to its end; the first: {reason}")
    lost = [trial.reason for trial in ledger if trial.status == "interrupted"]
    if result.best is None:
        raise RetryLater(f"no trial of the sweep has come to its end yet ({lost[0]}): run it again with --resume")
    return result


def _name(number: int, values: Values) -> str:
    return f"trial-{number:04d}"


def _configuration(plan: SweepPlan, name: str, values: Values) -> ExperimentConfig:
    config = configured(plan.base, plan.space.settings(values))
    run_uri = storage.join(plan.sweep.uri, "trials", name)
    return with_own_threads(with_absolute_uris(with_settings(config, {"run.uri": run_uri})))


def _checked(plan: SweepPlan, example: ExperimentConfig) -> Run:
    """Checks what can be checked before a trial starts: the data of the first trial, and the models of all."""
    run = plan_run(example)
    config = run.config.train
    if plan.sweep.scheduler != "none" and config.validate_every >= run.total_steps:
        raise UserError(
            f"sweep.scheduler = {plan.sweep.scheduler} compares trials while they train, but they are validated only "
            f"at their end: set config.train.validate_every below {run.total_steps}, or sweep.scheduler: none"
        )
    if config.mlflow_uri is not None:
        require_mlflow(config.mlflow_uri)
    tried = (configured(plan.base, plan.space.settings(values)) for values in corners(plan.space))
    require_models(tried, run.manifest.class_table)
    return run


def _facts(run: Run) -> dict[str, str]:
    config = run.config
    images = run.manifest.counts[config.data.val_split or ""].images
    scored = images if config.data.val_limit is None else min(images, config.data.val_limit)
    return {
        "data": f"{run.manifest.identity}; scored on {config.data.val_split}, {scored} images, "
        f"{config.eval.weights} weights",
        "training": f"{run.total_steps} updates of {config.train.global_batch} images, crops of {config.augment.crop}",
    }
