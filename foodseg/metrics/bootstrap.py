"""Confidence intervals of scores over images and training seeds: a paired bootstrap over both.

Near-duplicates are not independent evidence, so whole groups are drawn with replacement, the same draw for every run.
The counts of the drawn groups are summed and divided once, as for the score itself (Efron & Tibshirani, "An
Introduction to the Bootstrap", 1993, chapter 13: percentile intervals). Where a variant was trained with several seeds,
seeds are drawn with replacement too, the same ones for every variant.

A class that only one group contains is missing in a third of the draws. That raises the interval of a run's own score
where such classes have a low IoU, and moves that of a difference away from 0 where they do not differ. But only this
makes the interval of a difference reflect how much depends on that one group. Random weights instead of draws (Rubin,
"The Bayesian Bootstrap", 1981) keep every class, but treat the one group as certain: their intervals are far too narrow
where most classes have few images (`test_intervals_hold_the_true_difference`).

    draws = draw_scores({"A": images_a, "B": images_b}, classes=104, measures=[list(range(104))])
    low, high, _ = interval(draws.drawn[0, :, 0] - draws.drawn[0, :, 1])

Shape letters: K class ids; M measures (lists of ids); N runs; G groups; R resamples, in all or of one chunk; S seeds.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foodseg.errors import UserError
from foodseg.metrics.confusion import class_iou
from foodseg.metrics.per_image import ImageCounts, refuse_strange_ids

RESAMPLES = 10_000
# What the arrays of one chunk of resamples may take together; the groups' own counts (G x 3 N K x 8 bytes) come on top.
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Draws:
    """Mean IoU in [0, 1] of N runs: `observed` (M, N) and in each resample `drawn` (M, R, N), both float64.

    NaN where no id of a measure has truth pixels: the same resamples for every run, as the truth is the same.
    """

    observed: np.ndarray
    drawn: np.ndarray
    groups: int
    images: int


def draw_scores(
    runs: Mapping[str, Sequence[ImageCounts]],
    classes: int,
    measures: Collection[Sequence[int]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Draws:
    """Scores every run on the same draws of groups.

    The mean is taken over the ids of a measure with truth pixels; a class absent from a resample leaves all means of
    that resample. The order of the images does not matter; the same seed gives the same draws.

    Args:
        runs: by name the counts of one model on the same images with the same truth, each image once.
        classes: K.
        measures: lists of ids.
        resamples: how many draws of G groups.

    Raises:
        UserError: the images, their groups or their truth differ between runs, or an id is outside [0, classes).
    """
    if resamples < 1:
        raise UserError(f"resamples must be at least 1, found {resamples}")
    _refuse_different_images({name: _by_id(images, name) for name, images in runs.items()}, classes)
    some = next(iter(runs.values()))
    groups = sorted({image.group_id for image in some})
    counts = np.stack([_group_counts(images, groups, classes) for images in runs.values()], axis=1)
    observed = _means(counts.sum(axis=0, keepdims=True), measures)[:, 0]
    chunks = [_means(chunk, measures) for chunk in _resampled(counts, resamples, np.random.default_rng(seed))]
    return Draws(observed, np.concatenate(chunks, axis=1), len(groups), len(some))


def draw_seeds(seeds: int, resamples: int, seed: int = 0) -> np.ndarray:
    """Returns (R, S) int64 indices of seeds, drawn with replacement; independent of the draws of `draw_scores`."""
    return np.random.default_rng([seed, 1]).integers(0, seeds, size=(resamples, seeds))


def interval(drawn: np.ndarray) -> tuple[float, float, int] | None:
    """Returns the 95 % percentile interval of (R,) values without NaN, and their number; None where all are NaN."""
    kept = drawn[~np.isnan(drawn)]
    if not kept.size:
        return None
    low, high = np.percentile(kept, [2.5, 97.5])
    return float(low), float(high), int(kept.size)


def p_value(drawn: np.ndarray) -> float | None:
    """Returns the two-sided p-value in (0, 1] of no difference, from (R,) drawn differences; None if all are NaN.

    Twice the share of the draws on the other side of 0, or on it. The draws that were made count as one more that is
    there, so that it is never 0 (Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 4.2).
    """
    kept = drawn[~np.isnan(drawn)]
    if not kept.size:
        return None
    beyond = min(int((kept <= 0).sum()), int((kept >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (kept.size + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number, in their order, each in (0, 1].

    Those below 0.05 are all of true effects with a probability of at least 95 %, however the contrasts depend on each
    other (Holm, "A simple sequentially rejective multiple test procedure", 1979).
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _by_id(images: Sequence[ImageCounts], name: str) -> dict[str, ImageCounts]:
    by_id = {image.image_id: image for image in images}
    if not images:
        raise UserError(f"nothing to compare: side {name} has no images")
    if len(by_id) < len(images):
        raise UserError(f"side {name} has {len(images)} images but only {len(by_id)} different image ids")
    return by_id


def _refuse_different_images(runs: Mapping[str, dict[str, ImageCounts]], classes: int) -> None:
    """Raises UserError unless all runs hold the same image ids, in the same groups, with the same truth."""
    (first, a), *others = runs.items()
    for image in a.values():
        refuse_strange_ids(image, classes)
    truth = {key: _truth(image, classes) for key, image in a.items()}
    for other, b in others:
        both = f"{first} and {other}"
        lonely = sorted(a.keys() ^ b.keys())
        if lonely:
            raise UserError(f"{both} must hold the same images, but {_some(lonely)} are on one side only")
        for image in b.values():
            refuse_strange_ids(image, classes)
        regrouped = sorted(key for key in a if a[key].group_id != b[key].group_id)
        if regrouped:
            raise UserError(
                f"{both} must hold the same near-duplicate groups, but the groups of {_some(regrouped)} differ"
            )
        relabelled = sorted(key for key in a if not np.array_equal(truth[key], _truth(b[key], classes)))
        if relabelled:
            raise UserError(
                f"{both} must be scored against the same truth, but the pixel counts of {_some(relabelled)} differ"
            )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(map(repr, keys[:3])) + more


def _truth(image: ImageCounts, classes: int) -> np.ndarray:
    """Returns (K,) float64 truth pixels per id (whole numbers, exact up to 2**53)."""
    return np.bincount(image.truth, weights=image.count, minlength=classes)


def _group_counts(images: Sequence[ImageCounts], groups: list[str], classes: int) -> np.ndarray:
    """Returns (G, 3, K) float64: right, truth and predicted pixels per group and id.

    Floats, because only those are multiplied by BLAS; the whole numbers in them, and hence all sums, are exact.
    """
    row_of = {group: row for row, group in enumerate(groups)}
    counts = np.zeros((len(groups), 3, classes))
    for image in images:
        right = np.where(image.truth == image.prediction, image.count, 0)
        row = counts[row_of[image.group_id]]
        row[0] += np.bincount(image.truth, weights=right, minlength=classes)
        row[1] += _truth(image, classes)
        row[2] += np.bincount(image.prediction, weights=image.count, minlength=classes)
    return counts


def _resampled(counts: np.ndarray, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields (R, N, 3, K) sums of `counts` (G, N, 3, K) over G groups drawn with replacement, `resamples` in all.

    Chunks bound the memory; the draws do not depend on their size.
    """
    groups, runs, _, classes = counts.shape
    # Per resample: draws, their cells, their counts as integers and as floats; of each run three sums, IoU and more.
    chunk = max(1, _CHUNK_BYTES // (8 * (4 * groups + 8 * runs * classes)))
    flat = counts.reshape(groups, -1)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        cells = rng.integers(0, groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        weights = np.bincount(cells.ravel(), minlength=rows * groups).reshape(rows, groups)
        yield (weights.astype(np.float64) @ flat).reshape(rows, *counts.shape[1:])


def _means(sums: np.ndarray, measures: Collection[Sequence[int]]) -> np.ndarray:
    """Returns (M, R, N) mean IoU from `sums` (R, N, 3, K); NaN where no id has truth pixels."""
    present = sums[:, 0, 1] > 0
    iou = np.where(present[:, None], class_iou(sums[:, :, 0], sums[:, :, 1], sums[:, :, 2]), 0.0)
    means = []
    for ids in measures:
        used = present[:, list(ids)].sum(axis=1)[:, None]
        totals = iou[:, :, list(ids)].sum(axis=2)
        means.append(np.where(used > 0, totals / np.maximum(used, 1), np.nan))
    return np.stack(means)
