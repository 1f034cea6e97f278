"""Near-duplicate groups, and the pairs that splits share."""

import numpy as np
import pytest

from foodseg.prepare import near_duplicates
from foodseg.prepare.near_duplicates import near_duplicate_groups, pairs_across_splits, unit_thumbnails


def at_angles(*degrees: float) -> np.ndarray:
    """Unit vectors in a plane: two correlate above 0.95 when they are less than 18.19 degrees apart."""
    radians = np.radians(degrees)
    return np.stack((np.cos(radians), np.sin(radians)), 1).astype(np.float32)


def different(count: int) -> list[bytes]:
    """Digests of files that all differ."""
    return [bytes([n // 256, n % 256]) for n in range(count)]


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
def test_groups(thumbnails: np.ndarray, groups: list[int], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_CHUNK", chunk)
    assert near_duplicate_groups(thumbnails, different(len(thumbnails))).tolist() == groups


def test_equal_files_are_one_group_whatever_their_thumbnails() -> None:
    thumbnails = np.concatenate([np.zeros((3, 2), np.float32), at_angles(0, 90)])
    assert near_duplicate_groups(thumbnails, [b"a", b"b", b"a", b"c", b"b"]).tolist() == [0, 1, 0, 3, 1]


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
    found = pairs_across_splits(thumbnails, groups, ["train", "val", "test", "train", "train", "test"])
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
        found = {(pair.row, pair.other) for pair in pairs_across_splits(thumbnails, groups, own)}
    close = np.argwhere(thumbnails @ thumbnails.T > 0.95)
    assert found == {(i, j) for i, j in close.tolist() if order.index(own[i]) > order.index(own[j])}
    assert len(found) > 50


def test_only_the_closest_of_many_are_listed_and_no_image_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_CHUNK", 4)
    thumbnails = at_angles(*np.linspace(0, 20, 41))  # half a degree from one to the next, 18.19 are close enough
    own = ["train"] * 20 + ["test"] * 21
    found = pairs_across_splits(thumbnails, np.zeros(41, np.int64), own)
    twins = {row: [pair.other for pair in found if pair.row == row] for row in range(20, 41)}
    assert twins == {row: [n for n in range(19, 14, -1) if row - n <= 36] for row in range(20, 41)}
    assert [pair.correlation for pair in found] == sorted((pair.correlation for pair in found), reverse=True)
