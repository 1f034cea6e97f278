"""A validation split that never divides a group of near-duplicates."""

from collections.abc import Sequence

import numpy as np
import pytest

from foodseg.prepare.splits import carve_val


def carved(groups: Sequence[int], sources: Sequence[str], seed: int = 0) -> np.ndarray:
    """What `carve_val` chooses where every image has food."""
    return carve_val(groups, sources, [True] * len(groups), seed)


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
def test_single_images_give_the_nearest_number(rows: int) -> None:
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
        ([0, 1], 0),  # 0.3 images wanted: none is nearer than one
        ([0, 1, 2, 3], 1),  # 0.6
        ([5, 5, 5, 5, 5, 5], 0),  # one group is one image seven times
        ([0] * 9 + [9] * 9, 0),  # 2.7 wanted: none is nearer than nine
    ],
)
def test_a_tiny_source_keeps_images_in_train(groups: list[int], val: int) -> None:
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
    # food in train only: the first such group is moved, and nothing else changes
    assert np.flatnonzero(with_food(*train[:2])).tolist() == sorted([*val, train[0]])
    # food in val only: one is moved back
    assert np.flatnonzero(with_food(*val[:2])).tolist() == sorted(set(val) - {val[0]})
    # one image with food: train keeps it, and val cannot be scored
    assert not with_food(val[0]).any() and not with_food(train[0]).any()
    # no food at all: refused elsewhere (`dataset_checks`)
    np.testing.assert_array_equal(with_food(), plain)


def test_the_smallest_group_with_food_is_moved_whole() -> None:
    groups = [0] * 8 + [8] * 3 + [11] * 3 + [14, 15, 16, 17]
    val = carve_val(groups, [""] * len(groups), [group in (0, 8) for group in groups])
    for group in set(groups):
        assert len({bool(v) for v, g in zip(val, groups, strict=True) if g == group}) == 1
    assert val[8] and not val[0]
