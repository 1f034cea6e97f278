"""Near-duplicate groups, and a validation split that no group straddles."""

import numpy as np
import pytest

from foodseg.data import splits
from foodseg.data.splits import carve_val, near_duplicate_groups


def at_angles(*degrees: float) -> np.ndarray:
    """Unit vectors in a plane: two correlate above 0.95 when less than 18.19 degrees lie between them."""
    radians = np.radians(degrees)
    return np.stack((np.cos(radians), np.sin(radians)), 1).astype(np.float32)


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
    assert near_duplicate_groups(thumbnails).tolist() == groups


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
    np.testing.assert_array_equal(near_duplicate_groups(thumbnails), expected)


def test_groups_stay_whole_and_each_source_gives_about_15_percent() -> None:
    rng = np.random.default_rng(1)
    groups = np.sort(rng.integers(0, 500, 1000)).tolist()
    first = {g: groups.index(g) for g in groups}
    sources = ["abc"[first[g] % 3] for g in groups]
    val = carve_val(groups, sources)
    assert val.dtype == bool and val.shape == (1000,)
    for group in set(groups):
        assert len({bool(v) for v, g in zip(val, groups, strict=True) if g == group}) == 1
    for source in "abc":
        share = np.mean([v for v, s in zip(val, sources, strict=True) if s == source])
        assert abs(share - 0.15) < 0.01


@pytest.mark.parametrize("rows", [20, 100, 475])
def test_single_pictures_give_the_nearest_number(rows: int) -> None:
    assert abs(carve_val(range(rows), [""] * rows).sum() - 0.15 * rows) <= 0.5


def test_the_choice_is_repeatable_and_the_seed_and_the_source_change_it() -> None:
    groups = list(range(100))
    first, again, other = (carve_val(groups, ["a"] * 100, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    two = carve_val([*groups, *range(100, 200)], ["a"] * 100 + ["b"] * 100)
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
        assert carve_val(groups, ["tiny"] * len(groups), seed).sum() == val


def test_a_group_over_two_sources_counts_for_that_of_its_first_row() -> None:
    val = carve_val([0, 0, 1, 2, 3, 4], ["a", "b", "a", "a", "a", "a"])
    assert val[0] == val[1] and val.sum() >= 1
    assert carve_val([], []).tolist() == []
