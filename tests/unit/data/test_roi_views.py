"""Views of a region: cut, blacked out, letterboxed, flipped together; drawn from the seed of the row."""

import cv2
import numpy as np
import pyarrow as pa
import pytest

from foodseg.config.augment import AugmentConfig
from foodseg.config.roi import RoiConfig, Views
from foodseg.data.image_io import encode_mask
from foodseg.data.regions import Box, Region
from foodseg.data.roi_views import NO_REGION, PAD_VALUE, SAM_COLUMN, make_region_arrays, region_views, row_regions
from foodseg.data.sam_masks import mask_row
from foodseg.data.shards import Manifest

CLASSES = ("background", "rice", "egg")


def manifest(annotated: tuple[int, ...] | None = None) -> Manifest:
    return Manifest.model_construct(classes=CLASSES, ignore_id=255, annotated={"a": None, "b": annotated})


def image_of(height: int, width: int) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return np.stack((10 + rows, 100 + columns, np.full_like(rows, 50)), 2).astype(np.uint8)


def region_at(height: int, width: int, box: Box) -> Region:
    mask = np.zeros((height, width), bool)
    mask[box.top : box.bottom, box.left : box.right] = True
    mask[box.top, box.left] = False  # no rectangle
    return Region(1, mask, box)


def views_of(views: Views, **settings: object) -> np.ndarray:
    """Of the region 2..4 x 3..7 of an image of 8 x 8 pixels, 8 pixels wide: nothing is resized."""
    given = {"side": 8, "margin": 0.0, **settings}
    return region_views(image_of(8, 8), region_at(8, 8, Box(2, 3, 4, 7)), views, **given)  # type: ignore[arg-type]


def test_the_context_is_the_image_with_the_region_black() -> None:
    roi, context = views_of("roi_context")
    region = region_at(8, 8, Box(2, 3, 4, 7)).mask
    np.testing.assert_array_equal(context, image_of(8, 8) * ~region[..., None])
    assert roi.shape == (8, 8, 3)


def test_the_region_is_cut_blacked_out_and_letterboxed() -> None:
    (crop,), (roi,) = views_of("crop"), views_of("roi")
    # a box of 2 x 4 pixels becomes 4 x 8, in the middle of 8 x 8
    for view in (crop, roi):
        assert (view[:2] == PAD_VALUE).all() and (view[6:] == PAD_VALUE).all()
    assert (crop[2:6] > 0).all()
    black = (roi == 0).all(2)
    assert black[2, 0] and not black[2:6, 4:].any() and not (crop == 0).any()


def test_margin_enlarges_the_box_up_to_the_image() -> None:
    # 2 x 4 by a quarter: one column at either side, and round(0.5) = 0 rows
    (crop,) = views_of("crop", margin=0.25)
    assert int((crop == PAD_VALUE).all((1, 2)).sum()) == 8 - round(8 * 2 / 6)
    (whole,) = views_of("crop", margin=2)
    # 2 - 4 rows above are none; 8 columns at either side end at the image
    assert whole.shape == (8, 8, 3) and not (whole == PAD_VALUE).all((1, 2)).any()


@pytest.mark.parametrize("views", ["crop", "roi", "roi_roi", "roi_context", "roi_other_context"])
def test_all_views_are_flipped_together(views: Views) -> None:
    plain, flipped = views_of(views), views_of(views, flip=True)
    assert plain.shape[0] == RoiConfig(views=views).view_count
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])
    if views == "roi_roi":
        np.testing.assert_array_equal(plain[0], plain[1])


def rows_of(masks: list[np.ndarray | None], seeds: list[int], **columns: list[object]) -> pa.Table:
    data = cv2.imencode(".png", image_of(16, 16)[..., ::-1])[1].tobytes()
    return pa.table(
        {
            "image": [data] * len(masks), "mask": [None if m is None else encode_mask(m) for m in masks],
            "source": ["a", "b"] * (len(masks) // 2) + ["a"] * (len(masks) % 2), "seed": seeds,
            "position": list(range(len(masks))), **columns,
        }
    )  # fmt: skip


AUGMENT = AugmentConfig(crop=16, flip=0)


def test_arrays_of_a_batch() -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[2:6, 3:9], mask[10:14, 2:6] = 1, 2
    rows = rows_of([mask, None, np.zeros_like(mask)], [5, 6, 7])
    arrays = make_region_arrays(rows, AUGMENT, RoiConfig(margin=0), manifest())
    assert arrays["label"].tolist()[1:] == [NO_REGION, NO_REGION] and arrays["label"][0] in (1, 2)
    assert arrays["views"].shape == (3, 2, 16, 16, 3) and not arrays["views"][1:].any()
    assert (arrays["source"].tolist(), arrays["position"].tolist()) == ([0, 1, 0], [0, 1, 2])
    assert all(arrays[name].dtype == np.int64 for name in ("label", "seed", "position"))


def test_the_seed_decides_class_then_region_by_size() -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[0:8, 0:6] = 1  # 48 pixels
    mask[10:13, 0:4], mask[10:14, 10:14] = 2, 2  # 12 and 16
    seeds = list(range(400))
    arrays = make_region_arrays(rows_of([mask] * 400, seeds), AUGMENT, RoiConfig(margin=0), manifest())
    rice = arrays["label"] == 1
    assert 160 < rice.sum() < 240  # a half, whatever their sizes
    contexts = arrays["views"][~rice, 1]
    wide = (contexts[:, 10:13, 0:4] == 0).all((1, 2, 3))
    assert 0.32 < wide.mean() < 0.54  # 12 / 28
    again = make_region_arrays(rows_of([mask] * 4, seeds[:4]), AUGMENT, RoiConfig(margin=0), manifest())
    np.testing.assert_array_equal(again["views"], arrays["views"][:4])


def test_both_views_are_flipped_in_training() -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[2:6, 1:5] = 1
    rows = rows_of([mask] * 2, [3, 3])
    plain, flipped = (
        make_region_arrays(rows, AugmentConfig(crop=16, flip=flip), RoiConfig(margin=0), manifest())["views"]
        for flip in (0, 1)
    )
    np.testing.assert_array_equal(flipped, plain[..., ::-1, :])


def test_regions_of_segment_anything() -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :8] = 1
    left, right = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    left[:, :4], right[:, 4:] = True, True
    kept = mask_row("x", (8, 8), [left, right], [0.9, 0.8])
    roi = RoiConfig(regions="sam")

    def labels(source: str) -> list[int]:
        row = {"mask": encode_mask(mask), "source": source, SAM_COLUMN: kept}
        return [each.label for each in row_regions(row, roi, manifest(annotated=(1,)))]

    assert labels("a") == [1, 0]
    assert labels("b") == [1]  # what its source calls background may be egg
    rows = rows_of([mask, mask], [1, 2], **{SAM_COLUMN: [kept, kept]})
    arrays = make_region_arrays(rows, AUGMENT, roi, manifest(annotated=(1,)))
    assert arrays["label"][0] in (0, 1) and arrays["label"][1] == 1
