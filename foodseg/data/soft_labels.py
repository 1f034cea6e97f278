"""Soft labels of training images: the probabilities that a teacher gives to classes, as shards next to a data set.

    <uri>/part-00000.parquet   one for each shard of the data set, with its rows in its order
    <uri>/soft_labels.json     written last: only what it lists exists

A teacher labels each image once, as a whole and as well as it can; a training cuts from it what its crop shows. The
most probable classes of each grid cell are kept, so that it makes no difference how many classes there are.

Shapes: h, w grid cells of a whole image, n classes that are kept; S pixels of a crop.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from foodseg import storage
from foodseg.data.augment.geometry import Crop
from foodseg.data.reader import ShardReader
from foodseg.data.shards import Shard, encode_shard
from foodseg.errors import MissingFile, UserError

FORMAT_VERSION = 1
FILE = "soft_labels.json"
TOP = 8  # classes of a cell that are kept; the others share far less than a hundredth
CELL = 4  # pixels of a crop, in either direction, that share a soft label
ROWS_PER_GROUP = 64  # some 4 MB

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),  # of the grid
        ("width", pa.int32()),
        ("ids", pa.binary()),  # (h, w, n) uint8, uint16 for more than 256 classes; null = the image has none
        ("scores", pa.binary()),  # (h, w, n) float16
    ]
)


@dataclass(frozen=True)
class SoftLabels:
    """The most probable classes of each grid cell of a whole image, the most probable one first.

    ids: (h, w, n) uint8 or uint16. scores: (h, w, n) float16, their probabilities, which add up to 1.
    """

    ids: np.ndarray
    scores: np.ndarray

    def to_row(self, image_id: str) -> dict[str, Any]:
        """Returns the row of SCHEMA."""
        height, width = self.ids.shape[:2]
        ids, scores = self.ids.astype(self.ids.dtype.newbyteorder("<")), self.scores.astype("<f2")
        size = {"height": height, "width": width}
        return {"image_id": image_id, **size, "ids": ids.tobytes(), "scores": scores.tobytes()}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "SoftLabels | None":
        """Returns what `to_row` made; None for an image without soft labels."""
        if row["ids"] is None:
            return None
        scores = np.frombuffer(row["scores"], "<f2").reshape(row["height"], row["width"], -1)
        ids = np.frombuffer(row["ids"], "u1" if len(row["ids"]) == scores.size else "<u2")
        return cls(ids.reshape(scores.shape), scores)

    def of_crop(self, crop: Crop, pasted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns what a crop shows of them: the cell of the image that the middle of each of its own cells is in.

        Args:
            pasted: (S, S) bool, pixels that another image was pasted on, of which nothing is known; None = none.

        Returns:
            (S / CELL, S / CELL, TOP) uint16 ids, and float16 probabilities, 0 in padding, and where nothing is known.
        """
        cells, at = len(crop.mask) // CELL, crop.placement
        _, _, bottom, right = crop.extent
        middle = CELL * (np.arange(cells) + 0.5)
        y, x = middle[middle < bottom], middle[middle < right]
        rows = self._cells(at.top + y, at.height, 0)
        columns = self._cells(at.left + (right - x if at.flip else x), at.width, 1)
        kept = self.ids.shape[2]
        ids, scores = np.zeros((cells, cells, TOP), np.uint16), np.zeros((cells, cells, TOP), np.float16)
        ids[: len(y), : len(x), :kept] = self.ids[rows[:, None], columns]
        scores[: len(y), : len(x), :kept] = self.scores[rows[:, None], columns]
        if pasted is not None:
            scores[pasted.reshape(cells, CELL, cells, CELL).any((1, 3))] = 0
        return ids, scores

    def _cells(self, pixels: np.ndarray, side: int, axis: int) -> np.ndarray:
        count = self.ids.shape[axis]
        return np.minimum((pixels / side * count).astype(np.int64), count - 1)


def encode_soft_labels(rows: Sequence[dict[str, Any]]) -> bytes:
    """Returns the shard of rows of SCHEMA."""
    groups = (list(rows[start : start + ROWS_PER_GROUP]) for start in range(0, len(rows), ROWS_PER_GROUP))
    return encode_shard(groups, SCHEMA, "zstd")


class SoftLabelReader(ShardReader):
    """Reads soft labels by the numbers of the rows that they belong to."""

    listed_in, mend = FILE, "delete its folder, and it is made again"

    def __init__(self, uri: str, shards: Sequence[Shard]) -> None:
        super().__init__(uri, shards, SCHEMA)


def write_list(uri: str, shards: Sequence[Shard]) -> None:
    """Writes the list of all shards, which makes them visible."""
    listed = [shard.model_dump(mode="json", exclude={"uri", "data_set"}) for shard in shards]
    storage.write_json(storage.join(uri, FILE), {"format_version": FORMAT_VERSION, "shards": listed})


def read_list(uri: str) -> SoftLabelReader | None:
    """Opens soft labels; None where there are none yet.

    Raises:
        UserError: their list is damaged or has another format version.
    """
    where = storage.join(uri, FILE)
    try:
        tree = json.loads(storage.read_text(where))
        if tree["format_version"] == FORMAT_VERSION:
            return SoftLabelReader(uri, [Shard.model_validate(shard) for shard in tree["shards"]])
    except MissingFile:
        return None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
    raise UserError(f"{storage.redact(where)} is damaged or of another version: {SoftLabelReader.mend}")
