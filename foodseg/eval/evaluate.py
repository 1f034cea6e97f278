"""Scores a model or anybody's label maps on rows of a prepared data set, at each mask's own resolution.

Every picture gives one confusion matrix of whole numbers; whoever scored which rows, the sum is the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from foodseg import storage
from foodseg.classes import ClassTable, parse_id_lines
from foodseg.data.reader import RowReader
from foodseg.data.sample import decode_mask
from foodseg.errors import UserError
from foodseg.eval.pictures import PictureCounts
from foodseg.metrics import confusion

ROWS_AT_ONCE = 16  # how many encoded pictures are in memory at a time

Labeller = Callable[[str, bytes, tuple[int, int]], np.ndarray]
"""(image_id, encoded picture, (height, width)) -> (height, width) ids."""


def chunks(rows: Sequence[int], size: int = ROWS_AT_ONCE) -> list[list[int]]:
    """Cuts row numbers into lists of at most `size` that hold every row exactly once."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def score_rows(reader: RowReader, rows: Sequence[int], labeller: Labeller, classes: ClassTable) -> list[PictureCounts]:
    """Labels the rows and counts them against their masks; rows without a mask are left out."""
    table = reader.take(rows, ["image_id", "image", "mask", "height", "width", "group_id"])
    return [
        PictureCounts.from_matrix(row["image_id"], row["group_id"], score_row(row, labeller, classes))
        for row in _rows(table)
        if row["mask"] is not None
    ]


def score_share(
    reader: RowReader, labeller: Labeller, classes: ClassTable, rank: int = 0, world_size: int = 1
) -> Iterator[PictureCounts]:
    """Yields the counts of every `world_size`-th chunk of the reader's rows, from chunk `rank` on."""
    for rows in chunks(range(len(reader)))[rank::world_size]:
        yield from score_rows(reader, rows, labeller, classes)


def score_row(row: dict, labeller: Labeller, classes: ClassTable) -> np.ndarray:
    """Returns the (K, K) confusion matrix of one labelled row."""
    truth = decode_mask(row["mask"])
    prediction = labeller(row["image_id"], row["image"], truth.shape)
    return confusion(truth, prediction, len(classes), classes.ignore_id)


def _rows(table: pa.Table) -> Iterator[dict]:
    for index in range(table.num_rows):
        yield table.slice(index, 1).to_pylist()[0]


@dataclass(frozen=True)
class PredictionFolder:
    """Anybody's label maps: `<uri>/<image_id>.png`, one channel of ids, of the mask's own size."""

    uri: str
    classes: ClassTable

    def __call__(self, image_id: str, image: bytes, size: tuple[int, int]) -> np.ndarray:
        """Reads the label map of a picture.

        Raises:
            UserError: it is missing or no label map, has another size, or holds an id outside the label space.
        """
        where = storage.join(self.uri, f"{image_id}.png")
        if not storage.exists(where):
            raise UserError(
                f"--predictions: {storage.redact(where)} is missing; "
                "every labelled picture of the split needs its label map"
            )
        try:
            ids = decode_mask(storage.read_bytes(where))
        except UserError as error:
            raise UserError(f"--predictions: {storage.redact(where)}: {error}") from None
        if ids.shape != tuple(size):
            raise UserError(
                f"--predictions: {storage.redact(where)} is {ids.shape[1]} x {ids.shape[0]} pixels, "
                f"its mask {size[1]} x {size[0]}"
            )
        strange = ids[(ids >= len(self.classes)) & (ids != self.classes.ignore_id)]
        if len(strange):
            raise UserError(
                f"--predictions: {storage.redact(where)} holds id {strange[0]}, "
                f"the label space goes to {len(self.classes) - 1}"
            )
        return ids


def read_subsets(paths: Sequence[str], classes: ClassTable) -> dict[str, list[int]]:
    """Reads subset files (lines `id<TAB>name`) into {file name without `_classes.txt`: ids}; scoring adds background.

    Raises:
        UserError: an id outside the label space, or a name that differs from the label space's.
    """
    subsets = {}
    for path in paths:
        named = parse_id_lines(storage.read_text(path), path)
        for index, name in named.items():
            if index >= len(classes):
                raise UserError(f"{path}: id {index} is outside the label space (0 to {len(classes) - 1})")
            if name and classes.names[index] != name:
                raise UserError(f"{path}: id {index} is {name!r} there, but {classes.names[index]!r} in the data set")
        stem = path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".txt").removesuffix(".tsv").removesuffix("_classes")
        subsets[stem] = sorted(named)
    return subsets
