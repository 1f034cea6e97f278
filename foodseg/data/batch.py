"""The batch that crosses processes: encoded rows with their positions in, arrays for the device out.

B pictures, K classes, S = augment.crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from foodseg.config.augment import AugmentConfig
from foodseg.data.order import TrainingOrder
from foodseg.data.shards import Manifest
from foodseg.data.transforms import make_crop

if TYPE_CHECKING:
    from foodseg.data.reader import RowReader


@dataclass(frozen=True)
class Batch:
    """What the loop gets.

    Attributes:
        image: (B, 3, S, S) uint8 RGB, channels-last strides.
        mask: (B, S, S) uint8 or uint16 ids, ignore id where unlabelled or padding.
        extent: (B, 4) int32 top, left, bottom, right of the real pixels.
        seed: (B,) int64 augmentation seeds.
        position: (B,) int64 positions in the training order.
        source: (B,) int16 index into the manifest's sources.
        ingredients: (B, K) bool, foreground ids in the crop.
        list_known: (B,) bool, whether `ingredients` says anything.
    """

    image: torch.Tensor
    mask: torch.Tensor
    extent: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor
    source: torch.Tensor
    ingredients: torch.Tensor
    list_known: torch.Tensor

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Batch":
        """Builds it from `make_batch_arrays`; memory is shared where it can be written to, else copied."""
        tensors = {field.name: torch.from_numpy(_writable(arrays[field.name])) for field in fields(cls)}
        tensors["image"] = tensors["image"].permute(0, 3, 1, 2)
        return cls(**tensors)

    def to(self, device: torch.device) -> "Batch":
        """Returns the batch on the device."""
        if device.type == "cpu":
            return self
        moved = {f.name: getattr(self, f.name).pin_memory().to(device, non_blocking=True) for f in fields(self)}
        return Batch(**moved)

    def __len__(self) -> int:
        return self.image.shape[0]


def encode_rows(reader: "RowReader", order: TrainingOrder, block: Sequence[range]) -> pa.Table:
    """Returns the still encoded rows of the positions in `block`, with columns `position` and `seed` added."""
    positions = np.concatenate([np.arange(part.start, part.stop) for part in block])
    rows = np.concatenate([order.rows(part.start, part.stop)[1] for part in block])
    seeds = np.concatenate([order.seeds(part.start, part.stop) for part in block])
    table = reader.take(rows)
    return table.append_column("position", pa.array(positions)).append_column("seed", pa.array(seeds))


def make_batch_arrays(rows: pa.Table, augment: AugmentConfig, manifest: Manifest) -> dict[str, np.ndarray]:
    """Decodes and crops encoded rows; returns the arrays of `Batch`, but for `image` (B, S, S, 3)."""
    classes = manifest.class_table
    sources = {name: index for index, name in enumerate(manifest.annotated)}
    columns = {name: rows.column(name).to_pylist() for name in ("image", "mask", "height", "width", "seed", "source")}
    count, side = rows.num_rows, augment.crop
    # written in place: a list of crops and np.stack would hold every picture twice
    arrays = {
        "image": np.empty((count, side, side, 3), np.uint8),
        "mask": np.empty((count, side, side), classes.mask_dtype),
        "extent": np.empty((count, 4), np.int32),
        "seed": np.asarray(columns["seed"], np.int64),
        "position": rows.column("position").to_numpy().astype(np.int64),
        "source": np.array([sources[name] for name in columns["source"]], np.int16),
        "ingredients": np.empty((count, len(classes)), bool),
        "list_known": np.empty(count, bool),
    }
    for i in range(count):
        crop = make_crop(
            columns["image"][i], columns["mask"][i], columns["height"][i], columns["width"][i],
            columns["seed"][i], augment, classes,
        )  # fmt: skip
        arrays["image"][i], arrays["mask"][i], arrays["extent"][i] = crop.image, crop.mask, crop.extent
        arrays["ingredients"][i], arrays["list_known"][i] = crop.ingredients, crop.list_known
    return arrays


def _writable(array: np.ndarray) -> np.ndarray:
    # Ray hands out views of shared memory that are read-only: torch has no such tensors
    return array if array.flags.writeable else array.copy()
