"""Splits a validation split off train; a group of near-duplicates is never divided."""

from collections.abc import Sequence

import numpy as np

from foodseg.prepare.near_duplicates import group_members

VAL_SHARE = 0.15


def carve_val(groups: Sequence[int], sources: Sequence[str], food: Sequence[bool], seed: int = 0) -> np.ndarray:
    """Chooses about VAL_SHARE of the rows of every source, whole groups only (seeded, deterministic).

    Args:
        groups: group of each row.
        sources: source of each row; a group counts for the source of its first row.
        food: True where a row has a labelled food pixel; train and val both get such a row.

    Returns:
        (N,) bool, True = val. A source's first group stays in train, however small the source, unless val would have
        no food. Nothing is chosen where only one group has food.
    """
    chosen = np.zeros(len(groups), bool)
    by_source: dict[str, list[np.ndarray]] = {source: [] for source in sorted(set(sources))}
    for rows in group_members(np.asarray(groups, np.int64)):
        by_source[sources[rows[0]]].append(rows)
    for index, own in enumerate(by_source.values()):
        goal = VAL_SHARE * sum(map(len, own))
        taken = 0
        for number in np.random.default_rng([seed, index]).permutation(len(own))[1:]:
            # a group is moved if that brings the share nearer to the goal
            if abs(taken + len(own[number]) - goal) < abs(taken - goal):
                chosen[own[number]] = True
                taken += len(own[number])
    _spread_food(group_members(np.asarray(groups, np.int64)), np.asarray(food, bool), chosen)
    return chosen


def _spread_food(groups: Sequence[np.ndarray], food: np.ndarray, chosen: np.ndarray) -> None:
    """Moves the smallest group with food, in place, to train or val where that one has no food."""
    fed = [rows for rows in groups if food[rows].any()]
    in_val = [rows for rows in fed if chosen[rows[0]]]
    if not chosen.any() or not fed or 0 < len(in_val) < len(fed):
        return
    if len(fed) == 1:
        chosen[:] = False
    else:
        chosen[min(fed, key=len)] = not in_val
