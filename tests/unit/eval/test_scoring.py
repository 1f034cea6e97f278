"""Every row once, every labelled pixel once; and the label maps of others."""

import cv2
import numpy as np
import pytest

from foodseg.classes import ClassTable
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.eval.mapped import CommonSpace
from foodseg.eval.predictions import PredictionFolder
from foodseg.eval.scoring import (
    Labels,
    chunks,
    merge_scored,
    read_subsets,
    score_rows,
    true_conditioning,
)
from foodseg.metrics.boundary import merge_boundary
from foodseg.metrics.calibration import CERTAIN
from foodseg.metrics.per_image import merge
from tests.support.synthetic_set import write_synthetic

CLASSES = ClassTable(("background", "rice", "tofu"))
SPACE = CommonSpace(SYNTHETIC_CLASSES, "synthetic")


@pytest.mark.parametrize("rows", [0, 1, 2, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_chunks_cover_every_row_once(rows, world_size):
    parts = chunks(range(rows), 16)
    assert all(1 <= len(part) <= 16 for part in parts)
    dealt = [row for rank in range(world_size) for part in parts[rank::world_size] for row in part]
    assert sorted(dealt) == list(range(rows))
    assert [row for part in parts for row in part] == list(range(rows))


@pytest.mark.parametrize("val", [2, 18])
def test_every_labelled_pixel_is_counted_once(tmp_path, val):
    uri = write_synthetic(tmp_path / "d", train=2, val=val, test=1)
    manifest = read_manifest(uri)
    reader = RowReader(uri, manifest, ["val"])
    sure = lambda image_id, data, size: Labels(np.zeros(size, np.uint8), np.full(size, CERTAIN, np.uint16))  # noqa: E731
    scored = merge_scored(score_rows(reader, rows, sure, SPACE) for rows in chunks(range(val), 5))
    assert len({image.image_id for image in scored.images}) == len(scored.images) == val - 1
    matrix = merge(scored.images, len(SYNTHETIC_CLASSES))
    assert matrix[:, 0].tolist() == list(manifest.counts["val"].class_pixels)
    labelled, background = sum(manifest.counts["val"].class_pixels), manifest.counts["val"].class_pixels[0]
    assert matrix.sum() == labelled
    assert scored.confidence.sum(0).tolist() == [labelled, background, labelled * CERTAIN]


def test_other_weights_are_counted_separately(tmp_path):
    """The one says that all is background, the other is right: its matrix is diagonal, over the same pixels."""
    uri = write_synthetic(tmp_path / "d", train=2, val=5, test=1)
    manifest = read_manifest(uri)
    reader = RowReader(uri, manifest, ["val"])
    masks = {row["image_id"]: row["mask"] for row in reader.take(range(5)).to_pylist()}

    def both(image_id, data, size):
        return Labels(np.zeros(size, np.uint8), other_ids=decode_mask(masks[image_id]))

    scored = merge_scored(score_rows(reader, rows, both, SPACE) for rows in ([0, 1], [2], [3, 4]))
    other = merge(scored.other, len(SYNTHETIC_CLASSES))
    assert np.diag(other).tolist() == list(manifest.counts["val"].class_pixels)
    assert other.sum() == np.trace(other)
    assert merge(scored.images, len(SYNTHETIC_CLASSES))[:, 0].sum() == other.sum()


def test_rows_in_any_order_and_the_truth_scores_1(tmp_path):
    uri = write_synthetic(tmp_path / "d", train=2, val=5, test=1)
    reader = RowReader(uri, read_manifest(uri), ["val"])
    masks = {row["image_id"]: row["mask"] for row in reader.take(range(5)).to_pylist()}
    truth = lambda image_id, data, size: Labels(decode_mask(masks[image_id]))  # noqa: E731
    scored = score_rows(reader, [3, 0, 4], truth, SPACE)
    assert [image.image_id for image in scored.images] == ["val-003", "val-000"]
    assert scored.confidence is None and scored.other is None
    matrix = merge(scored.images, len(SYNTHETIC_CLASSES))
    assert matrix.sum() == np.trace(matrix) > 0
    boundary = merge_boundary(scored.images, len(SYNTHETIC_CLASSES))
    assert (boundary[:, 0] == boundary[:, 1]).all() and (boundary[:, 0] == boundary[:, 2]).all() and boundary.any()


def test_true_lists(tmp_path):
    uri = write_synthetic(tmp_path / "d", train=2, val=3, test=1)
    reader = RowReader(uri, read_manifest(uri), ["val"])
    lists = true_conditioning(reader, SPACE, len(SYNTHETIC_CLASSES))
    for row in reader.take(range(3)).to_pylist():
        on_it = [] if row["mask"] is None else np.unique(decode_mask(row["mask"])).tolist()
        assert lists[row["image_id"]] == [index for index in on_it if index not in (0, SYNTHETIC_CLASSES.ignore_id)]
    assert lists["val-002"] == [], "it has no mask"


def test_nothing_merges_to_nothing():
    scored = merge_scored([])
    assert scored.images == [] and scored.confidence is None


def put(folder, name: str, mask: np.ndarray) -> None:
    (folder / f"{name}.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())


def test_prediction_folder(tmp_path):
    labels = PredictionFolder(str(tmp_path), CLASSES)
    put(tmp_path, "a", np.array([[0, 1, 2], [255, 0, 0]], np.uint8))
    found = labels("a", b"", (2, 3))
    assert found.ids.tolist() == [[0, 1, 2], [255, 0, 0]] and found.confidence is None
    with pytest.raises(UserError, match=r"b\.png is missing; every labelled image"):
        labels("b", b"", (2, 3))
    with pytest.raises(UserError, match=r"a\.png is 3 x 2 pixels, its mask 2 x 3"):
        labels("a", b"", (3, 2))
    put(tmp_path, "c", np.array([[0, 3]], np.uint8))
    with pytest.raises(UserError, match=r"c\.png holds id 3, the label space goes to 2"):
        labels("c", b"", (1, 2))
    put(tmp_path, "d", np.arange(6, dtype=np.uint8).reshape(1, 2, 3))
    with pytest.raises(UserError, match=r"one class id per pixel"):
        labels("d", b"", (1, 2))


def test_subsets(tmp_path):
    (tmp_path / "soy_classes.txt").write_text("2\ttofu\n")
    (tmp_path / "core.tsv").write_text("2\n1\trice\n\n")
    paths = [str(tmp_path / name) for name in ("soy_classes.txt", "core.tsv")]
    assert read_subsets(paths, CLASSES) == {"soy": [2], "core": [1, 2]}
    assert read_subsets([], CLASSES) == {}
    (tmp_path / "core_classes.txt").write_text("1\trice\n")
    with pytest.raises(UserError, match=r"core_classes\.txt: another --subset file is called 'core' too; rename one"):
        read_subsets([paths[1], str(tmp_path / "core_classes.txt")], CLASSES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3\tfig\n", r"id 3 is outside the label space \(0 to 2\)"),
        ("2\trice\n", "id 2 is 'rice' there, but 'tofu' in the data set"),
        ("tofu\n", "line 1: expected 'id<TAB>name', found 'tofu'"),
        ("1\trice\n1\ttofu\n", "line 2: id 1 occurs twice"),
    ],
)
def test_bad_subsets(tmp_path, text, expected):
    path = tmp_path / "x_classes.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=expected):
        read_subsets([str(path)], CLASSES)
