"""Near-duplicate groups, and a validation split that no group straddles."""

from collections.abc import Sequence

import numpy as np

SAME_PICTURE = 0.95  # correlation of centred 16 x 16 RGB thumbnails above which two pictures count as near-duplicates
VAL_SHARE = 0.15
_CHUNK = 2048


def near_duplicate_groups(thumbnails: np.ndarray) -> np.ndarray:
    """Groups pictures whose thumbnails correlate above SAME_PICTURE, directly or through others.

    Args:
        thumbnails: (N, D) float32, zero mean and unit length each.

    Returns:
        (N,) int64: the smallest row number in each row's group.
    """
    parent = np.arange(len(thumbnails), dtype=np.int64)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for start in range(0, len(thumbnails), _CHUNK):
        for other in range(start, len(thumbnails), _CHUNK):
            close = thumbnails[start : start + _CHUNK] @ thumbnails[other : other + _CHUNK].T > SAME_PICTURE
            for i, j in np.argwhere(close):
                a, b = root(int(i) + start), root(int(j) + other)
                parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(thumbnails))], dtype=np.int64)


def carve_val(groups: Sequence[int], sources: Sequence[str], seed: int = 0) -> np.ndarray:
    """Chooses about VAL_SHARE of the rows, whole groups only, from every source its share (seeded, repeatable).

    Args:
        groups: group of each row.
        sources: source of each row; a group counts for the source of its first row.

    Returns:
        (N,) bool, True = val. A source's first group always stays in train, however small the source.
    """
    groups_array = np.asarray(groups)
    chosen = np.zeros(len(groups_array), bool)
    members = {int(g): np.flatnonzero(groups_array == g) for g in np.unique(groups_array)}
    for index, source in enumerate(sorted(set(sources))):
        own = [g for g, rows in members.items() if sources[rows[0]] == source]
        goal = VAL_SHARE * sum(len(members[g]) for g in own)
        taken = 0
        for g in np.random.default_rng([seed, index]).permutation(own)[1:]:
            # a group goes over when that brings the share nearer to the goal
            if abs(taken + len(members[int(g)]) - goal) < abs(taken - goal):
                chosen[members[int(g)]] = True
                taken += len(members[int(g)])
    return chosen
