"""Lossless compression of label maps and masks between deployments, small enough to travel within a message.

Ray moves what is larger than 100 KB through its object store, which costs milliseconds. A label map of 1024 x 768 is
some 20 KB run-length encoded and 786 KB raw; fifty masks of that size take 5 MB as bits and 40 MB as bool. A region
of 200 x 200 pixels in it takes 5 KB, as it is cut to its box.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foodseg.data.regions import Box, Region
from foodseg.serve.protocols import Doubtful, Labelled, SamMask


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """n masks. bits: (n, ceil(H * W / 8)) uint8, row by row, the first pixel in the highest bit. shape: (n, H, W)."""

    bits: np.ndarray
    shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Runs:
    """A map (H, W) as runs, row by row. ends: (n,) uint32, the pixel behind each run. values: (n,) in its dtype."""

    ends: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class PackedParts:
    """n regions, each cut to its box. bits: of each, as of `PackedMasks`. shape: (H, W) of the masks."""

    labels: tuple[int, ...]
    boxes: tuple[Box, ...]
    bits: tuple[np.ndarray, ...]
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class PackedDoubtful:
    """A `Doubtful` whose regions are packed."""

    parts: PackedParts
    confidences: tuple[float, ...]
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class PackedLabels:
    """A `Labelled` whose maps are run-length encoded."""

    ids: Runs
    low_confidence: Runs | None
    confidences: dict[int, float]
    model: str
    sha: str
    doubtful: PackedDoubtful | None = None


@dataclass(frozen=True, eq=False)
class PackedRegions:
    """Masks with their scores, in the same order."""

    masks: PackedMasks
    scores: list[float]


def pack(masks: Sequence[np.ndarray]) -> PackedMasks:
    """Packs masks, (H, W) bool each, all of one size."""
    height, width = masks[0].shape if masks else (0, 0)
    bits = np.empty((len(masks), -(-height * width // 8)), np.uint8)
    for row, mask in zip(bits, masks, strict=True):
        row[:] = np.packbits(mask)
    return PackedMasks(bits, (len(masks), height, width))


def unpack(packed: PackedMasks) -> list[np.ndarray]:
    """Returns the masks, (H, W) bool each."""
    _, height, width = packed.shape
    return [np.unpackbits(row, count=height * width).reshape(height, width).view(bool) for row in packed.bits]


def pack_labels(labelled: Labelled) -> PackedLabels:
    """Packs a label map."""
    low_confidence = None if labelled.low_confidence is None else _runs(labelled.low_confidence)
    found, doubtful = labelled.doubtful, None
    if found is not None:
        doubtful = PackedDoubtful(pack_parts(found.regions, labelled.ids.shape), found.confidences, found.probabilities)
    return PackedLabels(
        _runs(labelled.ids), low_confidence, labelled.confidences, labelled.model, labelled.sha, doubtful
    )


def unpack_labels(packed: PackedLabels) -> Labelled:
    """Returns the label map."""
    low_confidence = None if packed.low_confidence is None else _map(packed.low_confidence)
    found, doubtful = packed.doubtful, None
    if found is not None:
        doubtful = Doubtful(unpack_parts(found.parts), found.confidences, found.probabilities)
    return Labelled(_map(packed.ids), low_confidence, packed.confidences, packed.model, packed.sha, doubtful)


def pack_parts(regions: Sequence[Region], shape: tuple[int, ...]) -> PackedParts:
    """Packs regions of an image of `shape` (H, W): most are a small part of it."""
    bits = tuple(np.packbits(_inside(region.mask, region.box)) for region in regions)
    labels = tuple(region.label for region in regions)
    return PackedParts(labels, tuple(region.box for region in regions), bits, (shape[0], shape[1]))


def unpack_parts(packed: PackedParts) -> list[Region]:
    """Returns the regions."""
    regions = []
    for label, box, bits in zip(packed.labels, packed.boxes, packed.bits, strict=True):
        mask = np.zeros(packed.shape, bool)
        part = _inside(mask, box)
        part[:] = np.unpackbits(bits, count=part.size).reshape(part.shape)
        regions.append(Region(label, mask, box))
    return regions


def _inside(mask: np.ndarray, box: Box) -> np.ndarray:
    return mask[box.top : box.bottom, box.left : box.right]


def _runs(values: np.ndarray) -> Runs:
    flat = values.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size).astype(np.uint32)
    return Runs(ends, flat[ends - 1], (values.shape[0], values.shape[1]))


def _map(runs: Runs) -> np.ndarray:
    return np.repeat(runs.values, np.diff(runs.ends, prepend=0)).reshape(runs.shape)


def pack_regions(masks: Sequence[SamMask]) -> PackedRegions:
    """Packs masks with their scores."""
    return PackedRegions(pack([mask.mask for mask in masks]), [mask.score for mask in masks])


def unpack_regions(packed: PackedRegions) -> list[SamMask]:
    """Returns the masks with their scores."""
    return [SamMask(mask, score) for mask, score in zip(unpack(packed.masks), packed.scores, strict=True)]
