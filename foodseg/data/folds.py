"""Outer folds of a cross-validation: groups of near-duplicates stay together, every source is spread over all folds.

    assign_folds(["a", "a", "b", "c"], ["home", "home", "home", "cafe"], 2)     # e.g. [0, 0, 1, 1]

The folds depend on the group and the source of each row and on their number alone: not on a seed, nor on the order of
the rows. So every variant of an ablation, and every program that is compared with it, leaves out the same images.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from foodseg.errors import UserError


def assign_folds(groups: Sequence[str], sources: Sequence[str], folds: int) -> np.ndarray:
    """Deals whole groups to folds, those of each source evenly.

    The groups of a source are dealt one after the other, large ones first, each to the fold that has the fewest rows of
    this source so far; among equals to the one with the fewest rows of all sources. So small sources do not all land in
    one fold, and every fold gets a row.

    Args:
        groups, sources: near-duplicate group and source of each of N rows; a group counts for its most frequent source.
        folds: at least 2.

    Returns:
        (N,) int64 in [0, folds).

    Raises:
        UserError: there are fewer groups than folds.
    """
    sizes = Counter(groups)
    sources_of: dict[str, Counter[str]] = defaultdict(Counter)
    for group, source in zip(groups, sources, strict=True):
        sources_of[group][source] += 1
    if len(sizes) < folds:
        raise UserError(
            f"the training images form {len(sizes)} group{'s' * (len(sizes) != 1)} of near-duplicates, too few for "
            f"{folds} folds: ask for at most {max(2, len(sizes))} folds, or take more images"
        )
    by_source: dict[str, list[str]] = defaultdict(list)
    for group, found in sources_of.items():
        by_source[min(found, key=lambda source: (-found[source], source))].append(group)
    taken = np.zeros(folds, np.int64)
    fold_of: dict[str, int] = {}
    for source in sorted(by_source):
        own = np.zeros(folds, np.int64)
        # names of neighbours are often numbered by day or camera: their hashes are not
        for group in sorted(by_source[source], key=lambda group: (-sizes[group], _digest(group), group)):
            fold = int(np.lexsort((taken, own))[0])
            fold_of[group] = fold
            own[fold] += sizes[group]
            taken[fold] += sizes[group]
    return np.array([fold_of[group] for group in groups], np.int64)


def _digest(group: str) -> str:
    return hashlib.sha256(group.encode()).hexdigest()
