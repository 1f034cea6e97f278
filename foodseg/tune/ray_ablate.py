"""`foodseg ablate`: every variant with every seed, each run scored once, and the differences between variants.

run_ablation(read_ablation("jobs/configs/ablate.yaml", [], ["soy_classes.txt"]))
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from foodseg import storage
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig
from foodseg.config.data import DataConfig
from foodseg.config.explain import validated
from foodseg.config.load import with_settings
from foodseg.config.marks import with_resolved_uris
from foodseg.config.sweep import AblationFile
from foodseg.data.shards import read_manifest
from foodseg.errors import FoodsegError, RetryLater, Unavailable, UserError
from foodseg.eval.evaluate import evaluate_rows
from foodseg.eval.ray_score import score_on_ray
from foodseg.eval.scored_rows import held_out_fold, split_rows
from foodseg.eval.scoring import read_subsets
from foodseg.eval.scoring_job import score_here
from foodseg.metrics.per_image import ImageCounts, read_image_counts
from foodseg.storage.writer_lock import in_use
from foodseg.train.run import plan_run, require_models, with_absolute_uris
from foodseg.tune.ablation import AblationResult, AblationTable, ablation_table, page_markdown
from foodseg.tune.ablation_runs import Score, name_of, planned_scores, run_name, run_settings, trainings
from foodseg.tune.fold_lists import read_folds, write_folds
from foodseg.tune.ray_trial_queue import Limits, Plan
from foodseg.tune.ray_tuner import run_trials, with_own_threads
from foodseg.tune.run_cost import RunCost, median_cost, run_cost
from foodseg.tune.search import ListedSearch
from foodseg.tune.space import Values, configured
from foodseg.tune.sweep_files import AblationPlan, begin
from foodseg.tune.trials import DRIVER_RETRY_SECONDS, Ledger, begun_trials

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """What runs are scored on: a split of a data set, or with folds (no split) what each run was trained without.

    uri: the ablation's folder, which gets the scores. kind: the weights that are scored first.
    """

    uri: str
    data: str
    split: str | None
    kind: str
    test_log: str | None


def run_ablation(
    plan: AblationPlan, *, resume: bool = False, address: str | None = None, test_log: str | None = None
) -> AblationResult:
    """Trains, scores and compares the variants; with `resume` it resumes.

    Args:
        plan: of `read_ablation`.
        resume: resume the ablation in `ablation.uri`; runs that are scored are kept.
        address: Ray cluster to join; None starts one here.
        test_log: the test-set access log; None = in the folder of each run's scores.

    Returns:
        What is also written to table.json and table.md.

    Raises:
        UserError: an invalid variant or split; every run failed.
        RetryLater: runs were interrupted, since storage or cluster were lost.
        KeyboardInterrupt: Ctrl-C.
    """
    located = validated({"ablation": with_resolved_uris(plan.ablation)}, AblationFile).ablation
    plan = replace(plan, ablation=located)
    ablation = plan.ablation
    scores = planned_scores(plan, begun_trials(ablation.uri))
    # the outer loop is over seeds: an interrupted ablation has some seeds of every variant
    listed = trainings(scores)
    configs = [_configuration(plan, values) for values in listed]
    without = [
        values["variant"] for values, config in zip(listed, configs, strict=True) if config.train.ema_horizon == 0
    ]
    if ablation.weights == "ema" and without:
        raise UserError(
            f"ablation.weights = ema, but the variant {without[0]!r} keeps no averaged weights (train.ema_horizon is "
            "0): set ablation.weights to both or student"
        )
    example = configs[0] if configs else plan.base
    run = plan_run(example)
    classes, target, folds = run.manifest.class_table, _target(plan, run.config.data, test_log), None
    if ablation.folds is not None:
        folds = read_folds(run.config.data, ablation.folds)
    else:
        manifest = read_manifest(target.data)
        manifest.split_shards([ablation.split])  # refuses a split that does not exist
        classes = manifest.class_table
    chosen = read_subsets(ablation.subsets, classes)
    require_models(configs, run.manifest.class_table)
    for score in scores:
        if score.predictions is not None and not storage.list_names(score.predictions):
            of_fold = "" if score.fold is None else f" and fold {score.fold}"
            raise UserError(
                f"variants.{score.variant}.predictions: {storage.redact(score.predictions)} is empty or not there; it "
                f"must hold the label maps of seed {score.seed}{of_fold}"
            )
    with in_use(ablation.uri, "ablation.uri"):
        begin(ablation.uri, "ablation.yaml", plan.given, resume)
        if folds is not None:
            write_folds(ablation.uri, folds)
        ledger = Ledger(ablation.uri, DRIVER_RETRY_SECONDS)
        begun = [trial.values for trial in ledger]  # they keep their numbers, also where seeds were added
        listed = [*begun, *(values for values in listed if values not in begun)]
        if listed:
            run_trials(
                Plan(
                    ledger=ledger,
                    search=ListedSearch(listed),
                    configure=lambda number, values: _configuration(plan, values),
                    name=lambda number, values: name_of(values),
                    limits=Limits(concurrent=ablation.concurrent),
                    final=("finished",),
                    afterwards=partial(_score_run, target=target, scores=scores),
                ),
                example,
                address,
            )
        not_scored = _score_rest(plan, target, scores, ledger, run.config, address)
        lost = [trial.reason for trial in ledger if trial.status == "interrupted"]
        try:
            table = _table(plan, ledger, scores, not_scored, classes, chosen)
        except UserError:
            if not lost:
                raise
        if lost:  # the files of the table hold the others
            raise RetryLater(
                f"{len(lost)} of {len(listed)} runs were interrupted ({lost[0]}): run it again with --resume"
            )
        return table


def _target(plan: AblationPlan, data: DataConfig, test_log: str | None) -> Target:
    ablation, kind = plan.ablation, _kinds(plan)[0]
    if ablation.folds is not None:
        return Target(ablation.uri, "", None, kind, test_log)
    uri = ablation.data or data.uri
    if not uri:
        raise UserError("ablation.data must name the data set that is scored, as config.data.uris has several")
    return Target(ablation.uri, uri, ablation.split, kind, test_log)


def _kinds(plan: AblationPlan) -> tuple[str, ...]:
    if not _trains(plan):
        return ("student",)
    return ("student", "ema") if plan.ablation.weights == "both" else (plan.ablation.weights,)


def _trains(plan: AblationPlan) -> bool:
    """Whether any variant is trained: label maps of other programs can be compared without."""
    return any(variant.predictions is None for variant in plan.variants.values())


def _run_uri(plan: AblationPlan, run: str) -> str:
    return storage.join(plan.ablation.uri, "runs", run)


def _configuration(plan: AblationPlan, values: Values) -> ExperimentConfig:
    config = configured(plan.base, run_settings(plan, values))
    run_uri = _run_uri(plan, name_of(values))
    return with_own_threads(with_absolute_uris(with_settings(config, {"run.uri": run_uri})))


def _scores_uri(uri: str, score: Score) -> str:
    return storage.join(uri, "scores", score.name)


def _is_scored(uri: str, score: Score) -> bool:
    return storage.exists(storage.join(_scores_uri(uri, score), "metrics.json"))


def _score_run(run: str, config: ExperimentConfig, *, target: Target, scores: Sequence[Score]) -> None:
    """Scores a trained run for every variant that shares it; called by its trial.

    Raises:
        UserError: a variant could not be scored; the others were.
    """
    # the process of a trial with workers has no GPU of its own; that of one without holds the trial's
    workers = 1 if config.scaling.use_gpu and config.scaling.num_workers else 0
    failed: UserError | None = None
    for score in scores:
        if score.run == run:
            try:
                _score_once(target, score, config, workers)
            except (RetryLater, Unavailable):
                raise
            except FoodsegError as error:
                failed = failed or UserError(f"the variant {score.variant!r} could not be scored: {error}")
    if failed is not None:
        raise failed


def _score_rest(
    plan: AblationPlan,
    target: Target,
    scores: Sequence[Score],
    ledger: Ledger,
    shared: ExperimentConfig,
    address: str | None,
) -> dict[str, str]:
    """Scores label maps, and finished runs for variants that were added since; returns what failed, with the reason."""
    finished = {trial.name: trial for trial in ledger if trial.status == "finished"}
    failed: dict[str, str] = {}
    for score in scores:
        if score.predictions is not None:
            own = with_settings(shared, run_settings(plan, _values(score)))
            _score_once(target, score, own, workers=0)
        elif score.run in finished:
            config = finished[score.run].parsed()
            try:
                _score_once(target, score, config, workers=1 if config.scaling.use_gpu else 0, address=address)
            except (RetryLater, Unavailable):
                raise
            except FoodsegError as error:
                failed[score.name] = str(error)
    return failed


def _values(score: Score) -> Values:
    return {"seed": score.seed} if score.fold is None else {"seed": score.seed, "fold": score.fold}


def _score_once(
    target: Target, score: Score, config: ExperimentConfig, workers: int, address: str | None = None
) -> None:
    """Scores a run by its last checkpoint, both kinds of weights in one pass, or a folder of label maps.

    An existing score is kept, so that `test` is read once.
    """
    if _is_scored(target.uri, score):
        return
    checkpoint = None if score.run is None else newest_checkpoint(config.run.uri)
    if score.run is not None and checkpoint is None:
        raise UserError(
            f"{storage.redact(config.run.uri)} holds no checkpoint any more, so it cannot be scored: restore "
            "the run, or give another folder to start again"
        )
    rows = held_out_fold(config.data) if target.split is None else split_rows(target.data, target.split)
    evaluate_rows(
        checkpoint,
        rows,
        out=_scores_uri(target.uri, score),
        predictions=score.predictions,
        overrides=() if score.run is None else (*score.overrides, f"eval.weights={target.kind}"),
        device="gpu" if workers else "auto",
        test_log=target.test_log,
        score=partial(score_on_ray, workers=workers, address=address) if workers else score_here,
    )


def _table(
    plan: AblationPlan,
    ledger: Ledger,
    scores: Sequence[Score],
    not_scored: Mapping[str, str],
    classes: ClassTable,
    subsets: Mapping[str, Sequence[int]],
) -> AblationResult:
    ablation = plan.ablation
    lacking = [score for score in scores if not _is_scored(ablation.uri, score)]
    failed = _failed(plan, ledger, lacking, not_scored)
    incomplete = {(score.variant, score.seed) for score in lacking}
    whole = [score for score in scores if (score.variant, score.seed) not in incomplete]
    tables: dict[str, AblationTable] = {}
    costs = _costs(plan, ledger, whole)
    for kind in _kinds(plan):
        runs: dict[str, dict[int, list[ImageCounts]]] = {}
        for score in whole:
            first = score.predictions or kind == _kinds(plan)[0]
            counts = "images.parquet" if first else f"images-{kind}.parquet"
            where = storage.join(_scores_uri(ablation.uri, score), counts)
            if storage.exists(where):  # there may be no averaged weights
                of_seed = runs.setdefault(score.variant, {}).setdefault(score.seed, [])
                of_seed += read_image_counts(where)[0]  # of a fold: each image is in one
        if not any(plan.variants[variant].predictions is None for variant in runs) and _trains(plan):
            continue  # label maps alone say nothing where no training was scored
        tables[kind] = ablation_table(
            runs, plan.contrasts, len(classes),
            subsets=subsets, resamples=ablation.resamples, folds=ablation.folds, costs=costs,
        )  # fmt: skip
    if not tables:
        reason = next(iter(failed.values()), "no run was scored")
        raise UserError(f"no run of the ablation {storage.redact(ablation.uri)} was scored; the first: {reason}")
    result = AblationResult(storage.redact(ablation.uri), _scored_part(plan), failed, tables)
    storage.write_json(storage.join(ablation.uri, "table.json"), result.to_json())
    storage.write_text(storage.join(ablation.uri, "table.md"), page_markdown(result))
    return result


def _scored_part(plan: AblationPlan) -> str:
    if plan.ablation.folds is None:
        return plan.ablation.split
    return f"{plan.ablation.folds} folds of {' and '.join(plan.base.data.train_splits)}"


def _failed(
    plan: AblationPlan, ledger: Ledger, lacking: Sequence[Score], not_scored: Mapping[str, str]
) -> dict[str, str | None]:
    """Returns by run, score or repetition why it failed, or why it is not in the table."""
    failed = {trial.name: trial.reason for trial in ledger if trial.status == "failed"}
    reasons = dict(failed)
    reasons |= not_scored
    folds: dict[str, list[str]] = {}
    for score in lacking:
        if score.trained != score.variant and score.run in failed and score.name not in reasons:
            reasons[score.name] = f"the training that it shares, {score.run}, failed: {failed[score.run]}"
        if score.fold is not None:
            folds.setdefault(run_name(score.variant, score.seed, None), []).append(str(score.fold))
    for name, missing in folds.items():
        few = f"fold {missing[0]} is" if len(missing) == 1 else f"folds {', '.join(missing)} are"
        reasons[name] = f"left out of the table, as {few} not scored"
    return reasons


def _costs(plan: AblationPlan, ledger: Ledger, scores: Sequence[Score]) -> dict[str, RunCost]:
    """Returns by variant the median cost of its runs, those whose logs are there."""
    batches = {trial.name: trial.parsed().train.global_batch for trial in ledger if trial.config}
    of_run = {run: run_cost(_run_uri(plan, run), batches[run]) for run in {s.run for s in scores} if run in batches}
    medians = {
        variant: median_cost(of_run.get(score.run or "") for score in scores if score.variant == variant)
        for variant in plan.variants
    }
    return {variant: cost for variant, cost in medians.items() if cost is not None}
