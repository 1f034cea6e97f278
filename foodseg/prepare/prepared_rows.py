"""Rows of a data set that is being prepared: what a shard holds of them, how they are dealt to shards, what they count.

for part in shard_parts(rows): write_shard(uri, path, split, (shard_row(row, classes) for row in part))
manifest.counts = split_counts(rows)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foodseg.classes import ClassTable
from foodseg.data.shards import MAX_ROWS, MAX_SHARD_BYTES, SplitCounts
from foodseg.data.stored_mask import encode_stored_mask
from foodseg.prepare.audit import RecordFacts, present_ids, read_mask


@dataclass(frozen=True)
class Row:
    """A record that passed, with its split and near-duplicate group."""

    facts: RecordFacts
    split: str
    group_id: str


def shard_parts(rows: Sequence[Row]) -> list[list[Row]]:
    """Cuts rows into shards of at most MAX_ROWS rows and MAX_SHARD_BYTES."""
    parts: list[list[Row]] = []
    size = 0
    for row in rows:
        if not parts or len(parts[-1]) == MAX_ROWS or size + row.facts.size > MAX_SHARD_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += row.facts.size
    return parts


def shard_row(row: Row, classes: ClassTable) -> dict[str, Any]:
    """Reads image and mask; returns a row of a shard."""
    record, mask = row.facts.record, read_mask(row.facts, classes)
    ids = present_ids(row.facts.class_pixels)
    return {
        "image_id": record.image_id,
        "image": record.image.read(),
        # every mask is stored in the one encoding that readers decode fast
        "mask": None if mask is None else encode_stored_mask(mask.astype(classes.mask_dtype, copy=False)),
        "height": row.facts.height,
        "width": row.facts.width,
        "ingredients": ids,
        "ingredient_pixels": [int(row.facts.class_pixels[i]) for i in ids],
        "group_id": row.group_id,
        "source": record.source,
    }


def split_counts(rows: Sequence[Row]) -> dict[str, SplitCounts]:
    """Counts images and pixels of each split that has rows."""
    counts = {}
    for split in ("train", "val", "test"):
        own = [row for row in rows if row.split == split]
        if own:
            images = pixels = np.zeros_like(own[0].facts.class_pixels, np.int64)
            for row in own:  # one by one: stacked they would take images x ids x 8 bytes
                images = images + (row.facts.class_pixels > 0)
                pixels = pixels + row.facts.class_pixels
            counts[split] = SplitCounts(
                images=len(own),
                unlabelled=sum(row.facts.record.mask is None for row in own),
                groups=len({row.group_id for row in own}),
                class_images=tuple(images.tolist()),
                class_pixels=tuple(pixels.tolist()),
                ignored_pixels=sum(row.facts.ignored_pixels for row in own),
            )
    return counts
