"""Scores of named regions over all folds, and intervals of their differences.

compared_regions({"box": rows, "ROI and context": others}, ["box"], classes, pairs)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from foodseg.metrics.bootstrap import interval
from foodseg.metrics.regions import region_scores

LEAST = 5
RESAMPLES = 2000
PAIRS = 10


def confused_pairs(matrix: np.ndarray, names: Sequence[str]) -> list[tuple[int, int]]:
    """Returns the ids of the PAIRS pairs of ingredients of which the greatest share of pixels is exchanged.

    Args:
        matrix: (K, K) int64 pixels, rows truth, of models that have not seen the images.
    """
    food = matrix.astype(np.float64)
    food[0], food[:, 0] = 0, 0
    np.fill_diagonal(food, 0)
    both = food + food.T
    size = matrix.sum(1)
    shares = both / np.maximum(1, size[:, None] + size[None])
    order = np.argsort(-np.triu(shares), axis=None, kind="stable")[:PAIRS]
    return [(int(cell) // len(names), int(cell) % len(names)) for cell in order if shares.flat[cell] > 0]


def compared_regions(
    rows: Mapping[str, pa.Table], plain: Sequence[str], names: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Returns scores of each variant, and its differences to those named in `plain`, with 95 % intervals.

    Near-duplicate groups of images are resampled; all variants name the same regions.

    Args:
        rows: by variant a row for each region, as `eval/regions.py: SCHEMA`. pairs: that are confused.
    """
    first = next(iter(rows.values()))
    groups = first.column("group_id").to_pylist()
    for name, each in rows.items():
        same = ("image_id", "region", "label")
        if any(each.column(column).to_pylist() != first.column(column).to_pylist() for column in same):
            raise ValueError(f"{name!r} names other regions")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    of_group = np.array([numbers[group] for group in groups])
    drawn = np.random.default_rng(0).multinomial(len(numbers), [1 / len(numbers)] * len(numbers), RESAMPLES)
    truth, sources = first.column("label").to_numpy(), np.array(first.column("source").to_pylist())
    found: dict[str, Any] = {"classes_counted": None, "variants": {}, "contrasts": {}}
    resampled: dict[str, np.ndarray] = {}
    for name, each in rows.items():
        predicted = each.column("predicted").to_numpy()
        scores = region_scores(_matrix(truth, predicted, len(names)), names, least=LEAST, pairs=pairs)
        within = [
            region_scores(_matrix(truth[own], predicted[own], len(names)), names, least=LEAST).macro_f1
            for own in (sources == source for source in np.unique(sources))
        ]
        found["classes_counted"] = scores.counted
        found["variants"][name] = {
            "regions": scores.regions,
            "top1": scores.top1,
            "macro_f1": scores.macro_f1,
            "macro_f1_within_source": float(np.mean([value for value in within if value is not None])),
            "f1_of_pairs": float(np.mean([pair.f1 for pair in scores.pairs])),
        }
        resampled[name] = _resampled(truth, predicted, of_group, drawn, len(names))
    for name in rows:
        for other in plain:
            if other in rows and other != name:
                low, high, _ = interval(resampled[name] - resampled[other]) or (None, None, 0)
                mean = found["variants"][name]["macro_f1"] - found["variants"][other]["macro_f1"]
                found["contrasts"][f"{name} minus {other}"] = {"mean": mean, "low": low, "high": high}
    found["pairs"] = [[names[one], names[other]] for one, other in pairs]
    return found


def _matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    cells = np.bincount(truth.astype(np.int64) * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes)


def _resampled(
    truth: np.ndarray, predicted: np.ndarray, of_group: np.ndarray, drawn: np.ndarray, classes: int
) -> np.ndarray:
    """Returns (RESAMPLES,) macro F1 over the classes with LEAST regions in the whole, where groups are resampled."""
    counted = np.flatnonzero(np.bincount(truth, minlength=classes) >= LEAST)
    values = np.empty(len(drawn))
    for index, times in enumerate(drawn):
        weights = times[of_group]
        right = np.bincount(truth, weights * (truth == predicted), classes)[counted]
        sizes = (np.bincount(truth, weights, classes) + np.bincount(predicted, weights, classes))[counted]
        present = np.bincount(truth, weights, classes)[counted] > 0
        values[index] = np.mean((2 * right / np.maximum(1, sizes))[present])
    return values
