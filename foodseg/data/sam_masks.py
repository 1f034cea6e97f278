"""Masks of Segment Anything that are kept beside a prepared data set, computed once by `foodseg data masks`.

    <uri>/sam-masks/masks.json                     written last: only what it lists exists
    <uri>/sam-masks/<identity>/part-00000.parquet  image_id, size of the masks, COCO's RLE and predicted IoU of each

    kept = read_kept_masks("prepared/meals")
    kept.masks("lunch__0001")                      # n x (h, w) bool

Shape letters: h, w of the masks, those of the image up to `MASK_SIDE` pixels; n masks.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco_mask
from pydantic import BaseModel, ConfigDict, ValidationError

from foodseg import storage
from foodseg.data.reader import ShardReader
from foodseg.data.shards import Manifest, Shard, encode_shard
from foodseg.errors import MissingFile, UserError

FORMAT_VERSION = 1
FOLDER, FILE = "sam-masks", "masks.json"
MASK_SIDE = 1024  # pixels of the longer side at which masks are found, as many as the encoder sees

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("counts", pa.list_(pa.binary())),  # of COCO's compressed RLE, the mask rated best first
        ("scores", pa.list_(pa.float32())),  # IoU with the true region as SAM predicts it
    ]
)


class MaskSet(BaseModel):
    """What is known of all kept masks; the content of FILE.

    data: identity of the data set. sam: architecture and sha256 of the weights. grid: settings of `MaskGrid`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    data: str
    sam: str
    grid: dict[str, float]
    folder: str
    shards: tuple[Shard, ...]


def mask_row(
    image_id: str, size: tuple[int, int], masks: Sequence[np.ndarray], scores: Sequence[float]
) -> dict[str, Any]:
    """Returns the row of SCHEMA of an image; masks (h, w) bool, of `size`."""
    counts = [coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))["counts"] for mask in masks]
    return {"image_id": image_id, "height": size[0], "width": size[1], "counts": counts, "scores": list(scores)}


def masks_of_row(row: dict[str, Any]) -> list[np.ndarray]:
    """Returns what `mask_row` was given."""
    size = [row["height"], row["width"]]
    return [coco_mask.decode({"size": size, "counts": counts}).astype(bool) for counts in row["counts"]]


def encode_mask_rows(rows: Sequence[dict[str, Any]]) -> bytes:
    """Returns the shard of rows of SCHEMA, a row group each, since one image is read at a time."""
    return encode_shard(([row] for row in rows), SCHEMA, "zstd")


class KeptMasks(ShardReader):
    """Reads the masks of single images; cheap to pickle."""

    listed_in, mend = FILE, "make the masks again with `foodseg data masks --overwrite`"

    def __init__(self, uri: str, listed: MaskSet) -> None:
        super().__init__(storage.join(uri, FOLDER), listed.shards, SCHEMA)
        self.listed = listed
        self._rows: dict[str, int] | None = None

    @property
    def identity(self) -> str:
        """Names what made the masks, for scores that depend on them."""
        text = json.dumps([self.listed.sam, self.listed.grid], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def of_images(self, image_ids: Sequence[str]) -> pa.Table:
        """Returns the rows of SCHEMA of these images, in their order. UserError: there are none of an image."""
        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(self.column("image_id").to_pylist())}
        absent = next((name for name in image_ids if name not in self._rows), None)
        if absent is not None:
            raise UserError(f"{storage.redact(self.uri)} has no masks of {absent!r}: {self.mend}")
        return self.take([self._rows[name] for name in image_ids], SCHEMA.names)

    def masks(self, image_id: str) -> list[np.ndarray]:
        """Returns n x (h, w) bool of an image, the mask rated best first.

        Raises:
            UserError: there are none of this image.
        """
        (row,) = self.of_images([image_id]).to_pylist()
        return masks_of_row(row)


def read_kept_masks(uri: str, manifest: Manifest) -> KeptMasks:
    """Opens the masks beside a data set.

    Raises:
        UserError: there are none, they are of another generation of the data, or their list is damaged.
    """
    where = storage.join(uri, FOLDER, FILE)
    shown = storage.redact(uri)
    try:
        listed = MaskSet.model_validate_json(storage.read_text(where))
    except MissingFile:
        raise UserError(
            f"{shown} has no masks of Segment Anything beside it: make them with `foodseg data masks {shown} --sam "
            "FILE`, or name the weights with --sam"
        ) from None
    except ValidationError:
        raise UserError(f"{storage.redact(where)} is damaged or of another version: {KeptMasks.mend}") from None
    if listed.data != manifest.identity:
        raise UserError(
            f"the masks beside {shown} are of {listed.data}, and it holds {manifest.identity}: {KeptMasks.mend}"
        )
    return KeptMasks(uri, listed)
