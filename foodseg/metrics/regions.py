"""Scores of regions that were classified: top-1 accuracy, F1 of each class, macro F1, F1 of pairs that are confused.

    found = region_scores(matrix, names, least=5, pairs=[(12, 47)])
    print(found.macro_f1, found.top1)

Shape letters: K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassF1:
    """A class that has regions: how many, and precision, recall and F1 in [0, 1]."""

    id: int
    name: str
    regions: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class PairF1:
    """Two classes that are confused: the mean F1 of both in [0, 1], counted among the regions of these two alone.

    A region that was given a third class counts against the recall of its own.
    """

    names: tuple[str, str]
    regions: int
    f1: float


@dataclass(frozen=True)
class RegionScores:
    """top1: share of regions with the right class. macro_f1: mean F1 of the classes with at least `least` regions.

    Both are in [0, 1], None without such a region or class. counted: how many classes those are.
    """

    regions: int
    top1: float | None
    macro_f1: float | None
    counted: int
    least: int
    classes: tuple[ClassF1, ...]
    pairs: tuple[PairF1, ...]


def region_scores(
    matrix: np.ndarray, names: Sequence[str], *, least: int = 1, pairs: Sequence[tuple[int, int]] = ()
) -> RegionScores:
    """Computes the scores from counts.

    Args:
        matrix: (K, K) int64, regions by true (row) and predicted id. least: regions of a class that macro F1 counts.
        pairs: ids; a pair of which neither class has a region is left out.
    """
    regions, right = int(matrix.sum()), np.diagonal(matrix)
    true, predicted = matrix.sum(1), matrix.sum(0)
    classes = tuple(
        ClassF1(
            index, names[index], int(true[index]), _share(right[index], predicted[index]),
            float(right[index] / true[index]), _f1(right[index], true[index], predicted[index]),
        )
        for index in np.flatnonzero(true).tolist()
    )  # fmt: skip
    counted = [each.f1 for each in classes if each.regions >= least]
    return RegionScores(
        regions,
        float(right.sum() / regions) if regions else None,
        float(np.mean(counted)) if counted else None,
        len(counted),
        least,
        classes,
        tuple(_pair(matrix, names, *pair) for pair in pairs if true[list(pair)].any()),
    )


def _pair(matrix: np.ndarray, names: Sequence[str], one: int, other: int) -> PairF1:
    rows = matrix[[one, other]]
    right = rows[[0, 1], [one, other]]
    true, predicted = rows.sum(1), rows[:, [one, other]].sum(0)
    scores = [_f1(*each) for each in zip(right, true, predicted, strict=True) if each[1]]
    return PairF1((names[one], names[other]), int(true.sum()), float(np.mean(scores)))


def _f1(right: int, true: int, predicted: int) -> float:
    return _share(2 * right, true + predicted)


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0
