"""Is checkpoint A better than B, or is it the choice of test images? The bootstrap of `bootstrap.py`, for two runs.

comparison = compare(read_image_counts(uri_a)[0], read_image_counts(uri_b)[0], 104, subsets={"soy": [3, 4, 9]})
print(comparison.to_markdown())
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foodseg.errors import UserError
from foodseg.eval.report_markdown import condition_mark
from foodseg.metrics.bootstrap import RESAMPLES, draw_scores, interval
from foodseg.metrics.confusion import subset_ids
from foodseg.metrics.per_image import Conditions, ImageCounts
from foodseg.report.formatting import markdown_cell, percent


@dataclass(frozen=True)
class Difference:
    """One measure on both sides, in [0, 1]; `low` to `high` is the 95 % interval of `difference` = a - b.

    `resamples` counts those that the interval rests on: a resample in which no id of the measure has truth pixels is
    left out, as it has no mean.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    groups: int
    images: int
    resamples: int


@dataclass(frozen=True)
class Comparison:
    """`miou` over all ids with truth pixels, and by name over those of each subset with background."""

    miou: Difference
    subsets: Mapping[str, Difference]

    def to_markdown(self) -> str:
        """Returns a table, one line per measure: scores in percent, differences in percentage points."""
        rows = [("mIoU", self.miou), *((f"mIoU {name}", value) for name, value in self.subsets.items())]
        lines = ["| measure | A | B | A - B | 95 % interval | groups | images | resamples |", "|---|" + "---:|" * 7]
        for name, value in rows:
            between = f"{100 * value.low:+.2f} to {100 * value.high:+.2f}"
            lines.append(
                f"| {markdown_cell(name)} | {percent(value.a)} | {percent(value.b)} | {100 * value.difference:+.2f} "
                f"| {between} | {value.groups} | {value.images} | {value.resamples} |"
            )
        return "\n".join(lines) + "\n"


def compare(
    a: list[ImageCounts],
    b: list[ImageCounts],
    classes: int,
    *,
    subsets: Mapping[str, Sequence[int]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Returns the difference a - b of the mIoU, and of each subset's, with its 95 % interval.

    The mean is taken over the ids with truth pixels; a class absent from a resample leaves both means of that
    resample. The order of the images does not matter; the same seed gives the same numbers.

    Args:
        a: the counts of one checkpoint, each image once.
        b: the counts of the other on the same images with the same truth.
        classes: K.
        subsets: named lists of ids; id 0 is always added.
        resamples: how many draws of G groups.
        seed: of the draws.

    Raises:
        UserError: the images, their groups or their truth differ, an id is outside [0, classes), or a measure has no
            truth pixels (in the data, or in any resample).
    """
    chosen = {name: subset_ids(name, ids, classes) for name, ids in (subsets or {}).items()}
    titles = ["the mIoU", *(f"subset {name!r}" for name in chosen)]
    measures = [list(range(classes)), *chosen.values()]
    draws = draw_scores({"A": a, "B": b}, classes, measures, resamples=resamples, seed=seed)
    rows = zip(titles, draws.observed, draws.drawn, strict=True)
    miou, *rest = [_difference(*row, groups=draws.groups, images=draws.images) for row in rows]
    return Comparison(miou=miou, subsets=dict(zip(chosen, rest, strict=True)))


def shown_side(folder: str, conditions: Conditions | None) -> str:
    """Names one side of a comparison with the conditions in its images.parquet; "oracle" for provided true classes."""
    if conditions is None:
        return f"{folder} (label maps)"
    mark = condition_mark(conditions) or conditions.ingredients
    return f"{folder} (ingredients {mark}; {conditions.weights} weights)"


def _difference(title: str, observed: np.ndarray, means: np.ndarray, groups: int, images: int) -> Difference:
    """Takes the percentile interval; `observed` (2,) and `means` (resamples, 2) hold the mean IoU of A and of B."""
    found = interval(means[:, 0] - means[:, 1])
    if np.isnan(observed).any() or found is None:
        raise UserError(f"nothing to compare: no id of {title} has a labelled pixel in these images or in any resample")
    low, high, resamples = found
    return Difference(
        a=float(observed[0]),
        b=float(observed[1]),
        difference=float(observed[0] - observed[1]),
        low=low,
        high=high,
        groups=groups,
        images=images,
        resamples=resamples,
    )
