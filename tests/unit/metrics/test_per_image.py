"""Per-picture counts: sparse form, merging, and the Parquet file."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foodseg.errors import UserError
from foodseg.metrics.per_image import PictureCounts, merge, read_pictures, write_pictures

NAMES = ["background", "rice", "tofu", "fig", "date"]


def random_matrices(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 10**6, (5, 5)) * (rng.random((5, 5)) < 0.3) for _ in range(count)]


def random_pictures(count: int) -> list[PictureCounts]:
    return [PictureCounts.from_matrix(f"p{i}", f"g{i // 2}", matrix) for i, matrix in enumerate(random_matrices(count))]


def test_sparse_by_hand():
    picture = PictureCounts.from_matrix("a", "g", np.array([[5, 0, 1], [0, 0, 0], [0, 2, 0]]))
    assert picture.truth.tolist() == [0, 0, 2]
    assert picture.prediction.tolist() == [0, 2, 1]
    assert picture.count.tolist() == [5, 1, 2]
    assert (picture.truth.dtype, picture.prediction.dtype, picture.count.dtype) == (np.int32, np.int32, np.int64)


def test_sparse_round_trip():
    for matrix in random_matrices(20):
        np.testing.assert_array_equal(merge([PictureCounts.from_matrix("a", "g", matrix)], 5), matrix)


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 9], [0, 10]])
def test_merge_is_the_sum_whatever_the_split(cuts):
    pictures = random_pictures(10)
    edges = [0, *cuts, 10]
    merged = sum(merge(pictures[start:end], 5) for start, end in pairwise(edges))
    np.testing.assert_array_equal(merged, sum(random_matrices(10)))
    assert merged.dtype == np.int64


def test_merge_of_nothing_is_zero():
    np.testing.assert_array_equal(merge([], 3), np.zeros((3, 3)))


@pytest.mark.parametrize("wrong", [3, -1])
def test_merge_refuses_another_label_space(wrong):
    picture = PictureCounts("p7", "g", np.array([0], np.int32), np.array([wrong], np.int32), np.array([4]))
    with pytest.raises(UserError, match=rf"'p7' holds id {wrong}, valid ids are 0 to 2"):
        merge([picture], 3)


def test_file_round_trip(tmp_path):
    empty = PictureCounts.from_matrix("all ignored", "alone", np.zeros((5, 5), np.int64))
    huge = PictureCounts.from_matrix("huge", "alone", np.full((5, 5), 2**40))
    some = np.eye(5, dtype=np.int64)
    outlined = PictureCounts.from_matrix("outlined", "o", some, np.array([[0, 1, 2, 3], [4, 0, 2**40, 7]]))
    bare = PictureCounts.from_matrix("bare", "o", some, np.zeros((0, 4), np.int64))
    pictures = [*random_pictures(7), empty, huge, outlined, bare]
    uri = str(tmp_path / "pictures.parquet")
    conditions = {"ingredients": "given", "restrict": "hard", "weights": "ema"}
    write_pictures(uri, iter(pictures), NAMES, "test", "foodmix@3", conditions)
    read, metadata = read_pictures(uri)
    assert metadata == {
        "version": 2, "classes": NAMES, "split": "test", "data": "foodmix@3", "conditions": conditions
    }  # fmt: skip
    assert len(read) == len(pictures)
    for got, expected in zip(read, pictures, strict=True):
        assert (got.image_id, got.group_id) == (expected.image_id, expected.group_id)
        for field in ("truth", "prediction", "count"):
            np.testing.assert_array_equal(getattr(got, field), getattr(expected, field))
            assert getattr(got, field).dtype == getattr(expected, field).dtype
        assert (got.boundary is None) is (expected.boundary is None)
        if got.boundary is not None:
            np.testing.assert_array_equal(got.boundary, expected.boundary)
            assert got.boundary.dtype == np.int64 and got.boundary.shape[1] == 4
    np.testing.assert_array_equal(merge(read, 5), merge(pictures, 5))
    assert [path.name for path in tmp_path.iterdir()] == ["pictures.parquet"]


def test_files_of_the_first_version_are_read(tmp_path):
    uri = str(tmp_path / "pictures.parquet")
    pictures = random_pictures(3)
    write_pictures(uri, pictures, NAMES, "test", "foodmix@3")
    table = pq.read_table(uri)
    old = table.select(["image_id", "group_id", "truth", "prediction", "count"])
    metadata = json.loads(table.schema.metadata[b"foodseg.pictures"])
    del metadata["conditions"]
    pq.write_table(old.replace_schema_metadata({"foodseg.pictures": json.dumps({**metadata, "version": 1})}), uri)
    read, metadata = read_pictures(uri)
    assert metadata["version"] == 1 and metadata["conditions"] is None
    assert [picture.boundary for picture in read] == [None] * 3
    np.testing.assert_array_equal(merge(read, 5), merge(pictures, 5))


def test_file_without_pictures(tmp_path):
    uri = (tmp_path / "pictures.parquet").as_uri()
    write_pictures(uri, [], NAMES, "val", "foodmix@3")
    assert read_pictures(uri)[0] == []


def test_a_picture_counted_twice_is_refused(tmp_path):
    pictures = random_pictures(3)
    with pytest.raises(UserError, match="'p1' stands more than once"):
        write_pictures(str(tmp_path / "pictures.parquet"), [*pictures, pictures[1]], NAMES, "test", "foodmix@3")


def test_ids_outside_the_label_space_are_not_written(tmp_path):
    with pytest.raises(UserError, match="valid ids are 0 to 1"):
        write_pictures(str(tmp_path / "pictures.parquet"), random_pictures(3), NAMES[:2], "test", "foodmix@3")


def test_foreign_files_are_refused(tmp_path):
    text, foreign, newer = (tmp_path / name for name in ("a.txt", "b.parquet", "c.parquet"))
    text.write_text("no parquet")
    pq.write_table(pa.table({"x": [1]}), foreign)
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"foodseg.pictures": '{"version": 99}'}), newer)
    with pytest.raises(UserError, match=r"a\.txt is not a Parquet file"):
        read_pictures(str(text))
    with pytest.raises(UserError, match=r"b\.parquet holds no picture counts"):
        read_pictures(str(foreign))
    with pytest.raises(UserError, match="format version 99, this foodseg reads up to 2"):
        read_pictures(str(newer))
