"""Near-duplicate groups, and the near-duplicates that splits share.

Two images count as near-duplicates when their thumbnails, 16 x 16 RGB, correlate above SAME_IMAGE: the same scene
taken twice, or one image saved again, smaller or darker.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foodseg.progress import Progress

SAME_IMAGE = 0.95
MOST_TWINS = 5  # pairs listed per image and split: two scenes with a hundred images each would give 10,000
_PREFERENCE = ("train", "val", "test")  # the splits that must stay clean come last
_CHUNK = 2048


class Pair(NamedTuple):
    """Row numbers of two near-duplicates; `row` is of the later split in train, val, test."""

    row: int
    other: int
    correlation: float


def unit_thumbnails(thumbnails: np.ndarray) -> np.ndarray:
    """Returns (N, D) float32 rows of zero mean and unit length from (N, D) uint8; 0 for an image of one colour."""
    centred = thumbnails.astype(np.float32)
    centred -= centred.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)


def near_duplicate_groups(thumbnails: np.ndarray, digests: Sequence[bytes]) -> np.ndarray:
    """Groups images whose files are equal or whose thumbnails correlate above SAME_IMAGE, transitively.

    Compares every image with every other one, _CHUNK x _CHUNK at a time.

    Args:
        thumbnails: (N, D) float32, zero mean and unit length each.
        digests: of each image's file.

    Returns:
        (N,) int64: the smallest row number in each row's group.
    """
    first: dict[bytes, int] = {}
    labels = np.array([first.setdefault(digest, row) for row, digest in enumerate(digests)], np.int64)
    starts = range(0, len(thumbnails), _CHUNK)
    with Progress("comparing images", len(thumbnails)) as progress:
        for start in starts:
            rows = thumbnails[start : start + _CHUNK]
            for other in range(start, len(thumbnails), _CHUNK):
                i, j = np.nonzero(rows @ thumbnails[other : other + _CHUNK].T > SAME_IMAGE)
                labels = _joined(labels, i + start, j + other)
            progress.advance(len(rows))
    return labels


def _joined(labels: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Returns the labels after merging the groups of rows i[n] and j[n] for all n."""
    rows = np.concatenate([np.arange(len(labels)), i])
    edges = coo_array((np.ones(len(rows), bool), (rows, np.concatenate([labels, j]))), shape=2 * labels.shape)
    _, group = connected_components(edges, directed=False)
    smallest = np.unique(group, return_index=True)[1]
    return smallest[group]


def pairs_across_splits(thumbnails: np.ndarray, groups: np.ndarray, splits: Sequence[str]) -> list[Pair]:
    """Lists near-duplicates that are in different splits, the closest first.

    Every image of a later split that has near-duplicates in an earlier one is listed, with its MOST_TWINS closest.

    Args:
        thumbnails: (N, D) float32, zero mean and unit length each.
        groups: (N,) what `near_duplicate_groups` returned.
        splits: split of each row.
    """
    rank = np.array([_PREFERENCE.index(split) for split in splits], np.int64)
    found = []
    for rows in group_members(groups):
        for later in range(1, len(_PREFERENCE)):
            for earlier in range(later):
                a, b = rows[rank[rows] == later], rows[rank[rows] == earlier]
                if len(a) and len(b):
                    found += _closest(thumbnails, a, b)
    return sorted(found, key=lambda pair: (-pair.correlation, pair.row, pair.other))


def _closest(thumbnails: np.ndarray, a: np.ndarray, b: np.ndarray) -> list[Pair]:
    """Pairs each of the rows `a` with the MOST_TWINS rows of `b` that are closest to it and close enough."""
    pairs: list[Pair] = []
    for start in range(0, len(a), _CHUNK):
        rows = a[start : start + _CHUNK]
        correlation = thumbnails[rows] @ thumbnails[b].T
        for i in np.flatnonzero((correlation > SAME_IMAGE).any(1)):
            order = np.argsort(-correlation[i], kind="stable")[:MOST_TWINS]
            twins = order[correlation[i, order] > SAME_IMAGE]
            pairs += [Pair(int(rows[i]), int(b[j]), float(correlation[i, j])) for j in twins]
    return pairs


def group_members(groups: np.ndarray) -> list[np.ndarray]:
    """Returns the row numbers of each group, ascending; groups in the order of their labels."""
    order = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    return np.split(order, borders) if len(groups) else []
