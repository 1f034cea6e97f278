"""Masks that a user has: one region for each value of a PNG, and every form of JSON; what is wrong is said."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from foodseg.errors import UserError
from foodseg.predict.given_masks import MOST, masks_file, masks_of_map, parse_masks, read_masks, require_masks

SIZE = (4, 6)
FIRST, SECOND = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
FIRST[:2, :3] = True
SECOND[1:3, 2:5] = True  # overlaps the first
POLYGONS = [[0, 0, 3, 0, 3, 2, 0, 2]], [[2, 1, 5, 1, 5, 3, 2, 3]]  # their corners, x and y in turn


def compressed(mask: np.ndarray) -> dict[str, Any]:
    found = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": list(mask.shape), "counts": found["counts"].decode()}


def runs(mask: np.ndarray) -> dict[str, Any]:
    """Runs down the columns, of 0 first, by hand."""
    flat, counts, value = mask.ravel(order="F"), [0], False
    for each in flat.tolist():
        if each != value:
            counts.append(0)
            value = each
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def sam(mask: np.ndarray) -> dict[str, Any]:
    """As `SamAutomaticMaskGenerator` writes it with output_mode = coco_rle."""
    return {
        "segmentation": compressed(mask), "area": int(mask.sum()), "bbox": [0, 0, 3, 2], "predicted_iou": 0.9,
        "point_coords": [[1.0, 1.0]], "stability_score": 0.95, "crop_box": [0, 0, 6, 4],
    }  # fmt: skip


def document(*segmentations: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "lunch.jpg", "height": 4, "width": 6}],
        "categories": [{"id": 1, "name": "food"}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": each}
            for number, each in enumerate(segmentations)
        ],
    }


@pytest.mark.parametrize(
    "value",
    [
        [compressed(FIRST), compressed(SECOND)],
        [runs(FIRST), runs(SECOND)],
        [*POLYGONS],
        [sam(FIRST), sam(SECOND)],
        document(compressed(FIRST), POLYGONS[1]),
        document(runs(FIRST), compressed(SECOND)),
        {"annotations": [{"segmentation": compressed(FIRST)}, {"segmentation": compressed(SECOND)}]},
    ],
    ids=["compressed", "runs", "polygons", "sam", "coco", "coco-rle", "no-images"],
)
def test_every_form_of_json(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "lunch.json"
    path.write_text(json.dumps(value))
    for found in (parse_masks(value, SIZE), read_masks(str(path), SIZE)):
        assert [each.dtype for each in found] == [np.dtype(bool)] * 2
        np.testing.assert_array_equal(found, [FIRST, SECOND])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_has_a_region_for_each_value(dtype: type, tmp_path: Path) -> None:
    ids = np.zeros(SIZE, dtype)
    ids[FIRST], ids[3, 5], ids[3, :2] = 200, 7, 7  # one region of two parts
    cv2.imwrite(str(tmp_path / "m.png"), ids)
    found = read_masks(str(tmp_path / "m.png"), SIZE)
    np.testing.assert_array_equal(found, [ids == 7, FIRST])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "found 0 masks, and 1 to 1,000 are read: give at least one segmentation"),
        (document(), "found 0 masks, and 1 to 1,000 are read: give at least one segmentation"),
        ([POLYGONS[0]] * (MOST + 1), "found 1,001 masks, and 1 to 1,000 are read"),
        ({"masks": []}, r"masks are a list of segmentations \(RLE or polygons\), or a COCO document"),
        ("lunch", r"masks are a list of segmentations \(RLE or polygons\), or a COCO document"),
        ({**document(POLYGONS[0]), "images": [{"id": 1}, {"id": 2}]}, "the document is of 2 images: give one file for"),
        ([POLYGONS[0], compressed(np.zeros(SIZE, bool))], "mask 1 has no pixel"),
        ([POLYGONS[0], compressed(np.ones((3, 3), bool))], r"mask 1: .*3"),
        ([POLYGONS[0], None], "mask 1: `segmentation` is neither a list of polygons nor an RLE"),
        ([{"segmentation": []}], "mask 0: `segmentation` is empty"),
        ([{"area": 3}], "mask 0: `segmentation` is neither a list of polygons nor an RLE"),
    ],
)
def test_json_that_says_nothing(value: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        parse_masks(value, SIZE)
    path = tmp_path / "lunch.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=f"^{path}: {said}"):
        read_masks(str(path), SIZE)


@pytest.mark.parametrize("content", [b"no json", b"", b"\xff\xfe{"])
def test_a_file_that_is_no_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lunch.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} is not JSON: "):
        read_masks(str(path), SIZE)


def test_a_file_that_is_no_png(tmp_path: Path) -> None:
    path = tmp_path / "lunch.png"
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=f"^{path}: "):
        read_masks(str(path), SIZE)


def test_maps_of_another_size_or_with_too_few_or_many_values() -> None:
    with pytest.raises(UserError, match=r"^it has 6 x 4 pixels, and the image 6 x 5$"):
        masks_of_map(np.ones(SIZE, np.uint8), (5, 6))
    with pytest.raises(UserError, match="found 0 masks, and 1 to 1,000 are read: a PNG of masks has one value for"):
        masks_of_map(np.zeros(SIZE, np.uint8), SIZE)
    many = np.arange(1, MOST + 2, dtype=np.uint16)[None]
    with pytest.raises(UserError, match="found 1,001 masks"):
        masks_of_map(many, (1, MOST + 1))
    assert len(masks_of_map(many[:, 1:], (1, MOST))) == MOST


def test_arrays_of_a_caller() -> None:
    found = require_masks([FIRST.astype(np.uint8), SECOND.tolist()], SIZE)  # type: ignore[list-item]
    np.testing.assert_array_equal(found, [FIRST, SECOND])
    assert all(each.dtype == bool for each in found)
    with pytest.raises(UserError, match=r"masks\[1\] has shape \(6, 4\), and the image \(4, 6\) \(height, width\)"):
        require_masks([FIRST, SECOND.T], SIZE)
    with pytest.raises(UserError, match=r"masks\[0\] has no pixel"):
        require_masks([np.zeros(SIZE)], SIZE)
    with pytest.raises(UserError, match="found 0 masks"):
        require_masks([], SIZE)


def test_the_file_of_an_image(tmp_path: Path) -> None:
    assert masks_file("any.PNG", "lunch.jpg") == "any.PNG" and masks_file("s3://b/m.json", "x.jpg") == "s3://b/m.json"
    folder = str(tmp_path)
    for name in ("lunch.png", "dinner.json", "both.png", "both.json"):
        (tmp_path / name).touch()
    assert masks_file(folder, "a/lunch.jpg") == f"{folder}/lunch.png"
    assert masks_file(folder, "dinner.webp") == f"{folder}/dinner.json"
    with pytest.raises(UserError, match=f"{folder} has both a PNG and a JSON of both.jpg: name one both.png"):
        masks_file(folder, "both.jpg")
    with pytest.raises(UserError, match=f"{folder} has no PNG or JSON of tea.jpg: name one tea.png"):
        masks_file(folder, "tea.jpg")
