"""What does the report of an evaluation show, and which classes are worst? `python -m experiments report`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.foodmix import prepared_foodmix, scores_of, sets, weights
from experiments.item_queue import Bench, Item, ItemError
from experiments.report.screenshots import screenshot
from foodseg.metrics.per_image import merge, read_image_counts

STEPS = 1_010  # experiments/plain_recipe.yaml: 20 epochs of 404 images, 8 at a time
WORST = 3  # classes that the report's figures name, and confusions of each


def report(bench: Bench) -> dict[str, Any]:
    """The report of a model with calibrated confidences, as people see it: on a screen and on a telephone."""
    out = bench.work / "report"
    run, where = _train_reported(bench), ("--data", prepared_foodmix(bench), "--split", "test", "--out", out)
    metrics = bench.foodseg("evaluate", run, *where, "--test-log", bench.test_log)
    if metrics["calibration_note"].startswith("not calibrated"):
        raise ItemError(f"the confidences of the report are {metrics['calibration_note']}")
    for width in (1280, 390):
        screenshot(out / "report.html", width, out / f"report-{width}.png")
    images, about = read_image_counts(str(out / "images.parquet"))
    kept = ("boundary", "ingredients", "calibration", "calibration_note", "temperature")
    return {
        "scores": scores_of(metrics),
        "bytes": (out / "report.html").stat().st_size,
        "worst_classes": worst_classes(merge(images, len(about.classes)), about.classes),
        **{name: metrics[name] for name in kept},
    }


def worst_classes(matrix: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    """The WORST classes with truth pixels, of least IoU first, and what they are confused with most.

    Args:
        matrix: (K, K) whole numbers, rows truth, columns prediction. names: K class names.
    """
    hits, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = hits / np.maximum(1, truth + predicted - hits)
    present = [int(index) for index in np.argsort(iou, kind="stable") if truth[index]]
    found = []
    for index in present[:WORST]:
        others = [int(other) for other in np.argsort(-matrix[index], kind="stable") if other != index]
        taken = [other for other in others[:WORST] if matrix[index, other]]
        found.append(
            {
                "class": names[index],
                "iou": float(iou[index]),
                "truth_pixels": int(truth[index]),
                "taken_for": {names[other]: float(matrix[index, other] / truth[index]) for other in taken},
            }
        )
    return found


ITEMS: list[Item] = [("report", report)]


def _train_reported(bench: Bench) -> Path:
    """Trains or resumes a run that is validated, so that its confidences are calibrated."""
    run = bench.work / "report-run"
    last, begun = run / "last.json", (run / "config.yaml").exists()
    if last.exists() and json.loads(last.read_text(encoding="utf-8"))["step"] >= STEPS:
        return run
    where = (f"data.uri={prepared_foodmix(bench)}", f"run.uri={run}", f"model.weights={weights(bench)}")
    settings = sets(*where, "data.val_split=val")
    bench.foodseg("train", "--config", "experiments/plain_recipe.yaml", *settings, *(["--resume"] if begun else []))
    return run
