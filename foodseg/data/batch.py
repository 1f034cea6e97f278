"""The batch that the training loop gets, and how one process without Ray makes it.

B images, K classes, S = augment.crop.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import torch

from foodseg.config import ExperimentConfig
from foodseg.config.augment import AugmentConfig
from foodseg.config.roi import RoiConfig
from foodseg.data.decode import decode_rows, encode_rows
from foodseg.data.decode_ring import DecodeRing
from foodseg.data.device_copy import to_device
from foodseg.data.reader import RowReader
from foodseg.data.sampler import TrainingOrder
from foodseg.data.shards import Manifest


@dataclass(frozen=True)
class Batch:
    """What the loop gets. `image`, `mask`, `extent` and soft labels go to a GPU; the rest decides what happens there.

    Attributes:
        image: (B, 3, S, S) uint8 RGB, channels-last strides.
        mask: (B, S, S) uint8 or uint16 ids, ignore id where unlabelled or padding.
        extent: (B, 4) int32 top, left, bottom, right of the real pixels.
        seed: (B,) int64 augmentation seeds.
        position: (B,) int64 positions in the training order.
        source: (B,) int16 index into the manifest's sources.
        ingredients: (B, K) bool, foreground ids in the crop.
        ingredients_known: (B,) bool, False where `ingredients` is unknown, since there is no mask.
        soft_ids, soft_scores: (B, S / 4, S / 4, n) uint16 and float16, what a teacher says of each cell, as in
            `SoftLabels.of_crop`; None without a teacher.
    """

    image: torch.Tensor
    mask: torch.Tensor
    extent: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor
    source: torch.Tensor
    ingredients: torch.Tensor
    ingredients_known: torch.Tensor
    soft_ids: torch.Tensor | None = None
    soft_scores: torch.Tensor | None = None

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Batch":
        """Builds it from `make_batch_arrays`; writable memory is shared, else copied."""
        given = [field.name for field in fields(cls) if field.name in arrays]
        tensors = {name: torch.from_numpy(_writable(arrays[name])) for name in given}
        tensors["image"] = tensors["image"].permute(0, 3, 1, 2)
        return cls(**tensors)

    def to(self, device: torch.device) -> "Batch":
        """Returns the batch with image, mask, extent and soft labels on the device.

        The rest stays on the CPU: seeds and the classes on the crops are read there, for which the CPU would wait.
        """
        if device.type == "cpu":
            return self
        names = ("image", "mask", "extent", "soft_ids", "soft_scores")
        moved = {name: to_device(getattr(self, name), device) for name in names if getattr(self, name) is not None}
        return replace(self, **moved)

    def __len__(self) -> int:
        return self.image.shape[0]


@dataclass(frozen=True)
class RegionBatch:
    """What the loop gets where regions are classified, one of each image.

    Attributes:
        views: (B, V, 3, S, S) uint8 RGB.
        label: (B,) int64 ids, NO_REGION for an image without a region.
        seed, position, source: as in `Batch`.
    """

    views: torch.Tensor
    label: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor
    source: torch.Tensor

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "RegionBatch":
        """Builds it from `make_region_arrays`; writable memory is shared, else copied."""
        tensors = {field.name: torch.from_numpy(_writable(arrays[field.name])) for field in fields(cls)}
        tensors["views"] = tensors["views"].permute(0, 1, 4, 2, 3)
        return cls(**tensors)

    def to(self, device: torch.device) -> "RegionBatch":
        """Returns the batch with views and labels on the device."""
        if device.type == "cpu":
            return self
        return replace(self, views=to_device(self.views, device), label=to_device(self.label, device))

    def __len__(self) -> int:
        return self.views.shape[0]


AnyBatch = Batch | RegionBatch


def batch_of(arrays: dict[str, np.ndarray]) -> AnyBatch:
    """Builds the batch that these arrays are of."""
    return RegionBatch.from_arrays(arrays) if "views" in arrays else Batch.from_arrays(arrays)


def read_batches(
    reader: RowReader,
    order: TrainingOrder,
    augment: AugmentConfig,
    manifest: Manifest,
    blocks: Sequence[Sequence[range]],
    micro_batch: int,
    roi: RoiConfig | None = None,
) -> Iterator[AnyBatch]:
    """Yields the batches of one rank without Ray; the next block is decoded while this one is trained on.

    Args:
        blocks: this rank's position ranges per step (`sampler.rank_blocks`), each a whole number of micro-batches.
        roi: where regions are learned.
    """

    def load(block: Sequence[range]) -> list[dict[str, np.ndarray]]:
        rows = encode_rows(reader, order, block)
        return [decode_rows(part, augment, manifest, roi) for part in _slices(rows, micro_batch)]

    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = [pool.submit(load, block) for block in blocks[:2]]
        for index in range(len(blocks)):
            ready = pending.pop(0).result()
            if index + 2 < len(blocks):
                pending.append(pool.submit(load, blocks[index + 2]))
            yield from (batch_of(arrays) for arrays in ready)


def decoded_batches(
    blocks: Iterable[pa.Table], config: ExperimentConfig, manifest: Manifest, micro_batch: int, hold: int
) -> Iterator[AnyBatch]:
    """Yields the micro-batches of encoded blocks, decoded where `data.decode_processes` says.

    Args:
        micro_batch, hold: as for `DecodeRing`.
    """
    if config.decoders == 0:
        for block in blocks:
            for start in range(0, block.num_rows, micro_batch):
                yield batch_of(decode_rows(block.slice(start, micro_batch), config.augment, manifest, config.regions))
        return
    with DecodeRing(config.augment, manifest, config.regions, processes=config.decoders, hold=hold) as ring:
        yield from (batch_of(arrays) for arrays in ring.batches(blocks, micro_batch))


def _slices(table: pa.Table, size: int) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, size):
        yield table.slice(start, size)


def _writable(array: np.ndarray) -> np.ndarray:
    # Ray returns read-only views of shared memory, which torch tensors cannot be
    return array if array.flags.writeable else array.copy()
