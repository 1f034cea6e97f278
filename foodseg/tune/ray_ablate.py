"""`foodseg ablate`: every variant with every seed, each run scored once, and the differences between variants.

run_ablation(read_ablation("jobs/configs/ablate.yaml", [], ["soy_classes.txt"]))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from foodseg import storage
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig
from foodseg.config.explain import validated
from foodseg.config.load import with_settings
from foodseg.config.marks import with_resolved_uris
from foodseg.config.sweep import AblationFile
from foodseg.data.shards import read_manifest
from foodseg.errors import RetryLater, UserError
from foodseg.eval.ray_evaluate import evaluate
from foodseg.eval.scoring import read_subsets
from foodseg.metrics.per_image import ImageCounts, read_image_counts
from foodseg.storage.writer_lock import in_use
from foodseg.train.run import plan_run, require_models, with_absolute_uris
from foodseg.tune.ablation import AblationResult, AblationTable, ablation_table, page_markdown
from foodseg.tune.ray_trial_queue import Limits, Plan
from foodseg.tune.ray_tuner import run_trials, with_own_threads
from foodseg.tune.search import ListedSearch
from foodseg.tune.space import Values, configured
from foodseg.tune.sweep_files import AblationPlan, begin, slug
from foodseg.tune.trials import DRIVER_RETRY_SECONDS, Ledger


@dataclass(frozen=True)
class Target:
    """What runs are scored on: a split of a data set; scores are in the ablation's folder `uri`."""

    uri: str
    data: str
    split: str
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
    trained = [name for name, variant in plan.variants.items() if variant.predictions is None]
    # the outer loop is over seeds: an interrupted ablation has some seeds of every variant
    listed: list[Values] = [{"variant": variant, "seed": seed} for seed in ablation.seeds for variant in trained]
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
    data = ablation.data or run.config.data.uri
    if not data:
        raise UserError("ablation.data must name the data set that is scored, as config.data.uris has several")
    manifest = read_manifest(data)
    manifest.split_shards([ablation.split])  # refuses a split that does not exist
    classes = manifest.class_table
    chosen = read_subsets(ablation.subsets, classes)
    label_maps: list[tuple[Values, str]] = [
        ({"variant": name, "seed": seed}, variant.predictions.replace("{seed}", str(seed)))
        for name, variant in plan.variants.items()
        for seed in ablation.seeds
        if variant.predictions is not None
    ]
    require_models(configs, run.manifest.class_table)
    for values, folder in label_maps:
        if not storage.list_names(folder):
            raise UserError(
                f"variants.{values['variant']}.predictions: {storage.redact(folder)} is empty or not there; it must "
                f"hold the label maps of seed {values['seed']}"
            )
    with in_use(ablation.uri, "ablation.uri"):
        begin(ablation.uri, "ablation.yaml", plan.given, resume)
        ledger = Ledger(ablation.uri, DRIVER_RETRY_SECONDS)
        begun = [trial.values for trial in ledger]  # they keep their numbers, also where seeds were added
        listed = [*begun, *(values for values in listed if values not in begun)]
        target = Target(ablation.uri, data, ablation.split, test_log)
        if listed:
            run_trials(
                Plan(
                    ledger=ledger,
                    search=ListedSearch(listed),
                    configure=lambda number, values: _configuration(plan, values),
                    name=lambda number, values: _run_name(values),
                    limits=Limits(concurrent=ablation.concurrent),
                    final=("finished",),
                    afterwards=partial(_score, target=target, kind=_kinds(plan)[0]),
                ),
                example,
                address,
            )
        for values, folder in label_maps:
            _score_once(target, _run_name(values), predictions=folder)
        lost = [trial.reason for trial in ledger if trial.status == "interrupted"]
        try:
            table = _table(plan, ledger, classes, chosen)
        except UserError:
            if not lost:
                raise
        if lost:  # the files of the table hold the others
            raise RetryLater(
                f"{len(lost)} of {len(listed)} runs were interrupted ({lost[0]}): run it again with --resume"
            )
        return table


def _kinds(plan: AblationPlan) -> tuple[str, ...]:
    return ("student", "ema") if plan.ablation.weights == "both" else (plan.ablation.weights,)


def _run_name(values: Values) -> str:
    return f"{slug(str(values['variant']))}-seed{values['seed']}"


def _configuration(plan: AblationPlan, values: Values) -> ExperimentConfig:
    settings = plan.variants[str(values["variant"])].settings
    config = configured(plan.base, {**settings, "train.seed": values["seed"]})
    run_uri = storage.join(plan.ablation.uri, "runs", _run_name(values))
    return with_own_threads(with_absolute_uris(with_settings(config, {"run.uri": run_uri})))


def _scores_uri(uri: str, run: str) -> str:
    return storage.join(uri, "scores", run)


def _score(name: str, config: ExperimentConfig, *, target: Target, kind: str) -> None:
    """Scores the last checkpoint of a trained run, both kinds of weights in one pass; called by its trial."""
    # the process of a trial with workers has no GPU of its own; that of one without holds the trial's
    workers = 1 if config.scaling.use_gpu and config.scaling.num_workers else 0
    last = newest_checkpoint(config.run.uri)
    _score_once(target, name, checkpoint=last, overrides=[f"eval.weights={kind}"], workers=workers)


def _score_once(
    target: Target,
    run: str,
    *,
    checkpoint: str | None = None,
    predictions: str | None = None,
    overrides: Sequence[str] = (),
    workers: int = 0,
) -> None:
    """Scores a run, or a folder of label maps; an existing score is kept, so that `test` is read once."""
    out = _scores_uri(target.uri, run)
    if storage.exists(storage.join(out, "metrics.json")):
        return
    evaluate(
        checkpoint,
        data=target.data,
        split=target.split,
        out=out,
        predictions=predictions,
        overrides=overrides,
        workers=workers,
        device="gpu" if workers else "auto",
        test_log=target.test_log,
    )


def _table(
    plan: AblationPlan, ledger: Ledger, classes: ClassTable, subsets: Mapping[str, Sequence[int]]
) -> AblationResult:
    ablation = plan.ablation
    failed = {trial.name: trial.reason for trial in ledger if trial.status == "failed"}
    tables: dict[str, AblationTable] = {}
    for kind in _kinds(plan):
        runs: dict[str, dict[int, list[ImageCounts]]] = {}
        for variant, spec in plan.variants.items():
            for seed in ablation.seeds:
                name = _run_name({"variant": variant, "seed": seed})
                first = spec.predictions or kind == _kinds(plan)[0]
                counts = "images.parquet" if first else f"images-{kind}.parquet"
                where = storage.join(_scores_uri(ablation.uri, name), counts)
                if storage.exists(where):
                    runs.setdefault(variant, {})[seed] = read_image_counts(where)[0]
        if not any(plan.variants[variant].predictions is None for variant in runs):
            continue
        tables[kind] = ablation_table(runs, plan.contrasts, len(classes), subsets=subsets, resamples=ablation.resamples)
    if not tables:
        reason = next(iter(failed.values()), "no run was scored")
        raise UserError(f"no run of the ablation {storage.redact(ablation.uri)} was scored; the first: {reason}")
    result = AblationResult(storage.redact(ablation.uri), ablation.split, failed, tables)
    storage.write_json(storage.join(ablation.uri, "table.json"), result.to_json())
    storage.write_text(storage.join(ablation.uri, "table.md"), page_markdown(result))
    return result
