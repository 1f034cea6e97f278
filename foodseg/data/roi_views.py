"""What a region classifier is shown: the region alone, and the image without it.

    views = region_views(image, region, "roi_context", side=224, margin=0.25)   # (2, 224, 224, 3)

All views of a region are flipped alike, and later jittered alike: the published code flips them apart, so that the
context does not fit. They keep their aspect, on mid grey, as there (RveRNet, Jin, 2024).

Shape letters: H, W of the image; V views of S x S pixels; B images.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from foodseg.config.augment import AugmentConfig
from foodseg.config.roi import RoiConfig, Views
from foodseg.data.image_io import decode_image, decode_mask, fit_longest, resize_image
from foodseg.data.regions import Box, Region, labelled_masks, true_regions
from foodseg.data.rng import RandomStream, generator
from foodseg.data.sam_masks import masks_of_row
from foodseg.data.shards import Manifest

NO_REGION = -1  # label of an image without one: nothing is learned from it
PAD_VALUE = 125  # mid grey, as published
SAM_COLUMN = "sam_masks"  # of encoded rows, where regions are those of Segment Anything


def region_views(
    image: np.ndarray, region: Region, views: Views, *, side: int, margin: float, flip: bool = False
) -> np.ndarray:
    """Cuts the views of a region out of its image.

    Args:
        image: (H, W, 3) uint8 RGB. region: of this image.
        views: as `roi.views`; the second one of roi_other_context is that of roi_context, until it is exchanged.
        margin: as `roi.margin`. flip: mirror all of them.

    Returns:
        (V, S, S, 3) uint8, S = `side`.
    """
    found = []
    if views == "crop":
        found.append(_cut(image, _enlarged(region.box, margin, image.shape)))
    else:
        box = _enlarged(region.box, margin, image.shape)
        found.append(_cut(image, box) * _cut(region.mask, box)[..., None])
    if views == "roi_roi":
        found.append(found[0])
    elif views in ("roi_context", "roi_other_context"):
        found.append(image * ~region.mask[..., None])
    shown = np.stack([_letterboxed(each, side) for each in found])
    return shown[:, :, ::-1] if flip else shown


def row_regions(row: dict[str, object], roi: RoiConfig, manifest: Manifest) -> list[Region]:
    """Returns the regions of a row with a mask; with `roi.regions` = sam it has SAM_COLUMN.

    Args:
        row: image_id, mask, source, SAM_COLUMN.
    """
    assert isinstance(row["mask"], bytes)
    truth = decode_mask(row["mask"])
    if roi.regions == "truth":
        return true_regions(truth, manifest.class_table, least_share=roi.least_share)
    kept = row[SAM_COLUMN]
    assert isinstance(kept, dict)
    annotated = manifest.annotated[str(row["source"])]
    return labelled_masks(masks_of_row(kept), truth, manifest.class_table, annotated, least_share=roi.least_share)


def make_region_arrays(
    rows: pa.Table,
    augment: AugmentConfig,
    roi: RoiConfig,
    manifest: Manifest,
    into: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Decodes rows and draws a region of each; returns the arrays of `RegionBatch`, with `views` as (B, V, S, S, 3).

    A class of the image is drawn uniformly, then one of its regions by size, from the row's seed.
    """
    sources = {name: index for index, name in enumerate(manifest.annotated)}
    count, side = rows.num_rows, augment.crop
    arrays = {
        "views": np.zeros((count, roi.view_count, side, side, 3), np.uint8),
        "label": np.full(count, NO_REGION, np.int64),
        "seed": rows.column("seed").to_numpy().astype(np.int64),
        "position": rows.column("position").to_numpy().astype(np.int64),
        "source": np.array([sources[name] for name in rows.column("source").to_pylist()], np.int16),
    }
    arrays = filled_later(arrays, into)
    names = [name for name in ("image", "mask", "source", SAM_COLUMN) if name in rows.column_names]
    for index, row in enumerate(rows.select(names).to_pylist()):
        regions = [] if row["mask"] is None else row_regions(row, roi, manifest)
        if regions:
            rng = generator(int(arrays["seed"][index]), RandomStream.REGION)
            region = _drawn(regions, rng)
            margin, flip = rng.uniform(0, 2 * roi.margin), rng.uniform() < augment.flip
            image = decode_image(row["image"])
            arrays["views"][index] = region_views(image, region, roi.views, side=side, margin=margin, flip=flip)
            arrays["label"][index] = region.label
    return arrays


def filled_later(arrays: dict[str, np.ndarray], into: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Returns `into` with what the arrays hold already, or the arrays themselves; images and masks come later."""
    if into is None:
        return arrays
    for name, array in arrays.items():
        if name not in ("image", "mask"):
            into[name][...] = array
    return dict(into)


def _drawn(regions: list[Region], rng: np.random.Generator) -> Region:
    label = rng.choice(sorted({region.label for region in regions}))
    own = [region for region in regions if region.label == label]
    sizes = np.array([np.count_nonzero(region.mask) for region in own], np.float64)
    return own[rng.choice(len(own), p=sizes / sizes.sum())]


def _enlarged(box: Box, margin: float, shape: tuple[int, ...]) -> Box:
    down, across = round(margin * (box.bottom - box.top)), round(margin * (box.right - box.left))
    return Box(
        max(0, box.top - down), max(0, box.left - across),
        min(shape[0], box.bottom + down), min(shape[1], box.right + across),
    )  # fmt: skip


def _cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    return pixels[box.top : box.bottom, box.left : box.right]


def _letterboxed(image: np.ndarray, side: int) -> np.ndarray:
    """Returns (side, side, 3): the image with its longer side at `side`, in the middle."""
    height, width = fit_longest(image.shape[0], image.shape[1], side)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), PAD_VALUE, np.uint8)
    square[top : top + height, left : left + width] = resize_image(np.ascontiguousarray(image), height, width)
    return square
