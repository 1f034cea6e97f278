"""Near-duplicate groups, and the pairs that splits share."""

import cv2
import numpy as np
import pytest

from foodseg.prepare import near_duplicates
from foodseg.prepare.formats.layout import SPLITS
from foodseg.prepare.near_duplicates import (
    cut_large_groups,
    groups_of_equal_files,
    joined,
    linked_rows,
    pairs_across_splits,
    unit_thumbnails,
)


def at_angles(*degrees: float) -> np.ndarray:
    """Unit vectors in a plane: two correlate above 0.95 when they are less than 18.19 degrees apart."""
    radians = np.radians(degrees)
    return np.stack((np.cos(radians), np.sin(radians)), 1).astype(np.float32)


def near_duplicate_groups(thumbnails: np.ndarray, digests: np.ndarray, block: int = 4096) -> np.ndarray:
    """As the tasks do, one after the other."""
    labels = groups_of_equal_files(digests)
    for first in range(0, len(thumbnails), block):
        for second in range(first, len(thumbnails), block):
            a, b = (np.arange(start, min(start + block, len(thumbnails))) for start in (first, second))
            rows = np.concatenate([a, b])
            i, j = linked_rows(thumbnails[a], thumbnails[b])
            labels = joined(labels, rows[i], rows[j])
    return labels


def places(*splits: str) -> np.ndarray:
    return np.array([SPLITS.index(split) for split in splits], np.int8)


def photos(count: int, originals: int, noise: float) -> np.ndarray:
    """Unit thumbnails of scenes of a few soft blobs, each drawn several times."""
    rng = np.random.default_rng(count)
    scenes = np.stack([cv2.resize(rng.random((4, 4, 3)), (16, 16)).ravel() for _ in range(originals)])
    drawn = 255 * scenes[rng.integers(0, originals, count)] + rng.normal(0, noise, (count, 768))
    return unit_thumbnails(np.clip(drawn, 0, 255).astype(np.uint8))


def different(count: int) -> np.ndarray:
    """Digests of files that all differ."""
    return np.array([b"%04d" % n for n in range(count)])


def test_unit_thumbnails() -> None:
    found = unit_thumbnails(np.array([[0, 10, 20, 30], [7, 7, 7, 7], [255, 255, 0, 0]], np.uint8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], np.array([-15, -5, 5, 15]) / np.sqrt(500), rtol=1e-6)
    assert found[1].tolist() == [0, 0, 0, 0] and found[2].tolist() == [0.5, 0.5, -0.5, -0.5]


@pytest.mark.parametrize(
    ("thumbnails", "groups"),
    [
        (at_angles(0), [0]),
        (at_angles(0, 18, 90), [0, 0, 2]),
        (at_angles(0, 19, 90), [0, 1, 2]),
        (at_angles(0, 15, 30, 45), [0, 0, 0, 0]),  # 0 and 45 are alike through the others
        (at_angles(30, 90, 0, 15), [0, 1, 0, 0]),  # the link comes last
        (at_angles(90, 0, 45, 15, 30), [0, 1, 1, 1, 1]),
        (np.zeros((3, 4), np.float32), [0, 1, 2]),  # images of one colour
        (np.zeros((0, 4), np.float32), []),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 2048])
@pytest.mark.parametrize("block", [1, 2, 2048])
def test_groups(
    thumbnails: np.ndarray, groups: list[int], chunk: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "_CHUNK", chunk)
    assert near_duplicate_groups(thumbnails, different(len(thumbnails)), block).tolist() == groups


def test_equal_files_are_one_group_whatever_their_thumbnails() -> None:
    thumbnails = np.concatenate([np.zeros((3, 2), np.float32), at_angles(0, 90)])
    assert near_duplicate_groups(thumbnails, np.array([b"a", b"b", b"a", b"c", b"b"])).tolist() == [0, 1, 0, 3, 1]


def test_a_hundred_copies_of_each_image_are_one_group_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_CHUNK", 64)
    originals = np.random.default_rng(3).normal(size=(9, 50)).astype(np.float32)
    which = np.random.default_rng(4).integers(0, 9, 900)
    thumbnails = originals[which] + np.random.default_rng(5).normal(0, 0.05, (900, 50)).astype(np.float32)
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
    first = {original: int(np.flatnonzero(which == original)[0]) for original in range(9)}
    found = near_duplicate_groups(thumbnails, different(900))
    assert found.tolist() == [first[original] for original in which]


def test_groups_agree_with_a_flood_fill() -> None:
    rng = np.random.default_rng(0)
    thumbnails = rng.normal(size=(120, 3)).astype(np.float32)
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
    close = thumbnails @ thumbnails.T > 0.95
    expected = np.full(120, -1)
    for first in range(120):
        reached = {first} if expected[first] < 0 else set()
        frontier = list(reached)
        while frontier:
            new = [int(j) for j in np.flatnonzero(close[frontier.pop()]) if int(j) not in reached]
            reached.update(new)
            frontier += new
        expected[list(reached)] = first
    np.testing.assert_array_equal(near_duplicate_groups(thumbnails, different(120)), expected)


@pytest.mark.parametrize("chunk", [1, 2048])
def test_pairs_across_splits(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_CHUNK", chunk)
    thumbnails = at_angles(0, 10, 26, 90, 95, 180)
    groups = near_duplicate_groups(thumbnails, different(6))
    assert groups.tolist() == [0, 0, 0, 3, 3, 5]
    found = pairs_across_splits(
        thumbnails.__getitem__, groups, places("train", "val", "test", "train", "train", "test")
    )
    # 0 and 26 degrees are one group through 10, but do not look alike; 90 and 95 are both in train
    assert [(pair.row, pair.other) for pair in found] == [(1, 0), (2, 1)]
    assert [pair.correlation for pair in found] == pytest.approx(np.cos(np.radians([10, 16])), abs=1e-6)


def test_pairs_agree_with_all_pairs() -> None:
    rng = np.random.default_rng(7)
    thumbnails = rng.normal(size=(150, 3)).astype(np.float32)
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
    order = ["train", "val", "test"]
    own = [order[n] for n in rng.integers(0, 3, 150)]
    groups = near_duplicate_groups(thumbnails, different(150))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "MOST_TWINS", 10_000)
        found = {(pair.row, pair.other) for pair in pairs_across_splits(thumbnails.__getitem__, groups, places(*own))}
    close = np.argwhere(thumbnails @ thumbnails.T > 0.95)
    assert found == {(i, j) for i, j in close.tolist() if order.index(own[i]) > order.index(own[j])}
    assert len(found) > 50


def test_only_the_closest_of_many_are_listed_and_no_image_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_CHUNK", 4)
    thumbnails = at_angles(*np.linspace(0, 20, 41))  # half a degree from one to the next, 18.19 are close enough
    own = ["train"] * 20 + ["test"] * 21
    found = pairs_across_splits(thumbnails.__getitem__, np.zeros(41, np.int64), places(*own))
    twins = {row: [pair.other for pair in found if pair.row == row] for row in range(20, 41)}
    assert twins == {row: [n for n in range(19, 14, -1) if row - n <= 36] for row in range(20, 41)}
    assert [pair.correlation for pair in found] == sorted((pair.correlation for pair in found), reverse=True)


@pytest.mark.parametrize("noise", [5, 30, 60])
def test_no_pair_of_thumbnails_is_ruled_out_that_correlates(noise: float) -> None:
    thumbnails = photos(500, 60, noise)
    i, j = near_duplicates._close_pairs(thumbnails[:300], thumbnails)
    close = np.argwhere(thumbnails[:300] @ thumbnails.T > 0.95)
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(map(tuple, close.tolist()))
    assert len(close) >= 300


def test_the_bound_is_not_below_the_correlation_and_rules_most_pairs_out() -> None:
    thumbnails = photos(400, 400, 40)
    bound = near_duplicates._bounded(thumbnails)
    assert bound.shape == (400, 49)
    assert (bound @ bound.T >= thumbnails @ thumbnails.T - 1e-5).all()
    assert (bound @ bound.T > 0.95).mean() < near_duplicates._FEW


def test_a_block_of_equal_images_is_linked_by_no_more_than_its_rows() -> None:
    same = np.repeat(photos(1, 1, 0), 500, axis=0)
    i, j = linked_rows(same, same)
    assert len(i) == len(j) < 1000 and set(j.tolist()) == {0}
    assert near_duplicate_groups(same, different(500), 128).tolist() == [0] * 500


def test_a_chain_is_cut_where_its_images_no_longer_look_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "LARGE", 30)
    chain = at_angles(*np.arange(0, 100, 2), 200, 205)  # 50 rows, each 2 degrees from the next
    groups = near_duplicate_groups(chain, different(52))
    assert groups.tolist() == [0] * 50 + [50, 50]
    cut = cut_large_groups(groups, chain.__getitem__)
    # 18.19 degrees from the first of each piece: rows 0 to 9, 10 to 19, ...
    assert cut.tolist() == [row // 10 * 10 for row in range(50)] + [50, 50]
    splits = ["train" if row < 15 else "test" for row in range(52)]
    found = {(pair.row, pair.other) for pair in pairs_across_splits(chain.__getitem__, groups, places(*splits))}
    assert (15, 14) in found and {row for row, _ in found} == set(range(15, 24)), "straddling pairs are listed"


def test_equal_images_are_cut_by_number_and_small_groups_stay() -> None:
    same = np.repeat(at_angles(0), 450, axis=0)
    groups = near_duplicate_groups(same, different(450))
    cut = cut_large_groups(groups, same.__getitem__)
    assert cut.tolist() == [0] * 200 + [200] * 200 + [400] * 50
    assert (cut_large_groups(groups[:200], same.__getitem__) == 0).all()
    # 5 % of 10,000 rows are more than 200
    many = np.concatenate([np.zeros(450, np.int64), np.arange(450, 10_000)])
    assert (cut_large_groups(many, same.__getitem__) == many).all()


def test_no_image_has_no_group() -> None:
    nothing = np.zeros((0, 4), np.float32)
    assert cut_large_groups(np.zeros(0, np.int64), nothing.__getitem__).tolist() == []
    assert pairs_across_splits(nothing.__getitem__, np.zeros(0, np.int64), places()) == []
