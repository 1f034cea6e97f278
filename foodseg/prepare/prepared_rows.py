"""Rows of a data set that is being prepared: how they are dealt to shards, what a shard holds of them, what they count.

for rows in shard_parts(sizes): write_shard(uri, path, split, (shard_row(facts, group_id) for facts, group_id in ...))
manifest.counts[split] = total([row_counts(...), ...], groups)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from foodseg.data.shards import MAX_ROWS, MAX_SHARD_BYTES, SplitCounts
from foodseg.prepare.audit import RecordFacts, final_mask, present_ids


def shard_parts(sizes: np.ndarray) -> list[tuple[int, int]]:
    """Cuts rows of these sizes (n,), in bytes, into shards of at most MAX_ROWS rows and MAX_SHARD_BYTES.

    Returns:
        The first row of each part, and that after its last one.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    parts, start = [], 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, before + MAX_SHARD_BYTES, side="right"))
        stop = min(max(fitting, start + 1), start + MAX_ROWS, len(sizes))
        parts.append((start, stop))
        start = stop
    return parts


def shard_row(facts: RecordFacts, group_id: str) -> dict[str, Any]:
    """Returns a row of a shard."""
    ids = present_ids(facts.class_pixels)
    return {
        "image_id": facts.record.image_id,
        "image": facts.record.image.read(),
        "mask": final_mask(facts),
        "height": facts.height,
        "width": facts.width,
        "ingredients": ids,
        "ingredient_pixels": [int(facts.class_pixels[i]) for i in ids],
        "group_id": group_id,
        "source": facts.record.source,
    }


class RowCounts:
    """Counts the rows of a shard, for classes 0 to `classes` - 1."""

    def __init__(self, classes: int) -> None:
        self._rows = self._unlabelled = self._ignored = 0
        self._images, self._pixels = np.zeros(classes, np.int64), np.zeros(classes, np.int64)

    def add(self, facts: RecordFacts) -> None:
        """Counts one row."""
        self._rows += 1
        self._unlabelled += facts.record.mask is None
        self._ignored += facts.ignored_pixels
        self._images += facts.class_pixels > 0
        self._pixels += facts.class_pixels

    @property
    def counts(self) -> SplitCounts:
        """What was counted; `groups` is 0, since other shards may have the same."""
        return SplitCounts(
            images=self._rows,
            unlabelled=self._unlabelled,
            groups=0,
            class_images=tuple(self._images.tolist()),
            class_pixels=tuple(self._pixels.tolist()),
            ignored_pixels=self._ignored,
        )


def total_counts(counts: Sequence[SplitCounts], groups: int) -> SplitCounts:
    """Returns the sum of the counts of the shards of a split, which has so many groups of near-duplicates."""
    return SplitCounts(
        images=sum(each.images for each in counts),
        unlabelled=sum(each.unlabelled for each in counts),
        groups=groups,
        class_images=tuple(map(sum, zip(*(each.class_images for each in counts), strict=True))),
        class_pixels=tuple(map(sum, zip(*(each.class_pixels for each in counts), strict=True))),
        ignored_pixels=sum(each.ignored_pixels for each in counts),
    )
