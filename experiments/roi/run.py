"""Does what is around a region help to name it, and is a second look worth it? `python -m experiments roi`.

Regions of all 475 training images are named by models that have not seen the image: five folds by near-duplicate group,
505 updates of 16 regions at 128 px, one seed. `segmenter` is the mean of a segmenter's scores over each region;
`encoders/hybrid_last` has trained it, on the same folds. `table` compares all that are finished. `second_look` asks a
region classifier about the regions that the segmenter itself found and is least sure of.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import foodseg
from experiments.counts import counts_file
from experiments.fold_runs import FOLDS
from experiments.foodmix import prepared_foodmix, sets, vit_weights, weights
from experiments.foodmix_runs import ONE_THREAD
from experiments.item_queue import HERE, Bench, Item, ItemError
from experiments.roi.region_tables import compared_regions, confused_pairs
from experiments.roi.second_look import second_looks
from experiments.variants import STUDENT, VIT, Settings
from foodseg.config.data import DataConfig
from foodseg.data.shards import read_manifest
from foodseg.eval.regions import evaluate_region_rows
from foodseg.eval.scored_rows import held_out_fold
from foodseg.metrics.per_image import merge, read_image_counts
from foodseg.predict.region_classifier import load_region_classifier

FOLDER = "roi"
RECIPE = "experiments/roi/recipe.yaml"
SEGMENTER_RUNS = "folds-encoders-hybrid_last/runs"
SEGMENTER_SCORED = (STUDENT, "eval.flip=true", "eval.longest_side=240")
SEGMENTER_COUNTS = "lite0-and-vit-s-14-last-4-blocks-trained-student"
PLAIN, CONTEXT = "box, unmasked", "ROI and context"
VIT_SIDE = "augment.crop=112"  # 8 x 8 patches
VIT_ENCODER: Settings = (f"model.backbone={VIT}", "model.weights={vit}", VIT_SIDE, "optim.backbone_lr_factor=0.03")
DEIT: Settings = ("model.backbone=deit_tiny_distilled_patch16_224", "model.weights=none", "optim.backbone_lr_factor=1")
TEACHER = "distill.teacher={teacher}"
VARIANTS: dict[str, tuple[str, Settings]] = {
    "crop": (PLAIN, ("roi.views=crop",)),
    "roi": ("ROI", ("roi.views=roi",)),
    "roi_roi": ("ROI twice", ("roi.views=roi_roi",)),
    "context": (CONTEXT, ("roi.views=roi_context",)),
    "other_context": ("ROI and the context of another image", ("roi.views=roi_other_context",)),
    "logits": ("ROI and context, ImageNet logits", ("roi.views=roi_context", "roi.integrate=logits")),
    "vit_crop": ("box, unmasked, ViT-S/14", ("roi.views=crop", *VIT_ENCODER)),
    "vit_context": ("ROI and context, ViT-S/14", ("roi.views=roi_context", *VIT_ENCODER)),
    "deit": ("DeiT-Ti from random weights", ("roi.views=roi_context", *DEIT)),
    "deit_hard": ("DeiT-Ti, hard distillation", ("roi.views=roi_context", *DEIT, "roi.distill=hard", TEACHER)),
    "deit_soft": ("DeiT-Ti, soft distillation", ("roi.views=roi_context", *DEIT, "roi.distill=soft", TEACHER)),
    "sam": ("ROI and context, trained on masks of SAM", ("roi.views=roi_context", "roi.regions=sam")),
}
SEGMENTER = "the segmenter's mean"
PERTURBED = ("crop", "context")


def train(bench: Bench, item: str) -> dict[str, Any]:
    """Trains a variant on five folds, and names the regions of the fold that each left out."""
    name, settings = VARIANTS[item]
    parts = []
    for fold in range(FOLDS):
        run = _run(bench, item, fold)
        files = {"vit": vit_weights(bench), "teacher": _run(bench, "context", fold)}
        _train(bench, run, fold, [setting.format(**files) for setting in settings])
        parts.append(_named(bench, str(run), fold, _regions_file(bench, item, fold), "sam" if item == "sam" else None))
    return {"name": name, "settings": list(settings), "top1_of_folds": parts, **_kept(bench, item)}


def segmenter(bench: Bench, regions: str | None = None) -> dict[str, Any]:
    """Names the same regions by the mean scores of the segmenter."""
    item = "segmenter" if regions is None else f"segmenter-{regions}"
    parts = [
        _named(
            bench, str(_segmenter_run(bench, fold)), fold, _regions_file(bench, item, fold), regions, SEGMENTER_SCORED
        )
        for fold in range(FOLDS)
    ]
    return {"name": SEGMENTER, "top1_of_folds": parts, **_kept(bench, item)}


def perturbed(bench: Bench) -> dict[str, Any]:
    """Names perturbed regions: patches permuted, translocated."""
    found: dict[str, Any] = {}
    for item in PERTURBED:
        for how in ("permute", "translocate"):
            kept = f"{item}-{how}"
            for fold in range(FOLDS):
                _named(bench, str(_run(bench, item, fold)), fold, _regions_file(bench, kept, fold), None, (), how)
            found[f"{VARIANTS[item][0]}, {how}"] = _kept(bench, kept)
    return found


def table(bench: Bench) -> dict[str, Any]:
    """Compares what is finished with the box and with the segmenter, by macro F1 with intervals."""
    names = {item: name for item, (name, _) in VARIANTS.items() if item != "sam"} | {"segmenter": SEGMENTER}
    done = {name: pq.read_table(_counts(item)) for item, name in names.items() if _counts(item).exists()}
    if PLAIN not in done:
        raise ItemError("roi/crop is not finished")
    manifest = read_manifest(str(prepared_foodmix(bench)))
    images, _ = read_image_counts(str(counts_file("encoders", SEGMENTER_COUNTS)))
    pairs = confused_pairs(merge(images, len(manifest.classes)), manifest.classes)
    return compared_regions(done, [PLAIN, SEGMENTER, "ROI twice"], manifest.classes, pairs)


def second_look(bench: Bench) -> dict[str, Any]:
    """Accuracy and mIoU where 0, 5, 10 and 20 % of the regions are looked at again, and of views of equal seconds."""
    torch.set_num_threads(1)
    folds = []
    for fold in range(FOLDS):
        model = foodseg.load(str(_segmenter_run(bench, fold)), device="cpu", overrides=list(SEGMENTER_SCORED))
        classifier = load_region_classifier(str(_run(bench, "context", fold)), device="cpu")
        folds.append((held_out_fold(_data(bench, fold)), model, classifier))
    return second_looks(folds)


def _train(bench: Bench, run: Path, fold: int, settings: Sequence[str]) -> None:
    if (run / "finished").exists():
        return
    own = (
        f"data.uri={prepared_foodmix(bench)}", f"data.held_out={fold}", f"train.seed={fold}", f"run.uri={run}",
        *([] if any("model.weights" in setting for setting in settings) else [f"model.weights={weights(bench)}"]),
    )  # fmt: skip
    resume = ["--resume"] if (run / "config.yaml").exists() else []
    done = bench.foodseg("train", "--config", RECIPE, *sets(*own, *settings), *resume, env=ONE_THREAD)
    if done["stopped"]:
        raise ItemError(f"{run.name} was stopped before its end")
    (run / "finished").touch()


def _named(
    bench: Bench,
    model: str,
    fold: int,
    where: Path,
    regions: str | None,
    overrides: Sequence[str] = (),
    perturb: str | None = None,
) -> float:
    """Names the regions of the fold; returns the share that is right. What is there is reused."""
    if not where.exists():
        found = evaluate_region_rows(
            model, held_out_fold(_data(bench, fold)), regions=regions, overrides=overrides, perturb=perturb  # type: ignore[arg-type]
        )  # fmt: skip
        where.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(found.rows, where)
    rows = pq.read_table(where)
    return float(np.mean(rows.column("label").to_numpy() == rows.column("predicted").to_numpy()))


def _kept(bench: Bench, item: str) -> dict[str, Any]:
    """Keeps the named regions of all folds beside the results; returns how many, and how many are right."""
    rows = [pq.read_table(_regions_file(bench, item, fold)) for fold in range(FOLDS)]
    whole = pa.concat_tables(rows)
    _counts(item).parent.mkdir(exist_ok=True)
    pq.write_table(whole, _counts(item), compression="zstd")
    right = whole.column("label").to_numpy() == whole.column("predicted").to_numpy()
    return {"regions": whole.num_rows, "top1": float(right.mean())}


def _data(bench: Bench, fold: int) -> DataConfig:
    uri = str(prepared_foodmix(bench))
    return DataConfig(uri=uri, train_splits=("train", "val"), val_split=None, folds=FOLDS, held_out=fold)


def _run(bench: Bench, item: str, fold: int) -> Path:
    return bench.work / f"roi-{item}" / f"fold{fold}"


def _regions_file(bench: Bench, item: str, fold: int) -> Path:
    return bench.work / f"roi-{item}" / f"regions-{fold}.parquet"


def _counts(item: str) -> Path:
    return HERE / FOLDER / "counts" / f"{item}.parquet"


def _segmenter_run(bench: Bench, fold: int) -> Path:
    (run,) = (bench.work / SEGMENTER_RUNS).glob(f"*-seed0-fold{fold}")
    if not (run / "last.json").exists():
        raise ItemError(f"{run} is not trained: run encoders/hybrid_last first")
    return run


ITEMS: list[Item] = [
    ("segmenter", segmenter),
    *((item, partial(train, item=item)) for item in VARIANTS),
    ("segmenter_sam", partial(segmenter, regions="sam")),
    ("perturbed", perturbed),
    ("table", table),
    ("second_look", second_look),
]
