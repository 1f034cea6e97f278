"""Splits a validation split off train; a group of near-duplicates is never divided."""

from collections.abc import Sequence

import numpy as np

VAL_SHARE = 0.15


def carve_val(
    groups: Sequence[int] | np.ndarray,
    sources: Sequence[str] | np.ndarray,
    food: Sequence[bool] | np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """Chooses about VAL_SHARE of the rows of every source, whole groups only (seeded, deterministic).

    Args:
        groups: group of each row.
        sources: source of each row, as text or as its place among the sorted texts; a group counts for the source of
            its first row.
        food: True where a row has a labelled food pixel; train and val both get such a row.

    Returns:
        (N,) bool, True = val. A source's first group stays in train, however small the source, unless val would have
        no food. Nothing is chosen where only one group has food.
    """
    if not len(groups):
        return np.zeros(0, bool)
    _, first, group_of, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    source_of = np.unique(np.asarray(sources), return_inverse=True)[1]
    chosen = np.zeros(len(sizes), bool)
    for index in range(int(source_of.max()) + 1):
        own = np.flatnonzero(source_of[first] == index)
        goal, taken = VAL_SHARE * int(sizes[own].sum()), 0
        for number in np.random.default_rng([seed, index]).permutation(len(own))[1:]:
            size = int(sizes[own[number]])
            # a group is moved if that brings the share nearer to the goal
            if abs(taken + size - goal) < abs(taken - goal):
                chosen[own[number]] = True
                taken += size
    fed = np.zeros(len(sizes), bool)
    fed[group_of[np.asarray(food, bool)]] = True
    _spread_food(sizes, fed, chosen)
    return chosen[group_of]


def _spread_food(sizes: np.ndarray, fed: np.ndarray, chosen: np.ndarray) -> None:
    """Moves the smallest group with food, in place, to train or val where that one has no food."""
    with_food = np.flatnonzero(fed)
    in_val = int(chosen[with_food].sum())
    if not chosen.any() or not len(with_food) or 0 < in_val < len(with_food):
        return
    if len(with_food) == 1:
        chosen[:] = False
    else:
        chosen[with_food[np.argmin(sizes[with_food])]] = not in_val
