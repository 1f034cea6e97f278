"""Folds by group and source: worked out by hand, and properties over random groups."""

import numpy as np
import pytest

from foodseg.data.folds import assign_folds
from foodseg.errors import UserError


def test_large_groups_first_each_to_the_fold_with_fewest_rows() -> None:
    # groups of 3, 1, 1: the large one opens fold 0, both others fill fold 1
    assert assign_folds(["a", "b", "a", "c", "a"], ["s"] * 5, 2).tolist() == [0, 1, 0, 1, 0]


def test_small_sources_are_spread() -> None:
    sources = [f"s{index // 2}" for index in range(12)]  # six sources of two images
    folds = assign_folds([str(index) for index in range(12)], sources, 3)
    assert np.bincount(folds).tolist() == [4, 4, 4]
    assert all(folds[2 * index] != folds[2 * index + 1] for index in range(6))
    alone = assign_folds([str(index) for index in range(6)], [f"s{index}" for index in range(6)], 3)
    assert np.bincount(alone).tolist() == [2, 2, 2], "sources of one image do not all land in fold 0"


def test_a_group_of_several_sources_counts_for_its_most_frequent_one() -> None:
    # the group g is of s, with s's only other group: they are in different folds, and so are both groups of t
    groups, sources = ["g", "g", "g", "h", "i", "j"], ["s", "s", "t", "s", "t", "t"]
    folds = assign_folds(groups, sources, 2)
    assert folds[0] == folds[1] == folds[2] != folds[3]
    assert folds[4] != folds[5]


@pytest.mark.parametrize("seed", range(5))
def test_every_group_whole_every_source_evenly_whatever_the_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.array([f"g{number}" for number in rng.integers(0, 150, 300)])
    of_group = {group: f"s{rng.choice(4, p=[0.6, 0.25, 0.1, 0.05])}" for group in sorted(set(groups))}
    sources = np.array([of_group[group] for group in groups])
    folds = assign_folds(groups.tolist(), sources.tolist(), 5)
    assert set(folds.tolist()) == set(range(5))
    assert all(len(set(folds[groups == group].tolist())) == 1 for group in groups)
    for source in set(sources.tolist()):
        rows = np.bincount(folds[sources == source], minlength=5)
        largest = max(np.sum(groups == group) for group in groups[sources == source])
        assert rows.max() - rows.min() <= largest
    shuffled = rng.permutation(300)
    np.testing.assert_array_equal(
        assign_folds(groups[shuffled].tolist(), sources[shuffled].tolist(), 5), folds[shuffled]
    )


def test_as_many_folds_as_groups_and_not_one_more() -> None:
    groups, sources = ["a", "a", "b", "c"], ["s", "s", "t", "t"]
    assert sorted(set(assign_folds(groups, sources, 3).tolist())) == [0, 1, 2]
    with pytest.raises(UserError, match="form 3 groups of near-duplicates, too few for 4 folds: ask for at most 3"):
        assign_folds(groups, sources, 4)
