"""Finds records whose id or file occurs twice in a data set, of numbers for each record alone.

found = find_duplicates(ids, digests, splits, passed)
found.finding(row, image_id, split)          # of one record
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foodseg.prepare.findings import Finding
from foodseg.prepare.formats.layout import SPLITS

# which split keeps a shared image: test first, so that scores stay comparable with others'
_KEEPS = np.array([("test", "val", "train").index(split) for split in SPLITS])


@dataclass(frozen=True)
class Duplicates:
    """N records.

    Attributes:
        other: (N,) int64, the row that keeps the id or has the same file; -1 = none.
        same_id: (N,) bool, True where the id is what is repeated.
        refused: (N,) bool, False where the other is in the same split and has another id.
    """

    other: np.ndarray
    same_id: np.ndarray
    refused: np.ndarray

    def finding(self, row: int, other_id: str, other_split: str) -> Finding:
        """Returns the finding of a row that has an `other`, given that one's id and split."""
        if self.same_id[row]:
            detail = f"the id {other_id!r} is also in {other_split}, which keeps it"
            return Finding("duplicate_id", detail, other_id, other_split)
        where = f"the same file as {other_id!r} of {other_split}"
        if self.refused[row]:
            return Finding("split_duplicate", f"{where}, which keeps it", other_id, other_split)
        return Finding("repeated_image", where, other_id, other_split)


def find_duplicates(ids: pa.ChunkedArray, digests: np.ndarray, splits: np.ndarray, passed: np.ndarray) -> Duplicates:
    """Finds repeated ids, images whose file another split keeps, and files repeated within a split.

    Among records with the same id a valid one keeps it before a refused one, then test before val before train. Files
    are compared only among records that are otherwise valid: a refused record does not claim an image.

    Args:
        ids: N image ids, in the order of the source's listing.
        digests: (N,) fixed-length bytes of each image's file.
        splits: (N,) int8, place of the split in SPLITS.
        passed: (N,) bool, False where a record is refused already.
    """
    rows, keeps = np.arange(len(splits)), _KEEPS[splits]
    codes = pc.dictionary_encode(ids).combine_chunks().indices.to_numpy()
    other = _first_of_equal(codes, np.lexsort((rows, keeps, ~passed)))
    same_id = other != rows
    valid = np.flatnonzero(passed & ~same_id)
    other[valid] = valid[_first_of_equal(digests[valid], np.argsort(keeps[valid], kind="stable"))]
    repeated = other != rows
    return Duplicates(np.where(repeated, other, -1), same_id, same_id | (repeated & (splits[other] != splits)))


def _first_of_equal(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns (n,) int64, of each of the values the row of an equal one that is first in `order`."""
    _, first, inverse = np.unique(values[order], return_index=True, return_inverse=True)
    found = np.empty(len(values), np.int64)
    found[order] = order[first][inverse]
    return found
