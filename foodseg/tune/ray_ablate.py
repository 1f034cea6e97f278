"""`foodseg ablate`: every arm with every seed, each run scored once, and what the differences between arms tell.

run_ablation(read_ablation("jobs/configs/ablate.yaml", [], ["soy_classes.txt"]))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig
from foodseg.config.load import with_overrides
from foodseg.data.shards import read_manifest
from foodseg.errors import RetryLater, UserError
from foodseg.eval.evaluate import read_subsets
from foodseg.eval.pictures import PictureCounts, read_pictures
from foodseg.eval.ray_evaluate import evaluate
from foodseg.train.run import plan_run, with_absolute_uris
from foodseg.tune.files import AblationPlan, begin, slug
from foodseg.tune.ledger import Ledger
from foodseg.tune.ray_tuner import Limits, Plan, run_trials, with_own_threads
from foodseg.tune.search import ListedSearch
from foodseg.tune.space import Values, configured
from foodseg.tune.table import TITLES, ablation_table, page_markdown

MAPS = "maps"  # where the scores of label maps of others lie, beside those of the two kinds of weights


@dataclass(frozen=True)
class Target:
    """What runs are scored on: a split of a data set; scores lie in the ablation's folder `uri`."""

    uri: str
    data: str
    split: str
    test_log: str | None


def run_ablation(
    plan: AblationPlan, *, resume: bool = False, address: str | None = None, test_log: str | None = None
) -> dict[str, Any]:
    """Trains, scores and compares the arms; goes on with what is there.

    Args:
        plan: of `read_ablation`.
        resume: go on with the ablation in `ablation.uri`; runs that are scored are kept.
        address: Ray cluster to join; None starts one here.
        test_log: where openings of `test` are noted; None = beside each run's scores.

    Returns:
        {"ablation", "split", "student": table, "ema": table, "failed": {run: reason}} with the tables of
        `ablation_table`; also written to table.json, and table.md for people.

    Raises:
        UserError: an arm or a split that cannot work; every run failed.
        RetryLater: runs were interrupted, since storage or cluster were lost.
        KeyboardInterrupt: Ctrl-C.
    """
    located = plan.ablation.model_copy(update={"uri": storage.absolute(plan.ablation.uri)})
    plan = replace(plan, ablation=located)
    ablation = plan.ablation
    trained = [name for name, arm in plan.arms.items() if arm.predictions is None]
    # seeds outside: an ablation that is interrupted has some seeds of every arm
    listed: list[Values] = [{"arm": arm, "seed": seed} for seed in ablation.seeds for arm in trained]
    example = _configuration(plan, {"arm": (trained or list(plan.arms))[0], "seed": ablation.seeds[0]})
    run = plan_run(example)
    data = ablation.data or run.config.data.uri
    if not data:
        raise UserError("ablation.data must name the data set that is scored, as config.data.uris has several")
    manifest = read_manifest(data)
    manifest.split_shards([ablation.split])  # refuses a split that there is not
    classes = manifest.class_table
    chosen = read_subsets(ablation.subsets, classes)
    begin(ablation.uri, "ablation.yaml", plan.given, resume)
    ledger = Ledger(ablation.uri)
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
                afterwards=partial(_score, target=target, kinds=_kinds(plan)),
            ),
            example,
            address,
        )
    for name, arm in plan.arms.items():
        for seed in ablation.seeds if arm.predictions else ():
            folder = (arm.predictions or "").replace("{seed}", str(seed))
            _score_once(target, _run_name({"arm": name, "seed": seed}), MAPS, predictions=folder)
    lost = [trial.reason for trial in ledger if trial.status == "interrupted"]
    if lost:
        raise RetryLater(f"{len(lost)} of {len(listed)} runs were interrupted ({lost[0]}): go on with --resume")
    return _table(plan, ledger, classes, chosen)


def _kinds(plan: AblationPlan) -> tuple[str, ...]:
    return ("student", "ema") if plan.ablation.weights == "both" else (plan.ablation.weights,)


def _run_name(values: Values) -> str:
    return f"{slug(values['arm'])}-seed{values['seed']}"


def _configuration(plan: AblationPlan, values: Values) -> ExperimentConfig:
    config = configured(plan.base, {**plan.arms[values["arm"]].settings, "train.seed": values["seed"]})
    run_uri = storage.join(plan.ablation.uri, "runs", _run_name(values))
    return with_own_threads(with_absolute_uris(with_overrides(config, [f"run.uri={run_uri}"])))


def _scores_uri(uri: str, run: str, kind: str) -> str:
    return storage.join(uri, "scores", run, kind)


def _score(config: ExperimentConfig, target: Target, kinds: Sequence[str]) -> None:
    """Scores a trained run; called by its trial."""
    run = config.run.uri.rstrip("/").rpartition("/")[2]
    for kind in kinds:
        if kind == "student" or config.train.ema_horizon > 0:
            _score_once(target, run, kind, checkpoint=config.run.uri, overrides=[f"eval.weights={kind}"])


def _score_once(
    target: Target,
    run: str,
    kind: str,
    *,
    checkpoint: str | None = None,
    predictions: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Scores a run, or label maps of others; a score that is there already is kept: `test` is opened once."""
    out = _scores_uri(target.uri, run, kind)
    if storage.exists(storage.join(out, "metrics.json")):
        return
    evaluate(
        checkpoint,
        data=target.data,
        split=target.split,
        out=out,
        predictions=predictions,
        overrides=overrides,
        workers=0,
        test_log=target.test_log or storage.join(out, "test_openings.jsonl"),
    )


def _table(
    plan: AblationPlan, ledger: Ledger, classes: ClassTable, subsets: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    ablation = plan.ablation
    failed = {trial.name: trial.reason for trial in ledger if trial.status == "failed"}
    result: dict[str, Any] = {"ablation": storage.redact(ablation.uri), "split": ablation.split, "failed": failed}
    for kind in _kinds(plan):
        runs: dict[str, dict[int, list[PictureCounts]]] = {}
        for arm, given in plan.arms.items():
            for seed in ablation.seeds:
                name = _run_name({"arm": arm, "seed": seed})
                where = _scores_uri(ablation.uri, name, MAPS if given.predictions else kind)
                where = storage.join(where, "pictures.parquet")
                if storage.exists(where):
                    runs.setdefault(arm, {})[seed] = read_pictures(where)[0]
        if not any(plan.arms[arm].predictions is None for arm in runs):
            continue
        result[kind] = ablation_table(runs, plan.contrasts, len(classes), subsets=subsets, resamples=ablation.resamples)
    if not result.keys() & TITLES.keys():
        reason = next(iter(failed.values()), "none was scored")
        raise UserError(f"no run of the ablation {storage.redact(ablation.uri)} was scored; the first: {reason}")
    storage.write_json(storage.join(ablation.uri, "table.json"), result)
    storage.write_text(storage.join(ablation.uri, "table.md"), page_markdown(result))
    return result
