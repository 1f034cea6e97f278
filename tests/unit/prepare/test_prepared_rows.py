"""How rows are dealt to shards, and what they count."""

from dataclasses import replace

import numpy as np
import pytest

from foodseg.prepare import prepared_rows
from foodseg.prepare.audit import RecordFacts
from foodseg.prepare.prepared_rows import Row, shard_parts, split_counts
from foodseg.prepare.record import ImageFile, MaskFile, Record


def row(number: int, split: str = "train", size: int = 10, group: str = "", pixels: tuple[int, ...] = (3, 0, 1)) -> Row:
    record = Record(str(number), split, "", ImageFile("a.jpg"), MaskFile("a.png"))
    facts = RecordFacts(record, (), size, 2, 2, 1, np.array(pixels, np.int32), np.empty(0, np.uint8), b"", 5)
    return Row(facts, split, group or str(number))


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [([], []), ([10], [1]), ([99], [1]), ([10] * 7, [3, 3, 1]), ([15, 15, 1], [2, 1]), ([40, 1, 40], [1, 1, 1])],
)
def test_a_shard_has_at_most_so_many_rows_and_bytes(monkeypatch, sizes, parts):
    monkeypatch.setattr(prepared_rows, "MAX_ROWS", 3)
    monkeypatch.setattr(prepared_rows, "MAX_SHARD_BYTES", 30)
    rows = [row(number, size=size) for number, size in enumerate(sizes)]
    found = shard_parts(rows)
    assert [len(part) for part in found] == parts
    assert [each for part in found for each in part] == rows


def test_counts_of_each_split_that_has_rows():
    unlabelled = row(4, "val", pixels=(0, 0, 0))
    unlabelled = replace(
        unlabelled, facts=replace(unlabelled.facts, record=replace(unlabelled.facts.record, mask=None))
    )
    found = split_counts([row(0), row(1, group="0", pixels=(0, 2, 2)), row(2, "val"), unlabelled])
    assert list(found) == ["train", "val"]
    train, val = found["train"], found["val"]
    assert (train.images, train.groups, train.unlabelled, train.ignored_pixels) == (2, 1, 0, 10)
    assert (train.class_images, train.class_pixels) == ((1, 1, 2), (3, 2, 3))
    assert (val.images, val.groups, val.unlabelled) == (2, 2, 1) and val.class_images == (1, 0, 1)
    assert split_counts([]) == {}
