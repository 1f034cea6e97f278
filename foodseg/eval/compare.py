"""Is checkpoint A better than B, or is it the choice of test pictures? A paired bootstrap over near-duplicate groups.

Near-duplicates are no independent evidence, so whole groups are drawn with replacement, the same draw for both sides.
The counts of the drawn groups are summed and divided once, as for the score itself (Efron & Tibshirani, "An
Introduction to the Bootstrap", 1993, chapter 13: percentile intervals).

    comparison = compare(read_pictures(uri_a)[0], read_pictures(uri_b)[0], 104, subsets={"soy": [3, 4, 9]})
    print(comparison.to_markdown())

Shape letters: K class ids; G groups; R resamples of one chunk.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foodseg.errors import UserError
from foodseg.eval.pictures import PictureCounts, refuse_strange_ids
from foodseg.eval.report import condition_mark, markdown_cell, percent
from foodseg.metrics import class_iou, subset_ids

# What the arrays of one chunk of resamples may take together; the groups' own counts (G x 6 K x 8 bytes) come on top.
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Difference:
    """One measure on both sides, in [0, 1]; `low` to `high` is the 95 % interval of `difference` = a - b.

    `resamples` counts those the interval rests on: a resample in which no id of the measure has truth pixels has no
    mean and is left out.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    groups: int
    pictures: int
    resamples: int


@dataclass(frozen=True)
class Comparison:
    """`miou` over all ids with truth pixels, and by name over those of each subset with background."""

    miou: Difference
    subsets: Mapping[str, Difference]

    def to_json(self) -> dict[str, Any]:
        """Returns dicts, strings, ints and floats under the names of the fields."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Returns a table, one line per measure: scores in percent, differences in percentage points."""
        rows = [("mIoU", self.miou), *((f"mIoU {name}", value) for name, value in self.subsets.items())]
        lines = ["| measure | A | B | A - B | 95 % interval | groups | pictures | resamples |", "|---|" + "---:|" * 7]
        for name, value in rows:
            interval = f"{100 * value.low:+.2f} to {100 * value.high:+.2f}"
            lines.append(
                f"| {markdown_cell(name)} | {percent(value.a)} | {percent(value.b)} | {100 * value.difference:+.2f} "
                f"| {interval} | {value.groups} | {value.pictures} | {value.resamples} |"
            )
        return "\n".join(lines) + "\n"


def compare(
    a: list[PictureCounts],
    b: list[PictureCounts],
    classes: int,
    *,
    subsets: Mapping[str, Sequence[int]] | None = None,
    resamples: int = 10000,
    seed: int = 0,
) -> Comparison:
    """Returns the difference a - b of the mIoU, and of each subset's, with its 95 % interval.

    The mean is taken over the ids with truth pixels; a class absent from a resample leaves both means of that
    resample. The order of the pictures does not matter; the same seed gives the same numbers.

    Args:
        a: the counts of one checkpoint, each picture once.
        b: the counts of the other on the same pictures with the same truth.
        classes: K.
        subsets: named lists of ids; id 0 is always added.
        resamples: how many draws of G groups.
        seed: of the draws.

    Raises:
        UserError: the pictures, their groups or their truth differ, an id is outside [0, classes), or a measure has no
            truth pixels (in the data, or in any resample).
    """
    if resamples < 1:
        raise UserError(f"resamples must be at least 1, found {resamples}")
    by_id_a, by_id_b = _by_id(a, "A"), _by_id(b, "B")
    _refuse_different_pictures(by_id_a, by_id_b, classes)
    chosen = {name: subset_ids(name, ids, classes) for name, ids in (subsets or {}).items()}
    measures = [list(range(classes)), *chosen.values()]
    titles = ["the mIoU", *(f"subset {name!r}" for name in chosen)]

    groups = sorted({picture.group_id for picture in a})
    counts = np.concatenate([_group_counts(a, groups, classes), _group_counts(b, groups, classes)], axis=1)
    observed = _means(counts.sum(axis=0, keepdims=True), measures)[:, 0]
    drawn = [_means(chunk, measures) for chunk in _resampled(counts, resamples, np.random.default_rng(seed))]
    rows = zip(titles, observed, np.concatenate(drawn, axis=1), strict=True)
    miou, *rest = [_difference(*row, groups=len(groups), pictures=len(a)) for row in rows]
    return Comparison(miou=miou, subsets=dict(zip(chosen, rest, strict=True)))


def shown_side(folder: str, conditions: Mapping[str, str] | None) -> str:
    """Names one side of a comparison, with the conditions that its pictures.parquet notes; "oracle" where it is one."""
    if conditions is None:
        return f"{folder} (label maps, or an older evaluation that does not note its conditions)"
    told = condition_mark(conditions) or conditions["ingredients"]
    return f"{folder} (ingredients {told}; {conditions['weights']} weights)"


def _by_id(pictures: list[PictureCounts], side: str) -> dict[str, PictureCounts]:
    by_id = {picture.image_id: picture for picture in pictures}
    if not pictures:
        raise UserError(f"nothing to compare: side {side} has no pictures")
    if len(by_id) < len(pictures):
        raise UserError(f"side {side} has {len(pictures)} pictures but only {len(by_id)} different image ids")
    return by_id


def _refuse_different_pictures(a: dict[str, PictureCounts], b: dict[str, PictureCounts], classes: int) -> None:
    """Raises UserError unless both sides hold the same image ids, in the same groups, with the same truth."""
    lonely = sorted(a.keys() ^ b.keys())
    if lonely:
        raise UserError(f"A and B must hold the same pictures, but {_some(lonely)} are on one side only")
    for picture in (*a.values(), *b.values()):
        refuse_strange_ids(picture, classes)
    regrouped = sorted(key for key in a if a[key].group_id != b[key].group_id)
    if regrouped:
        raise UserError(
            f"A and B must hold the same near-duplicate groups, but the groups of {_some(regrouped)} differ"
        )
    relabelled = sorted(key for key in a if not np.array_equal(_truth(a[key], classes), _truth(b[key], classes)))
    if relabelled:
        raise UserError(
            f"A and B must be scored against the same truth, but the pixel counts of {_some(relabelled)} differ"
        )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(map(repr, keys[:3])) + more


def _truth(picture: PictureCounts, classes: int) -> np.ndarray:
    """Returns (K,) float64 truth pixels per id (whole numbers, exact up to 2**53)."""
    return np.bincount(picture.truth, weights=picture.count, minlength=classes)


def _group_counts(pictures: list[PictureCounts], groups: list[str], classes: int) -> np.ndarray:
    """Returns (G, 3, K) float64: right, truth and predicted pixels per group and id.

    Floats, because only those are multiplied by BLAS; the whole numbers in them, and hence all sums, are exact.
    """
    row_of = {group: row for row, group in enumerate(groups)}
    counts = np.zeros((len(groups), 3, classes))
    for picture in pictures:
        right = np.where(picture.truth == picture.prediction, picture.count, 0)
        row = counts[row_of[picture.group_id]]
        row[0] += np.bincount(picture.truth, weights=right, minlength=classes)
        row[1] += _truth(picture, classes)
        row[2] += np.bincount(picture.prediction, weights=picture.count, minlength=classes)
    return counts


def _resampled(counts: np.ndarray, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields (R, 6, K) sums of `counts` (G, 6, K) over G groups drawn with replacement, `resamples` in all.

    Chunks bound the memory; the draws are the same whatever their size.
    """
    groups, _, classes = counts.shape
    # Per resample: draws, their cells, their counts as integers and as floats; the six sums and the IoU of both sides.
    chunk = max(1, _CHUNK_BYTES // (8 * (4 * groups + 16 * classes)))
    flat = counts.reshape(groups, -1)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        cells = rng.integers(0, groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        weights = np.bincount(cells.ravel(), minlength=rows * groups).reshape(rows, groups)
        yield (weights.astype(np.float64) @ flat).reshape(rows, *counts.shape[1:])


def _means(sums: np.ndarray, measures: Collection[list[int]]) -> np.ndarray:
    """Returns (measures, R, 2) mean IoU of A and of B from `sums` (R, 6, K); NaN where no id has truth pixels."""
    present = sums[:, 1] > 0
    sides = [np.where(present, class_iou(sums[:, s], sums[:, s + 1], sums[:, s + 2]), 0.0) for s in (0, 3)]
    means = []
    for ids in measures:
        used = present[:, ids].sum(axis=1)
        totals = np.stack([iou[:, ids].sum(axis=1) for iou in sides], axis=1)
        means.append(np.where(used[:, None] > 0, totals / np.maximum(used, 1)[:, None], np.nan))
    return np.stack(means)


def _difference(title: str, observed: np.ndarray, means: np.ndarray, groups: int, pictures: int) -> Difference:
    """Takes the percentile interval; `observed` (2,) and `means` (resamples, 2) hold the mean IoU of A and of B."""
    drawn = means[:, 0] - means[:, 1]
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(observed).any() or not drawn.size:
        raise UserError(
            f"nothing to compare: no id of {title} has a labelled pixel in these pictures or in any resample"
        )
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(
        a=float(observed[0]),
        b=float(observed[1]),
        difference=float(observed[0] - observed[1]),
        low=float(low),
        high=float(high),
        groups=groups,
        pictures=pictures,
        resamples=drawn.size,
    )
