"""Which ids a source annotates: `sources.tsv` of a source data set, and the table that the loss reads.

    canteen<TAB>*
    uec<TAB>1,2,miso soup

Where a source does not annotate an ingredient, its background is neither trained as the absence of that ingredient
(`losses.cross_entropy.cross_entropy_sum`) nor scored against a prediction of it (`scorable_mask`).
"""

from collections.abc import Collection, Mapping

import numpy as np

from foodseg.classes import BACKGROUND, ClassTable, same_name
from foodseg.errors import UserError

EVERYTHING = "*"


def parse_sources(text: str, where: str, classes: ClassTable, sources: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Parses lines `source<TAB>ids or names, separated by commas`, or `source<TAB>*`.

    Args:
        where: names the file in errors.
        sources: the sources of the data set.

    Returns:
        Per source the ids that it annotates, sorted, including background; sources that annotate all ids are left out.

    Raises:
        UserError: a malformed line, a source that occurs twice or has no images, an unknown id or name.
    """
    annotated: dict[str, tuple[int, ...]] = {}
    seen = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        here = f"{where}, line {number}"
        source, _, listed = (part.strip() for part in line.partition("\t"))
        source = next((one for one in sources if same_name(one, source)), source)
        if not listed:
            found = line.strip()[:60]
            raise UserError(f"{here}: expected 'source<TAB>ids or names with commas, or *', found {found!r}")
        if source in seen:
            raise UserError(f"{here}: source {source!r} occurs twice")
        if source not in sources:
            have = ", ".join(map(repr, sorted(sources)))
            raise UserError(f"{here}: no image has the source {source!r}; the sources are {have}")
        seen.add(source)
        if listed == EVERYTHING:
            continue
        ids = {BACKGROUND} | {_id(word.strip(), classes, here) for word in listed.split(",")}
        if len(ids) < len(classes):
            annotated[source] = tuple(sorted(ids))
    return annotated


def unannotated(annotated: Mapping[str, tuple[int, ...] | None], classes: int) -> np.ndarray | None:
    """Returns (S, K) bool, the ids that each source never annotates, in the order of `annotated`; None = no ids."""
    table = np.zeros((len(annotated), classes), bool)
    for row, ids in enumerate(annotated.values()):
        if ids is not None:
            table[row] = True
            table[row, [BACKGROUND, *ids]] = False
    return table if table.any() else None


def scorable_mask(
    truth: np.ndarray, prediction: np.ndarray, annotated: Collection[int] | None, classes: ClassTable
) -> np.ndarray:
    """Ignores the background of a mask where an id is predicted that its source never annotates: the truth is unknown.

    As in the loss, an id that occurs in the mask counts as annotated in this image.

    Args:
        truth: (H, W) ids of `classes`, or its ignore id. prediction: (H, W) ids of `classes`.
        annotated: the ids that the source annotates; None = all, and `truth` is returned as it is.

    Returns:
        (H, W), of the dtype of `truth`.
    """
    if annotated is None:
        return truth
    hidden = np.zeros(np.iinfo(np.uint16).max + 1, bool)  # one for each possible id and ignore id
    hidden[: len(classes)] = True
    hidden[[BACKGROUND, *annotated]] = False
    hidden[np.unique(truth)] = False
    unknown = (truth == BACKGROUND) & hidden[prediction]
    return np.where(unknown, truth.dtype.type(classes.ignore_id), truth)


def _id(word: str, classes: ClassTable, here: str) -> int:
    for index, name in enumerate(classes.names):
        if same_name(name, word):
            return index
    if not word.isdecimal() or int(word) >= len(classes):
        raise UserError(f"{here}: {word!r} is neither an id from 0 to {len(classes) - 1} nor one of the class names")
    return int(word)
