"""Near-duplicate groups, and the near-duplicates that splits share.

Two images count as near-duplicates when their thumbnails, 16 x 16 RGB, correlate above SAME_IMAGE: the same scene
taken twice, or one image saved again, smaller or darker.

    links = [linked_rows(blocks[i], blocks[j]), ...]      # each pair of blocks, by ray_near_duplicates.py
    groups = joined(groups_of_equal_files(digests), ...)   # with all links

Every pair is found. A correlation is the sum over coarse parts (means over 4 x 4 pixels) and over the rest, and that of
the rests is at most the product of their lengths: so most pairs are ruled out by a sixteenth of the numbers.

Shape letters: N images; D numbers of a thumbnail.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foodseg.prepare.audit import THUMBNAIL
from foodseg.prepare.formats.layout import SPLITS

SAME_IMAGE = 0.95
MOST_TWINS = 5  # pairs listed per image and split: two scenes with a hundred images each would give 10,000
LARGE_SHARE, LARGE = 0.05, 200  # a group with more than this share of the rows, and more rows than that, is cut
_CHUNK = 1024
_CELL = 4  # side in pixels of the coarse parts
_SLACK = 1e-4  # of the bound: more than float32 rounds
_FEW = 1 / 32  # share of pairs that are not ruled out, above which all are computed

Units = Callable[[np.ndarray], np.ndarray]
"""Row numbers (n,) -> their unit thumbnails (n, D) float32."""


class Pair(NamedTuple):
    """Row numbers of two near-duplicates; `row` is of the later split in SPLITS."""

    row: int
    other: int
    correlation: float


def unit_thumbnails(thumbnails: np.ndarray) -> np.ndarray:
    """Returns (N, D) float32 rows of zero mean and unit length from (N, D) uint8; 0 for an image of one colour."""
    centred = thumbnails.astype(np.float32)
    centred -= centred.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)


def groups_of_equal_files(digests: np.ndarray) -> np.ndarray:
    """Returns (N,) int64: the smallest row number with the same digest, of (N,) fixed-length bytes."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64, copy=False)


def linked_rows(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds which rows of two blocks near-duplicates connect, by pairs of a row of `a` and one of `b`, transitively.

    Args:
        a, b: (n, D), (m, D) float32, zero mean and unit length each; may be the same block.

    Returns:
        Two (k,) int64 arrays, k < n + m: connected rows, where row r of `b` is number n + r. They are as many as rows
        have a neighbour, and not as many as pairs: of a block of equal images those are millions.
    """
    nodes = len(a) + len(b)
    labels = np.arange(nodes)
    for start in range(0, len(a), _CHUNK):
        i, j = _close_pairs(a[start : start + _CHUNK], b)
        if len(i):
            labels = joined(labels, i + start, j + len(a))
    rows = np.flatnonzero(labels != np.arange(nodes))
    return rows, labels[rows]


def _close_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row numbers (k,), (k,) of all pairs that correlate above SAME_IMAGE."""
    if a.shape[1] == 3 * THUMBNAIL**2:
        i, j = np.nonzero(_bounded(a) @ _bounded(b).T > SAME_IMAGE - _SLACK)
        if len(i) <= _FEW * len(a) * len(b):
            close = np.concatenate(
                [
                    np.einsum("nd,nd->n", a[i[start : start + _CHUNK]], b[j[start : start + _CHUNK]]) > SAME_IMAGE
                    for start in range(0, len(i), _CHUNK)
                ]
                or [np.empty(0, bool)]
            )
            return i[close], j[close]
    i, j = np.nonzero(a @ b.T > SAME_IMAGE)
    return i, j


def _bounded(units: np.ndarray) -> np.ndarray:
    """Returns (N, coarse parts + 1) float32 whose products are at least the correlations."""
    cells = THUMBNAIL // _CELL
    parts = units.reshape(len(units), cells, _CELL, cells, _CELL, 3)
    coarse = parts.sum((2, 4)).reshape(len(units), -1) / _CELL  # an orthonormal projection
    rest = np.sqrt(np.maximum(0, (units**2).sum(1) - (coarse**2).sum(1)))
    return np.column_stack([coarse, rest])


def joined(labels: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Returns the labels, the smallest row of each group, after merging the groups of rows i[n] and j[n] for all n."""
    rows = np.concatenate([np.arange(len(labels)), i])
    edges = coo_array((np.ones(len(rows), bool), (rows, np.concatenate([labels, j]))), shape=2 * labels.shape)
    _, group = connected_components(edges, directed=False)
    smallest = np.unique(group, return_index=True)[1]
    return smallest[group]


def cut_large_groups(groups: np.ndarray, units: Units) -> np.ndarray:
    """Cuts groups that would leave little to split: of more than LARGE_SHARE of all rows, and more than LARGE.

    Such a group is mostly a chain, whose ends do not look alike. The smallest row number that is left begins a piece
    of all rows of the group that look like it, as long as it is not large itself; then the next one. So some
    near-duplicates are in different pieces; `pairs_across_splits`, asked with the uncut groups, lists those that come
    to lie in different splits.

    Returns:
        (N,) int64: the smallest row number of each row's piece, or group where it is not cut.
    """
    cut, most = groups.copy(), max(LARGE, int(LARGE_SHARE * len(groups)))
    labels, sizes = np.unique(groups, return_counts=True)
    for large in labels[sizes > most]:
        left = np.flatnonzero(groups == large)
        thumbnails = units(left).astype(np.float16)  # of the group alone
        while len(left):
            first = thumbnails[0].astype(np.float32)
            like = np.concatenate(
                [thumbnails[s : s + _CHUNK].astype(np.float32) @ first for s in range(0, len(left), _CHUNK)]
            )
            piece = like > SAME_IMAGE
            piece[0] = True  # an image of one colour does not look like itself
            piece[np.flatnonzero(piece)[most:]] = False
            cut[left[piece]] = left[0]
            left, thumbnails = left[~piece], thumbnails[~piece]
    return cut


def pairs_across_splits(units: Units, groups: np.ndarray, splits: np.ndarray) -> list[Pair]:
    """Lists near-duplicates that are in different splits, the closest first.

    Every image of a later split that has near-duplicates in an earlier one is listed, with its MOST_TWINS closest.

    Args:
        groups: (N,) smallest row number of each row's group, before `cut_large_groups`.
        splits: (N,) place of each row's split in SPLITS, of which those that must stay clean come last.
    """
    found = []
    for rows in _straddling(groups, splits):
        for later in range(1, len(SPLITS)):
            for earlier in range(later):
                a, b = rows[splits[rows] == later], rows[splits[rows] == earlier]
                if len(a) and len(b):
                    found += _closest(units, a, b)
    return sorted(found, key=lambda pair: (-pair.correlation, pair.row, pair.other))


def _closest(units: Units, a: np.ndarray, b: np.ndarray) -> list[Pair]:
    """Pairs each of the rows `a` with the MOST_TWINS rows of `b` that are closest to it and close enough."""
    pairs: list[Pair] = []
    for start in range(0, len(a), _CHUNK):
        rows = a[start : start + _CHUNK]
        own = units(rows)
        twins: list[list[Pair]] = [[] for _ in rows]
        for other in range(0, len(b), _CHUNK):
            others = b[other : other + _CHUNK]
            correlation = own @ units(others).T
            for i in np.flatnonzero((correlation > SAME_IMAGE).any(1)):
                order = np.argsort(-correlation[i], kind="stable")[:MOST_TWINS]
                close = order[correlation[i, order] > SAME_IMAGE]
                twins[i] += [Pair(int(rows[i]), int(others[j]), float(correlation[i, j])) for j in close]
        pairs += [pair for own_twins in twins for pair in sorted(own_twins, key=_closeness)[:MOST_TWINS]]
    return pairs


def _closeness(pair: Pair) -> float:
    return -pair.correlation


def _straddling(groups: np.ndarray, splits: np.ndarray) -> list[np.ndarray]:
    """Returns the row numbers, ascending, of each group that is in several splits; in the order of their labels."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    if not len(starts):
        return []
    lowest, highest = (extreme.reduceat(splits[order], starts) for extreme in (np.minimum, np.maximum))
    stops = np.append(starts[1:], len(order))
    return [order[start:stop] for start, stop in zip(starts[lowest < highest], stops[lowest < highest], strict=True)]
