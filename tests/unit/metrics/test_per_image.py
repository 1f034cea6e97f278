"""Per-image counts: sparse form, merging, and the Parquet file."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foodseg.errors import UserError
from foodseg.metrics.per_image import Conditions, CountsFacts, ImageCounts, merge, read_image_counts, write_image_counts

NAMES = ["background", "rice", "tofu", "fig", "date"]


def random_matrices(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 10**6, (5, 5)) * (rng.random((5, 5)) < 0.3) for _ in range(count)]


def random_images(count: int) -> list[ImageCounts]:
    return [ImageCounts.from_matrix(f"p{i}", f"g{i // 2}", matrix) for i, matrix in enumerate(random_matrices(count))]


def test_sparse_by_hand():
    image = ImageCounts.from_matrix("a", "g", np.array([[5, 0, 1], [0, 0, 0], [0, 2, 0]]))
    assert image.truth.tolist() == [0, 0, 2]
    assert image.prediction.tolist() == [0, 2, 1]
    assert image.count.tolist() == [5, 1, 2]
    assert (image.truth.dtype, image.prediction.dtype, image.count.dtype) == (np.int32, np.int32, np.int64)


def test_sparse_round_trip():
    for matrix in random_matrices(20):
        np.testing.assert_array_equal(merge([ImageCounts.from_matrix("a", "g", matrix)], 5), matrix)


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 9], [0, 10]])
def test_merge_is_the_sum_whatever_the_split(cuts):
    images = random_images(10)
    edges = [0, *cuts, 10]
    merged = sum(merge(images[start:end], 5) for start, end in pairwise(edges))
    np.testing.assert_array_equal(merged, sum(random_matrices(10)))
    assert merged.dtype == np.int64


def test_merge_of_nothing_is_zero():
    np.testing.assert_array_equal(merge([], 3), np.zeros((3, 3)))


@pytest.mark.parametrize("wrong", [3, -1])
def test_merge_refuses_another_label_space(wrong):
    image = ImageCounts("p7", "g", np.array([0], np.int32), np.array([wrong], np.int32), np.array([4]))
    with pytest.raises(UserError, match=rf"'p7' holds id {wrong}, valid ids are 0 to 2"):
        merge([image], 3)


def test_file_round_trip(tmp_path):
    empty = ImageCounts.from_matrix("all ignored", "alone", np.zeros((5, 5), np.int64))
    huge = ImageCounts.from_matrix("huge", "alone", np.full((5, 5), 2**40))
    some = np.eye(5, dtype=np.int64)
    outlined = ImageCounts.from_matrix("outlined", "o", some, np.array([[0, 1, 2, 3], [4, 0, 2**40, 7]]))
    bare = ImageCounts.from_matrix("bare", "o", some, np.zeros((0, 4), np.int64))
    images = [*random_images(7), empty, huge, outlined, bare]
    uri = str(tmp_path / "images.parquet")
    conditions = Conditions(weights="ema", ingredients="provided", restrict="hard")
    write_image_counts(uri, iter(images), NAMES, "test", "foodmix@3", conditions)
    read, facts = read_image_counts(uri)
    assert facts == CountsFacts(tuple(NAMES), "test", "foodmix@3", conditions)
    assert len(read) == len(images)
    for got, expected in zip(read, images, strict=True):
        assert (got.image_id, got.group_id) == (expected.image_id, expected.group_id)
        for field in ("truth", "prediction", "count"):
            np.testing.assert_array_equal(getattr(got, field), getattr(expected, field))
            assert getattr(got, field).dtype == getattr(expected, field).dtype
        assert (got.boundary is None) is (expected.boundary is None)
        if got.boundary is not None:
            np.testing.assert_array_equal(got.boundary, expected.boundary)
            assert got.boundary.dtype == np.int64 and got.boundary.shape[1] == 4
    np.testing.assert_array_equal(merge(read, 5), merge(images, 5))
    assert [path.name for path in tmp_path.iterdir()] == ["images.parquet"]


def test_files_of_earlier_versions_are_refused_by_name(tmp_path):
    uri = str(tmp_path / "counts.parquet")
    write_image_counts(uri, random_images(3), NAMES, "test", "foodmix@3")
    table = pq.read_table(uri)
    pq.write_table(table.replace_schema_metadata({"foodseg.pictures": '{"version": 2}'}), uri)
    with pytest.raises(UserError, match=r"counts\.parquet has format version 2, this foodseg reads 3: evaluate again"):
        read_image_counts(uri)


def test_file_without_images(tmp_path):
    uri = (tmp_path / "images.parquet").as_uri()
    write_image_counts(uri, [], NAMES, "val", "foodmix@3")
    assert read_image_counts(uri)[0] == []


def test_an_image_counted_twice_is_refused(tmp_path):
    images = random_images(3)
    with pytest.raises(UserError, match="'p1' occurs more than once"):
        write_image_counts(str(tmp_path / "images.parquet"), [*images, images[1]], NAMES, "test", "foodmix@3")


def test_ids_outside_the_label_space_are_not_written(tmp_path):
    with pytest.raises(UserError, match="valid ids are 0 to 1"):
        write_image_counts(str(tmp_path / "images.parquet"), random_images(3), NAMES[:2], "test", "foodmix@3")


def test_foreign_files_are_refused(tmp_path):
    text, foreign, newer = (tmp_path / name for name in ("a.txt", "b.parquet", "c.parquet"))
    text.write_text("no parquet")
    pq.write_table(pa.table({"x": [1]}), foreign)
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"foodseg.images": '{"version": 99}'}), newer)
    with pytest.raises(UserError, match=r"a\.txt is not a Parquet file"):
        read_image_counts(str(text))
    with pytest.raises(UserError, match=r"b\.parquet holds no image counts"):
        read_image_counts(str(foreign))
    with pytest.raises(UserError, match="format version 99, this foodseg reads 3: update foodseg"):
        read_image_counts(str(newer))
