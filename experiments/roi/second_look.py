"""What a second look gains: label maps out of fold, where the least sure regions are named again.

second_looks([(rows, segmenter, region classifier) of each fold])
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from foodseg.data.image_io import decode_image, decode_mask
from foodseg.data.regions import Region, true_regions
from foodseg.eval.scored_rows import ScoredRows
from foodseg.eval.scoring import labelled_rows
from foodseg.metrics.confusion import confusion, scores
from foodseg.predict.recheck import CERTAIN, combined
from foodseg.predict.region_classifier import RegionClassifier
from foodseg.predict.segmenter import Segmenter

SHARES = (0.0, 0.05, 0.1, 0.2)  # of all regions, those of the lowest confidence
LEAST_SHARE = 0.001

Fold = tuple[ScoredRows, Segmenter, RegionClassifier]
RESAMPLES = 2000


def second_looks(folds: Sequence[Fold]) -> dict[str, Any]:
    """Returns by share of regions: mIoU, and how many of those looked at are right before and after.

    By the classifier alone, and averaged with the segmenter, as `predict/recheck.py` does.
    """
    sure: list[float] = []
    images: list[dict[str, Any]] = []
    seconds = {"segmenter": 0.0, "second look": 0.0}
    for rows, model, classifier in folds:
        table = rows.manifest.class_table
        for index in rows.rows:
            for row in labelled_rows(rows.reader, [index]):
                started = time.perf_counter()
                logits = model.predictor.logits_of_file(row.image)
                ids, confidence = logits.ids_and_confidence(1.0)
                seconds["segmenter"] += time.perf_counter() - started
                regions = true_regions(ids, table, least_share=LEAST_SHARE)
                if not regions:
                    continue
                started = time.perf_counter()
                second = classifier.scorer.logits(decode_image(row.image), regions)
                seconds["second look"] += time.perf_counter() - started
                images.append(
                    {
                        "group": row.group_id, "truth": decode_mask(row.mask), "ids": ids, "regions": regions,
                        "sure": [float(confidence[region.mask].mean()) / CERTAIN for region in regions],
                        "alone": second.argmax(1), "averaged": combined(logits, regions, second, 1.0).argmax(1),
                    }
                )  # fmt: skip
                sure += images[-1]["sure"]
    names, ignore = folds[0][0].manifest.classes, folds[0][0].manifest.ignore_id
    found: dict[str, Any] = {"regions": len(sure), "seconds": seconds, "shares": {}}
    plain = None
    for share in SHARES:
        below = float(np.quantile(sure, share)) if share else 0.0
        for way in ("averaged", "alone") if share else ("averaged",):
            counts = [_counts(image, way, below, len(names), ignore) for image in images]
            total = scores(sum(matrix for matrix, _, _ in counts), names)  # type: ignore[arg-type]
            before, after = (sum(each[part] for each in counts) for part in (1, 2))
            part: dict[str, Any] = {"below": below, "miou": total.miou, "miou_foreground": total.miou_foreground}
            if share:
                assert plain is not None
                part |= {"regions": before[1], "right_before": before[0], "right_after": after[0],
                         "miou_gain": _gain([m for m, _, _ in counts], plain, images)}  # fmt: skip
            else:
                plain = [matrix for matrix, _, _ in counts]
            found["shares"][f"{share:g}, {way}" if share else "0"] = part
    return found


def _counts(
    image: dict[str, Any], way: str, below: float, classes: int, ignore: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the confusion matrix, and (right, all) of the regions that were looked at, before and after."""
    ids, truth = image["ids"].copy(), image["truth"]
    before, after = np.zeros(2), np.zeros(2)
    for index, region in enumerate(image["regions"]):
        if image["sure"][index] >= below:
            continue
        label = _true_label(region, truth, classes)
        named = int(image[way][index])
        ids[region.mask] = named
        before += (label == region.label, 1)
        after += (label == named, 1)
    return confusion(truth, ids, classes, ignore), before, after


def _true_label(region: Region, truth: np.ndarray, classes: int) -> int:
    return int(np.bincount(truth[region.mask], minlength=classes)[:classes].argmax())


def _gain(changed: list[np.ndarray], plain: list[np.ndarray], images: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the gain in mIoU with its 95 % interval over near-duplicate groups."""
    numbers: dict[str, int] = {}
    of_group = [numbers.setdefault(image["group"], len(numbers)) for image in images]
    one, other = (np.zeros((len(numbers), *plain[0].shape), np.float32) for _ in range(2))
    for group, a, b in zip(of_group, changed, plain, strict=True):
        one[group] += a
        other[group] += b
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(numbers), [1 / len(numbers)] * len(numbers), RESAMPLES).astype(np.float32)
    values = []
    for times in drawn:
        values.append(_miou(np.tensordot(times, one, 1)) - _miou(np.tensordot(times, other, 1)))
    low, high = np.percentile(values, [2.5, 97.5])
    mean = _miou(one.sum(0)) - _miou(other.sum(0))
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def _miou(matrix: np.ndarray) -> float:
    right, true = np.diagonal(matrix), matrix.sum(1)
    union = true + matrix.sum(0) - right
    return float(np.mean((right / np.maximum(1, union))[true > 0]))
