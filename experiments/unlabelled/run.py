"""What are images without masks worth, where a quarter has masks? `python -m experiments unlabelled`.

The masks of three quarters of foodmix's training images are hidden (whole groups of near-duplicates, drawn once); each
item is a training on five folds at 128 px, scored on all images that its fold holds out, whose masks it never saw.
"""

import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from experiments.counts import compared, keep
from experiments.fold_runs import FOLDS
from experiments.foodmix import foodmix, prepared_foodmix
from experiments.foodmix_runs import Job, train_side_by_side
from experiments.item_queue import HERE, Bench, Item, read_results
from experiments.variants import BF16, RARE, STUDENT, Settings
from foodseg.config.data import DataConfig
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.eval.evaluate import evaluate_rows
from foodseg.eval.scored_rows import held_out_fold
from foodseg.tune.fold_lists import read_folds
from foodseg.tune.run_cost import median_cost, run_cost

FOLDER = "unlabelled"
SIDE, STEPS, KEPT = 128, 505, 4  # every fourth group keeps its masks
SMALL: Settings = (f"augment.longest_side={SIDE}", f"augment.crop={SIDE}", f"eval.longest_side={SIDE * 5 // 4}")
TRAINED: Settings = ("train.ema_horizon=0.1", BF16, *RARE, "optim.backbone_lr_factor=0.3", "eval.flip=true", *SMALL)
HALF: Settings = ("loss.cross_entropy=0.5", "loss.pseudo_labels=0.5", "data.unlabelled_share=0.5")
LABELLED = "labelled alone"
VARIANTS: dict[str, tuple[str, Settings, int]] = {
    "labelled": (LABELLED, ("data.unlabelled_share=0",), STEPS),
    "longer": ("labelled alone, 1.5 times the updates", ("data.unlabelled_share=0",), STEPS * 3 // 2),
    "pseudo": ("R3 confident labels of the averaged weights", HALF, STEPS),
}


def variant(bench: Bench, item: str) -> dict[str, Any]:
    """Trains and scores one variant without each fold in turn, and keeps its counts."""
    name, settings, steps = VARIANTS[item]
    jobs = [_job(bench, item, settings, steps, fold) for fold in range(FOLDS)]
    quarter = _whole(bench, 0).model_copy(update={"uri": str(_quarter(bench))})
    assert read_folds(quarter, FOLDS) == read_folds(_whole(bench, 0), FOLDS), "both have the same folds"
    runs = train_side_by_side(bench, jobs)
    scored = [bench.work / f"scores-unlabelled-{item}-{fold}" for fold in range(FOLDS)]
    for fold, (run, out) in enumerate(zip(runs, scored, strict=True)):
        if not (out / "metrics.json").exists():
            evaluate_rows(str(run), held_out_fold(_whole(bench, fold)), out=str(out), overrides=[STUDENT])
    keep(FOLDER, item, [out / "images.parquet" for out in scored])
    cost = median_cost(run_cost(str(run), 8) for run in runs)
    assert cost is not None
    return {"variant": name, "settings": list(settings), "updates": steps, "seconds": cost.seconds_per_update * steps}


def table(bench: Bench) -> dict[str, Any]:
    """Compares those that are finished with the labelled images alone."""
    done = [item for item in VARIANTS if item in read_results(HERE / FOLDER / "results.json")]
    names = {VARIANTS[item][0]: {0: item} for item in done}
    contrasts = {name: (name, LABELLED) for name in names if name != LABELLED}
    return compared(bench, FOLDER, names, contrasts, folds=FOLDS).to_json()


def _job(bench: Bench, item: str, settings: Settings, steps: int, fold: int) -> Job:
    where = (f"data.uri={_quarter(bench)}", f"data.folds={FOLDS}", f"data.held_out={fold}", f"train.seed={fold}")
    own = (f"train.steps={steps}", "scaling.num_workers=0", *TRAINED, *settings, *where)
    return f"unlabelled-{item}-{fold}", own, steps


def _whole(bench: Bench, fold: int) -> DataConfig:
    data = str(prepared_foodmix(bench))
    return DataConfig(uri=data, train_splits=("train", "val"), val_split=None, folds=FOLDS, held_out=fold)


def _quarter(bench: Bench) -> Path:
    """The same images, prepared without the masks of three quarters of the training images."""
    data, folder = bench.work / "foodmix-quarter", bench.work / "foodmix-quarter-files"
    if (data / "dataset.json").exists():
        return data
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(foodmix(bench), folder)
    whole = str(prepared_foodmix(bench))
    rows = RowReader(whole, read_manifest(whole), ["train", "val"]).columns(["image_id", "group_id"]).to_pylist()
    groups = sorted({row["group_id"] for row in rows})
    random.Random(0).shuffle(groups)
    kept = set(groups[::KEPT])
    for row in rows:
        if row["group_id"] not in kept:
            (folder / "masks" / f"{row['image_id']}.png").unlink()
    bench.foodseg("data", "prepare", folder, data)
    return data


ITEMS: list[Item] = [
    *((item, partial(variant, item=item)) for item in VARIANTS),
    ("table", table),
]
