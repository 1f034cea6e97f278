"""How rows are dealt to shards, what a row holds, and what they count."""

from dataclasses import replace

import numpy as np
import pytest

from foodseg.data.image_io import decode_mask
from foodseg.data.stored_mask import encode_stored_mask
from foodseg.prepare import prepared_rows
from foodseg.prepare.audit import RecordFacts
from foodseg.prepare.checked import CheckedImage, CheckedMask
from foodseg.prepare.prepared_rows import RowCounts, shard_parts, shard_row, total_counts
from foodseg.prepare.record import Record

IDS = np.array([[0, 0, 2], [0, 2, 255]], np.uint8)


def facts(*pixels: int) -> RecordFacts:
    record = Record("a", "train", "canteen", CheckedImage(b"image"), CheckedMask(encode_stored_mask(IDS)))
    return RecordFacts(record, (), 9, 2, 3, 1, np.array(pixels, np.int32), np.empty(0, np.uint8), b"", 5)


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [([], []), ([10], [1]), ([99], [1]), ([10] * 7, [3, 3, 1]), ([15, 15, 1], [2, 1]), ([40, 1, 40], [1, 1, 1])],
)
def test_a_shard_has_at_most_so_many_rows_and_bytes(monkeypatch, sizes, parts):
    monkeypatch.setattr(prepared_rows, "MAX_ROWS", 3)
    monkeypatch.setattr(prepared_rows, "MAX_SHARD_BYTES", 30)
    found = shard_parts(np.array(sizes, np.int64))
    assert [stop - start for start, stop in found] == parts
    assert [row for part in found for row in range(*part)] == list(range(len(sizes)))


def test_a_row():
    row = shard_row(facts(3, 0, 2), "b")
    assert (row["image_id"], row["source"], row["group_id"], row["image"]) == ("a", "canteen", "b", b"image")
    assert (row["height"], row["width"], row["ingredients"], row["ingredient_pixels"]) == (2, 3, [2], [2])
    np.testing.assert_array_equal(decode_mask(row["mask"]), IDS)
    np.testing.assert_array_equal(decode_mask(shard_row(replace(facts(3), mask_turn=3), "a")["mask"]), IDS[::-1, ::-1])
    fed = decode_mask(shard_row(replace(facts(3), ignored_is_food=True), "a")["mask"])
    np.testing.assert_array_equal(fed, np.where(IDS == 255, 1, IDS))


def test_counts_of_shards_add_up():
    counts = RowCounts(3)
    for each in (facts(3, 0, 1), facts(0, 2, 2)):
        counts.add(each)
    other = RowCounts(3)
    other.add(replace(facts(0, 0, 0), record=replace(facts(0).record, mask=None)))
    found = total_counts([counts.counts, other.counts], groups=2)
    assert (found.images, found.groups, found.unlabelled, found.ignored_pixels) == (3, 2, 1, 15)
    assert (found.class_images, found.class_pixels) == ((1, 1, 2), (3, 2, 3))
