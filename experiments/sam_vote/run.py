"""Do masks of Segment Anything make label maps better? `python -m experiments sam_vote`.

`masks` finds them for all training images, once; `vote` redraws out-of-fold label maps of the hybrid encoder along
them; `seconds` is what it takes without kept masks, on an idle machine.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import foodseg
from experiments.counts import compared, keep
from experiments.fold_runs import FOLDS
from experiments.foodmix import foodmix, prepared_foodmix, stems
from experiments.item_queue import Bench, Item, ItemError
from experiments.variants import STUDENT
from foodseg.config.data import DataConfig
from foodseg.data.image_io import decode_mask
from foodseg.data.regions import MAJORITY
from foodseg.data.sam_masks import KeptMasks, read_kept_masks
from foodseg.eval.scored_rows import held_out_fold
from foodseg.eval.scoring import labelled_rows
from foodseg.metrics.boundary import boundary_counts, boundary_scores, merge_boundary
from foodseg.metrics.confusion import confusion
from foodseg.metrics.per_image import ImageCounts, write_image_counts
from foodseg.models.sam.mask_grid import MaskGrid
from foodseg.models.sam.sam import load_sam
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.refine import Refine, Refiner, refine_labels
from foodseg.predict.segmenter import Segmenter

FOLDER = "sam_vote"
RUNS = "folds-encoders-hybrid_last/runs"  # of `encoders/hybrid_last`
SCORED = (STUDENT, "eval.flip=true", "eval.longest_side=240")
NONE = "not redrawn"
WAYS: dict[str, tuple[Refine, float]] = {
    NONE: ("none", 0.0),
    "vote, at least half": ("vote", MAJORITY),
    "vote, at least 0.9": ("vote", 0.9),
    "mean logits": ("soft", 0.0),
}
PHOTOGRAPHS = 8  # of 512 pixels


def masks(bench: Bench) -> dict[str, Any]:
    """Finds the masks of all images and keeps them beside the data set."""
    data = prepared_foodmix(bench)
    started = time.monotonic()
    made = bench.foodseg("data", "masks", data, "--sam", _weights(bench))
    return {"images": made["images"], "masks": made["masks"], "seconds": round(time.monotonic() - started)}


def vote(bench: Bench) -> dict[str, Any]:
    """Scores each way to redraw out of fold: mIoU with intervals, boundary IoU."""
    data = str(prepared_foodmix(bench))
    counts: dict[str, list[ImageCounts]] = {way: [] for way in WAYS}
    for fold in range(FOLDS):
        for way, found in _fold(bench, data, fold).items():
            counts[way] += found
    variants = {}
    for way, found in counts.items():
        variants[way] = {0: _keep(bench, way, found)}
    contrasts = {way: (way, NONE) for way in WAYS if way != NONE}
    table = compared(bench, FOLDER, variants, contrasts, folds=FOLDS).to_json()
    classes = len(held_out_fold(_data(data, 0)).manifest.classes)
    boundary = {way: boundary_scores(merge_boundary(found, classes)).miou for way, found in counts.items()}
    return {**table, "boundary_miou": boundary}


def seconds(bench: Bench) -> dict[str, Any]:
    """Seconds a photograph of 512 pixels on one thread, of the segmenter and of what redrawing adds."""
    torch.set_num_threads(1)
    names, device, weights = stems(foodmix(bench), "train"), torch.device("cpu"), str(_weights(bench))
    images = [str(foodmix(bench) / "images" / f"{name}.jpg") for name in names[:: len(names) // PHOTOGRAPHS]]
    plain = _model(bench, 0)
    found: dict[str, Any] = {"segmenter": _mean_seconds(plain, images)}
    for name, grid in {"all clicks": MaskGrid(settled=0), "clicks outside of fine masks": MaskGrid()}.items():
        refiner = Refiner(load_sam(None, weights, device, grid), "vote", weights)
        found[f"segmenter and vote, {name}"] = _mean_seconds(Segmenter(plain.uri, device, SCORED, refiner), images)
    return found


def _mean_seconds(model: Segmenter, images: list[str]) -> float:
    model.predict(images[0])
    started = time.perf_counter()
    for image in images:
        model.predict(image)
    return round((time.perf_counter() - started) / len(images), 2)


def _fold(bench: Bench, data: str, fold: int) -> dict[str, list[ImageCounts]]:
    rows = held_out_fold(_data(data, fold))
    kept: KeptMasks = read_kept_masks(data, rows.manifest)
    predictor, table = _model(bench, fold).predictor, rows.manifest.class_table
    found: dict[str, list[ImageCounts]] = {way: [] for way in WAYS}
    for index in rows.rows:
        for row in labelled_rows(rows.reader, [index]):
            truth = decode_mask(row.mask)
            logits: ImageLogits = predictor.logits_of_file(row.image)
            regions = kept.masks(row.image_id)
            for way, (how, majority) in WAYS.items():
                ids: np.ndarray = refine_labels(logits, regions, how, 1.0, majority=majority)[0]
                matrix = confusion(truth, ids, len(table), table.ignore_id)
                border = boundary_counts(truth, ids, len(table), table.ignore_id)
                found[way].append(ImageCounts.from_matrix(row.image_id, row.group_id, matrix, border))
    return found


def _keep(bench: Bench, way: str, found: list[ImageCounts]) -> str:
    name = way.replace(",", "").replace(" ", "-")
    data = str(prepared_foodmix(bench))
    manifest = held_out_fold(_data(data, 0)).manifest
    part = bench.work / f"sam-vote-{name}.parquet"
    write_image_counts(str(part), found, manifest.classes, "folds", manifest.identity, None)
    keep(FOLDER, name, [part])
    return name


def _model(bench: Bench, fold: int) -> Segmenter:
    (run,) = (bench.work / RUNS).glob(f"*-seed0-fold{fold}")
    if not (run / "last.json").exists():
        raise ItemError(f"{run} is not trained: run encoders/hybrid_last first")
    return foodseg.load(str(run), device="cpu", overrides=list(SCORED))


def _data(data: str, fold: int) -> DataConfig:
    return DataConfig(uri=data, train_splits=("train", "val"), val_split=None, folds=FOLDS, held_out=fold)


def _weights(bench: Bench) -> Path:
    return bench.shared / "weights" / "mobile_sam.safetensors"


ITEMS: list[Item] = [("masks", masks), ("vote", vote), ("seconds", seconds)]
