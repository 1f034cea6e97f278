"""Scores a model or anybody's label maps on rows of a prepared data set, at each mask's own resolution.

Every image gives one confusion matrix of whole numbers, the counts of its outlines, and its share in the counts of
confidence; the sums do not depend on which process scored which rows. Background is not scored (neither right nor
wrong) where the predicted id is one that the source of the image never annotates.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from foodseg import storage
from foodseg.classes import ClassTable, parse_id_lines, same_name
from foodseg.data.image_io import BadFile, decode_mask
from foodseg.data.reader import RowReader
from foodseg.errors import UserError
from foodseg.eval.mapped import CommonSpace
from foodseg.metrics.boundary import boundary_counts
from foodseg.metrics.calibration import confidence_counts
from foodseg.metrics.confusion import confusion
from foodseg.metrics.per_image import ImageCounts


@dataclass(frozen=True, eq=False)
class Labels:
    """What a labeller predicts for an image: ids (H, W), and confidences (H, W) uint16 (65535 = certain) if it has any.

    other_ids: (H, W), prediction of the checkpoint's other weights (student's or averaged); None where it has none.
    """

    ids: np.ndarray
    confidence: np.ndarray | None = None
    other_ids: np.ndarray | None = None


class BadPrediction(UserError):
    """A label map from a folder is missing or wrong; the message names it."""


Labeller = Callable[[str, bytes, tuple[int, int]], Labels]
"""(image_id, encoded image, (height, width) of its mask) -> label map of that size."""


@dataclass(frozen=True, eq=False)
class Scored:
    """The counts of some images, and over all of them those of confidence: (BINS, 3), None without confidences.

    other: the same counts, without boundaries, of a checkpoint's other weights; None where there are none.
    refused: what is wrong with label maps from a folder that could not be counted, one sentence each.
    """

    images: list[ImageCounts]
    confidence: np.ndarray | None
    other: list[ImageCounts] | None = None
    refused: tuple[str, ...] = ()


def chunks(rows: Sequence[int], size: int) -> list[list[int]]:
    """Cuts row numbers into lists of at most `size` that hold every row exactly once."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


@dataclass(frozen=True)
class LabelledRow:
    """A row of a prepared data set that has a mask; `image` and `mask` are encoded."""

    image_id: str
    image: bytes
    mask: bytes
    group_id: str
    source: str

    @classmethod
    def columns(cls) -> list[str]:
        """Returns the columns of a data set that it takes."""
        return [field.name for field in fields(cls)]


def labelled_rows(reader: RowReader, rows: Sequence[int]) -> Iterator[LabelledRow]:
    """Yields the rows that have a mask."""
    yield from labelled(reader.take(rows, LabelledRow.columns()))


def labelled(table: pa.Table) -> Iterator[LabelledRow]:
    """Yields the rows of a table of `LabelledRow.columns` that have a mask."""
    for index in range(table.num_rows):
        row = table.slice(index, 1).to_pylist()[0]
        if row["mask"] is not None:
            yield LabelledRow(**row)


def score_rows(reader: RowReader, rows: Sequence[int], labeller: Labeller, space: CommonSpace) -> Scored:
    """Labels the rows and scores them against their masks, in `space`; rows without a mask are left out."""
    return score_table(reader.take(rows, LabelledRow.columns()), labeller, space)


def score_table(table: pa.Table, labeller: Labeller, space: CommonSpace) -> Scored:
    """As `score_rows`, of rows that were read: a table of `LabelledRow.columns`."""
    return merge_scored(_score_row(row, labeller, space) for row in labelled(table))


def truth_and_labels(row: LabelledRow, labeller: Labeller, space: CommonSpace) -> tuple[np.ndarray, Labels]:
    """Returns the mask (H, W) of a row and what the labeller predicts, both in ids of `space.classes`.

    A confidence stays that of the id before it was mapped.

    Raises:
        BadFile: the image or its mask in the data set is damaged.
        BadPrediction: the labeller has no label map, or one that ignores some labelled pixels.
    """
    try:
        truth = decode_mask(row.mask)
        found = labeller(row.image_id, row.image, truth.shape)
    except BadFile as error:  # it was whole when it was prepared
        raise BadFile(f"{row.image_id}: {error}; prepare the data set again", error.fault) from None
    _refuse_ignored(row.image_id, truth, found.ids, space)
    ids = space.predicted_ids(found.ids, row.source)
    other = None if found.other_ids is None else space.predicted_ids(found.other_ids, row.source)
    return space.truth_ids(truth, row.source), Labels(ids, found.confidence, other)


def true_conditioning(reader: RowReader, space: CommonSpace, count: int) -> dict[str, list[int]]:
    """Returns by image_id which of a model's `count` ids are truly on the image: the conditioning of an oracle."""
    columns = reader.columns(["image_id", "ingredients", "source"])
    rows = zip(*(column.to_pylist() for column in columns.columns), strict=True)
    return {image_id: space.possible_ids(listed, source, count) for image_id, listed, source in rows}


def _refuse_ignored(image_id: str, truth: np.ndarray, ids: np.ndarray, space: CommonSpace) -> None:
    """Refuses a label map with ignored pixels where the truth has labels: how to score them is unclear."""
    ignored = (space.prediction or space).classes.ignore_id
    if ids.max(initial=0) < ignored:
        return
    unlabelled = np.count_nonzero((ids == ignored) & (truth != (space.truth or space).classes.ignore_id))
    if unlabelled:
        raise BadPrediction(
            f"the label map of {image_id} is {ignored} (ignored) at {unlabelled:,} pixels that are labelled: a label "
            "map has an id at each pixel, 0 for background"
        )


def merge_scored(parts: Iterable[Scored]) -> Scored:
    """Adds parts together; what no part has stays None."""
    images: list[ImageCounts] = []
    confidence: np.ndarray | None = None
    other: list[ImageCounts] | None = None
    refused: list[str] = []
    for part in parts:
        images += part.images
        refused += part.refused
        if part.confidence is not None:
            confidence = part.confidence if confidence is None else confidence + part.confidence
        if part.other is not None:
            other = [*(other or []), *part.other]
    return Scored(images, confidence, other, tuple(refused))


def _score_row(row: LabelledRow, labeller: Labeller, space: CommonSpace) -> Scored:
    try:
        whole_truth, found = truth_and_labels(row, labeller, space)
    except BadPrediction as error:  # all are listed at once
        return Scored([], None, None, (str(error),))
    truth = space.scorable(whole_truth, found.ids, row.source)
    classes = space.classes
    matrix = confusion(truth, found.ids, len(classes), classes.ignore_id)
    boundary = boundary_counts(truth, found.ids, len(classes), classes.ignore_id)
    confidence = None
    if found.confidence is not None:
        confidence = confidence_counts(truth, found.ids, found.confidence, classes.ignore_id)
    other = None
    if found.other_ids is not None:
        other_truth = space.scorable(whole_truth, found.other_ids, row.source)
        counted = confusion(other_truth, found.other_ids, len(classes), classes.ignore_id)
        other = [ImageCounts.from_matrix(row.image_id, row.group_id, counted)]
    return Scored([ImageCounts.from_matrix(row.image_id, row.group_id, matrix, boundary)], confidence, other)


def read_subsets(paths: Sequence[str], classes: ClassTable) -> dict[str, list[int]]:
    """Reads subset files (lines `id<TAB>name`) into {file name without `_classes.txt`: ids}; scoring adds background.

    Raises:
        UserError: an id outside the label space, a name that differs from the label space's, two files of one name.
    """
    subsets: dict[str, list[int]] = {}
    for path in paths:
        named = parse_id_lines(storage.read_text(path), path)
        for index, name in named.items():
            if index >= len(classes):
                raise UserError(f"{path}: id {index} is outside the label space (0 to {len(classes) - 1})")
            if name and not same_name(classes.names[index], name):
                raise UserError(f"{path}: id {index} is {name!r} there, but {classes.names[index]!r} in the data set")
        stem = path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".txt").removesuffix(".tsv").removesuffix("_classes")
        if stem in subsets:
            raise UserError(f"{path}: another --subset file is called {stem!r} too; rename one of them")
        subsets[stem] = sorted(named)
    return subsets
