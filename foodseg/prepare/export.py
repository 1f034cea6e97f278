"""Writes a data set for other tools: as COCO, from its source or from its prepared shards.

export_data_set("my/meals", "meals-coco")
export_data_set("prepared/meals", "meals-coco")  # with its val, and mapped ids after `data map`
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from foodseg import storage
from foodseg.annotations.coco_export import LabelledImage, export_coco, no_mask
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.errors import UserError
from foodseg.prepare.destination import check_destination
from foodseg.prepare.formats.detect import Format, absolute_source, list_source

ROWS_AT_ONCE = 64  # of a prepared data set


@dataclass(frozen=True)
class ExportedData:
    """What was written: images by split, and how many categories, which are the classes without background."""

    splits: dict[str, int]
    categories: int


def export_data_set(src: str, dst: str, format: Format = "auto") -> ExportedData:
    """Writes a data set as COCO: `images/` and `annotations/instances_<split>.json`.

    Args:
        src: a prepared data set, or one in a format that `data prepare` reads. dst: a folder or URI that is new.
        format: layout of a source; "auto" = detected by the names of its files.

    Raises:
        UserError: `dst` holds files or is inside `src`; `src` is in no known format; an image without mask, or a mask
            with ignored pixels, which COCO cannot express. RetryLater: the storage does not answer.
    """
    src = absolute_source(src)
    check_destination(src, dst)
    if storage.list_names(dst):
        raise UserError(f"DST {storage.redact(dst)} is not empty: name a folder that is new, nothing is replaced")
    records: list[LabelledImage]
    if not storage.is_hub(src) and storage.exists(storage.join(src, "dataset.json")):
        classes = read_manifest(src).class_table
        records = list(_prepared_images(src))
    else:
        listing = list_source(src, format)
        records, classes = list(listing.records), listing.classes
    export_coco(records, classes, dst)
    return ExportedData(dict(Counter(record.split for record in records)), len(classes) - 1)


class _Rows:
    """Images and masks of a split, read by several rows: a row alone costs as much as its whole row group."""

    def __init__(self, reader: RowReader) -> None:
        self._reader = reader
        self._start, self._read = 0, pa.table({"image": [], "mask": []})

    def cell(self, row: int, column: str) -> bytes | None:
        if not self._start <= row < self._start + self._read.num_rows:
            self._start = row - row % ROWS_AT_ONCE
            rows = range(self._start, min(self._start + ROWS_AT_ONCE, len(self._reader)))
            self._read = self._reader.take(rows, ["image", "mask"])
        value: bytes | None = self._read.column(column)[row - self._start].as_py()
        return value


@dataclass(frozen=True)
class _Image:
    """The image of a row."""

    rows: _Rows
    row: int

    def read(self) -> bytes:
        return self.rows.cell(self.row, "image") or b""


@dataclass(frozen=True)
class _Mask:
    """The mask of a row."""

    rows: _Rows
    row: int
    image_id: str

    def read(self) -> np.ndarray:
        data = self.rows.cell(self.row, "mask")
        if data is None:
            raise no_mask(self.image_id)
        return decode_mask(data)


@dataclass(frozen=True)
class _PreparedImage:
    """A row of a prepared data set."""

    image_id: str
    split: str
    image: _Image
    mask: _Mask


def _prepared_images(uri: str) -> Iterator[_PreparedImage]:
    manifest = read_manifest(uri)
    for split in manifest.counts:
        reader = RowReader(uri, manifest, [split])
        rows = _Rows(reader)
        for row, image_id in enumerate(reader.column("image_id").to_pylist()):
            yield _PreparedImage(image_id, split, _Image(rows, row), _Mask(rows, row, image_id))
