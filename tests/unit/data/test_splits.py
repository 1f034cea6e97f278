"""Near-duplicate groups, the pairs that splits share, and a validation split that no group straddles."""

from collections.abc import Sequence

import numpy as np
import pytest

from foodseg.data import splits
from foodseg.data.splits import carve_val, near_duplicate_groups, pairs_across_splits, unit_thumbnails


def at_angles(*degrees: float) -> np.ndarray:
    """Unit vectors in a plane: two correlate above 0.95 when less than 18.19 degrees lie between them."""
    radians = np.radians(degrees)
    return np.stack((np.cos(radians), np.sin(radians)), 1).astype(np.float32)


def carved(groups: Sequence[int], sources: Sequence[str], seed: int = 0) -> np.ndarray:
    """What `carve_val` chooses where every image has food."""
    return carve_val(groups, sources, [True] * len(groups), seed)


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
        (np.zeros((3, 4), np.float32), [0, 1, 2]),  # pictures of one colour
        (np.zeros((0, 4), np.float32), []),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 2048])
def test_groups(thumbnails: np.ndarray, groups: list[int], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_CHUNK", chunk)
    assert near_duplicate_groups(thumbnails, different(len(thumbnails))).tolist() == groups


def test_equal_files_are_one_group_even_where_thumbnails_tell_nothing() -> None:
    thumbnails = np.concatenate([np.zeros((3, 2), np.float32), at_angles(0, 90)])
    assert near_duplicate_groups(thumbnails, [b"a", b"b", b"a", b"c", b"b"]).tolist() == [0, 1, 0, 3, 1]


def test_a_hundred_copies_of_each_picture_are_one_group_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_CHUNK", 64)
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
    monkeypatch.setattr(splits, "_CHUNK", chunk)
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
        patch.setattr(splits, "MOST_TWINS", 10_000)
        found = {(pair.row, pair.other) for pair in pairs_across_splits(thumbnails, groups, own)}
    close = np.argwhere(thumbnails @ thumbnails.T > 0.95)
    assert found == {(i, j) for i, j in close.tolist() if order.index(own[i]) > order.index(own[j])}
    assert len(found) > 50


def test_of_many_twins_the_closest_are_listed_and_no_picture_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_CHUNK", 4)
    thumbnails = at_angles(*np.linspace(0, 20, 41))  # half a degree from one to the next, 18.19 are close enough
    own = ["train"] * 20 + ["test"] * 21
    found = pairs_across_splits(thumbnails, np.zeros(41, np.int64), own)
    twins = {row: [pair.other for pair in found if pair.row == row] for row in range(20, 41)}
    assert twins == {row: [n for n in range(19, 14, -1) if row - n <= 36] for row in range(20, 41)}
    assert [pair.correlation for pair in found] == sorted((pair.correlation for pair in found), reverse=True)


def test_groups_stay_whole_and_each_source_gives_about_15_percent() -> None:
    rng = np.random.default_rng(1)
    groups = np.sort(rng.integers(0, 500, 1000)).tolist()
    first = {g: groups.index(g) for g in groups}
    sources = ["abc"[first[g] % 3] for g in groups]
    val = carved(groups, sources)
    assert val.dtype == bool and val.shape == (1000,)
    for group in set(groups):
        assert len({bool(v) for v, g in zip(val, groups, strict=True) if g == group}) == 1
    for source in "abc":
        share = np.mean([v for v, s in zip(val, sources, strict=True) if s == source])
        assert abs(share - 0.15) < 0.01


@pytest.mark.parametrize("rows", [20, 100, 475])
def test_single_pictures_give_the_nearest_number(rows: int) -> None:
    assert abs(carved(range(rows), [""] * rows).sum() - 0.15 * rows) <= 0.5


def test_the_choice_is_repeatable_and_the_seed_and_the_source_change_it() -> None:
    groups = list(range(100))
    first, again, other = (carved(groups, ["a"] * 100, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    two = carved([*groups, *range(100, 200)], ["a"] * 100 + ["b"] * 100)
    np.testing.assert_array_equal(two[:100], first)
    assert not np.array_equal(two[100:], first)


@pytest.mark.parametrize(
    ("groups", "val"),
    [
        ([0], 0),
        ([0, 1], 0),  # 0.3 pictures wanted: none is nearer than one
        ([0, 1, 2, 3], 1),  # 0.6
        ([5, 5, 5, 5, 5, 5], 0),  # one group is one picture seven times
        ([0] * 9 + [9] * 9, 0),  # 2.7 wanted: none is nearer than nine
    ],
)
def test_a_tiny_source_keeps_pictures_in_train(groups: list[int], val: int) -> None:
    for seed in range(10):
        assert carved(groups, ["tiny"] * len(groups), seed).sum() == val


def test_a_group_over_two_sources_counts_for_that_of_its_first_row() -> None:
    val = carved([0, 0, 1, 2, 3, 4], ["a", "b", "a", "a", "a", "a"])
    assert val[0] == val[1] and val.sum() >= 1
    assert carved([], []).tolist() == []


def test_val_and_train_both_get_food() -> None:
    groups, sources = list(range(20)), [""] * 20
    plain = carved(groups, sources)
    val, train = np.flatnonzero(plain), np.flatnonzero(~plain)

    def with_food(*rows: int) -> np.ndarray:
        return carve_val(groups, sources, [row in rows for row in groups])

    # food on both sides already: the choice stays
    np.testing.assert_array_equal(with_food(val[0], train[0]), plain)
    # food in train only: the first such group goes over, and nothing else changes
    assert np.flatnonzero(with_food(*train[:2])).tolist() == sorted([*val, train[0]])
    # food in val only: one comes back
    assert np.flatnonzero(with_food(*val[:2])).tolist() == sorted(set(val) - {val[0]})
    # one image with food: train keeps it, and there is no val that could be scored
    assert not with_food(val[0]).any() and not with_food(train[0]).any()
    # no food at all: refused elsewhere (`set_checks`)
    np.testing.assert_array_equal(with_food(), plain)


def test_the_smallest_group_with_food_goes_over_whole() -> None:
    groups = [0] * 8 + [8] * 3 + [11] * 3 + [14, 15, 16, 17]
    val = carve_val(groups, [""] * len(groups), [group in (0, 8) for group in groups])
    for group in set(groups):
        assert len({bool(v) for v, g in zip(val, groups, strict=True) if g == group}) == 1
    assert val[8] and not val[0]
