"""Soft labels: what a crop shows of them, worked out by hand, and shards that are read back as they were written."""

from pathlib import Path

import numpy as np
import pytest

from foodseg.config.augment import AugmentConfig
from foodseg.config.data import DataConfig
from foodseg.data.augment.geometry import Crop, Placement
from foodseg.data.batch import read_batches
from foodseg.data.reader import RowReader
from foodseg.data.sampler import rank_blocks
from foodseg.data.shards import entry_of_shard, read_manifest
from foodseg.data.soft_labels import FILE, TOP, SoftLabels, encode_soft_labels, read_list, write_list
from foodseg.data.training_rows import training_order
from foodseg.errors import UserError
from tests.support.soft_label_set import soft_labels_of_masks
from tests.support.synthetic_set import write_synthetic


def numbered(height: int, width: int, kept: int = 2) -> SoftLabels:
    """The first id of a cell is its number, row by row."""
    ids = np.zeros((height, width, kept), np.uint8)
    ids[..., 0] = np.arange(height * width).reshape(height, width)
    scores = np.zeros((height, width, kept), np.float16)
    scores[..., 0], scores[..., 1:] = 0.75, 0.25 / (kept - 1)
    return SoftLabels(ids, scores)


def crop_of(side: int, bottom: int, right: int, placement: Placement) -> Crop:
    extent = np.array([0, 0, bottom, right], np.int32)
    empty = np.zeros((side, side), np.uint8)
    return Crop(np.zeros((side, side, 3), np.uint8), empty, extent, np.zeros(3, bool), True, placement)


def test_the_whole_image_at_one_cell_each():
    crop = crop_of(8, 8, 8, Placement(8, 8, 0, 0, False))
    ids, scores = numbered(2, 2).of_crop(crop, None)
    assert ids[..., 0].tolist() == [[0, 1], [2, 3]] and ids.shape == (2, 2, TOP) and ids.dtype == np.uint16
    assert scores[..., :2].tolist() == [[[0.75, 0.25]] * 2] * 2 and not scores[..., 2:].any()


def test_a_flip_a_corner_a_scale_and_padding():
    labels = numbered(4, 4)
    flipped = labels.of_crop(crop_of(16, 16, 16, Placement(16, 16, 0, 0, True)), None)[0]
    assert flipped[..., 0].tolist() == [[3, 2, 1, 0], [7, 6, 5, 4], [11, 10, 9, 8], [15, 14, 13, 12]]
    # twice as large, from row 8 and column 16 on: cells 1 to 2 and 2 to 3, each seen in two cells
    larger = labels.of_crop(crop_of(16, 16, 16, Placement(32, 32, 8, 16, False)), None)[0]
    assert larger[..., 0].tolist() == [[6, 6, 7, 7]] * 2 + [[10, 10, 11, 11]] * 2
    # 12 rows and 7 columns are real, flipped: the middle of the third column of cells is padding, that of
    # the second row is where the third row of the image begins
    ids, scores = labels.of_crop(crop_of(16, 12, 7, Placement(12, 7, 0, 0, True)), None)
    assert scores[..., 0].tolist() == [[0.75, 0.75, 0, 0]] * 3 + [[0] * 4]
    assert ids[:3, :2, 0].tolist() == [[2, 0], [10, 8], [14, 12]]


def test_nothing_is_known_of_what_was_pasted():
    pasted = np.zeros((8, 8), bool)
    pasted[3, 4] = True
    scores = numbered(2, 2).of_crop(crop_of(8, 8, 8, Placement(8, 8, 0, 0, False)), pasted)[1]
    assert (scores[..., 0] > 0).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("classes", [5, 300])
def test_rows_are_read_back(tmp_path: Path, classes: int):
    kind = np.uint8 if classes <= 256 else np.uint16
    rng = np.random.default_rng(0)
    labels = [
        SoftLabels(rng.integers(classes, size=(h, w, 3)).astype(kind), rng.random((h, w, 3)).astype(np.float16))
        for h, w in ((2, 3), (1, 1))
    ]
    nothing = {"image_id": "c", "height": 0, "width": 0, "ids": None, "scores": None}
    data = encode_soft_labels([labels[0].to_row("a"), labels[1].to_row("b"), nothing])
    assert read_list(str(tmp_path)) is None
    (tmp_path / "part-00000.parquet").write_bytes(data)
    write_list(str(tmp_path), [entry_of_shard("train", "part-00000.parquet", data)])
    reader = read_list(str(tmp_path))
    rows = reader.take([2, 0, 1], ["image_id", "height", "width", "ids", "scores"]).to_pylist()
    assert [row["image_id"] for row in rows] == ["c", "a", "b"]
    assert SoftLabels.from_row(rows[0]) is None
    for row, expected in zip(rows[1:], labels, strict=True):
        found = SoftLabels.from_row(row)
        assert np.array_equal(found.ids, expected.ids) and found.ids.dtype == expected.ids.dtype
        assert np.array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("content", ["{", "[]", '{"format_version": 9, "shards": []}', '{"format_version": 1}'])
def test_a_damaged_list_is_refused(tmp_path: Path, content: str):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match="is damaged or of another version: delete its folder"):
        read_list(str(tmp_path))


@pytest.mark.parametrize("paste", [0.0, 1.0])
def test_each_crop_of_a_batch_has_what_its_image_has(tmp_path: Path, paste: float):
    """Soft labels that are the mask itself agree with the mask of every crop, but near the borders of regions."""
    uri = write_synthetic(tmp_path / "d", 8, 2, 0, unlabelled=False)
    data, manifest = DataConfig(uri=uri), read_manifest(uri)
    reader = RowReader(uri, manifest, ["train"])
    reader.soft_labels = soft_labels_of_masks(reader, tmp_path / "soft")
    augment = AugmentConfig(longest_side=96, crop=64, paste=paste)
    order = training_order(reader, data, 0, 4, paste=paste)
    agreed = known = 0
    for batch in read_batches(reader, order, augment, manifest, rank_blocks(0, 6, 4, 1), 4):
        ids = batch.soft_ids[..., 0].long().repeat_interleave(4, 1).repeat_interleave(4, 2)
        sure = (batch.soft_scores[..., 0] > 0).repeat_interleave(4, 1).repeat_interleave(4, 2)
        labelled = (batch.mask != manifest.ignore_id) & sure
        agreed += int(((ids == batch.mask.long()) & labelled).sum())
        known += int(labelled.sum())
    assert agreed > 0.9 * known > 0
