"""A prediction in the forms of other tools, worked out by hand on a small label map."""

import io
import json
import sys

import numpy as np
import pytest
import supervision
from PIL import Image
from pycocotools import mask as coco_api

from foodseg.errors import UserError
from foodseg.predict.prediction import Prediction, to_coco

CLASSES = ("background", "rice", "peas", "egg")
IDS = np.array([[0, 1, 1, 1], [3, 1, 0, 0], [3, 0, 0, 0]], np.uint8)
CONFIDENCE = np.where(IDS == 1, 65535, 32768).astype(np.uint16)


def prediction(ids: np.ndarray = IDS, source: str | None = "s3://bucket/lunch.jpg", **changes: object) -> Prediction:
    values = {
        "source": source, "image": np.full((*ids.shape, 3), 200, np.uint8), "ids": ids,
        "confidence_16bit": CONFIDENCE[: ids.shape[0], : ids.shape[1]], "classes": CLASSES,
        "ingredients_from": "vocabulary", "conditioning": None, "calibrated": False, "temperature": 1.0,
    }  # fmt: skip
    return Prediction(**{**values, **changes})  # type: ignore[arg-type]


def test_confidence_is_in_0_to_1() -> None:
    found = prediction().confidence
    assert found.dtype == np.float32 and found.shape == IDS.shape
    assert found[0, 1] == 1 and found[1, 0] == pytest.approx(0.5, abs=1e-4)


def test_the_overlay_keeps_the_image_in_its_corner() -> None:
    shown = np.asarray(prediction().overlay(opacity=1.0))
    assert shown.dtype == np.uint8 and shown.shape[0] >= 3 and shown.shape[1] >= 4
    assert (shown[1, 2] == 200).all() and not (shown[0, 1] == 200).all()
    with pytest.raises(UserError, match=r"opacity must be in 0\.\.1"):
        prediction().overlay(opacity=2)


def test_a_notebook_shows_the_overlay() -> None:
    shown = Image.open(io.BytesIO(prediction()._repr_png_()))
    assert shown.format == "PNG"
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(prediction().overlay()))


def test_coco_by_hand() -> None:
    document = json.loads(json.dumps(prediction().to_coco()))
    assert document["images"] == [{"id": 1, "file_name": "lunch.jpg", "height": 3, "width": 4}]
    assert document["categories"] == [{"id": 1, "name": "rice"}, {"id": 2, "name": "peas"}, {"id": 3, "name": "egg"}]
    rice, egg = document["annotations"]
    assert (rice["id"], rice["image_id"], rice["category_id"], rice["area"], rice["bbox"]) == (1, 1, 1, 4, [1, 0, 3, 2])
    assert (egg["id"], egg["category_id"], egg["area"], egg["bbox"], egg["iscrowd"]) == (2, 3, 2, [0, 1, 1, 2], 0)
    assert rice["score"] == 1 and egg["score"] == pytest.approx(0.5, abs=1e-4)
    np.testing.assert_array_equal(coco_api.decode(egg["segmentation"]), IDS == 3)


def test_several_predictions_are_one_document() -> None:
    empty = np.zeros((3, 4), np.uint8)
    document = to_coco([prediction(), prediction(empty, None), prediction(source="dinner.png")])
    assert [(image["id"], image["file_name"]) for image in document["images"]] == [
        (1, "lunch.jpg"), (2, "image-2"), (3, "dinner.png"),
    ]  # fmt: skip
    assert [(each["id"], each["image_id"]) for each in document["annotations"]] == [(1, 1), (2, 1), (3, 3), (4, 3)]


def test_what_cannot_be_one_document_is_refused() -> None:
    with pytest.raises(UserError, match="there is no prediction to export"):
        to_coco([])
    with pytest.raises(UserError, match="the predictions have different classes"):
        to_coco([prediction(), prediction(classes=(*CLASSES, "tofu"))])


def test_supervision_has_the_same_masks_classes_and_confidences() -> None:
    found = prediction().to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 2
    assert found.mask is not None and found.mask.dtype == bool
    np.testing.assert_array_equal(found.mask, np.stack([IDS == 1, IDS == 3]))
    assert found.class_id is not None and found.class_id.tolist() == [1, 3]
    assert found["class_name"].tolist() == ["rice", "egg"]
    assert found.confidence is not None and found.confidence.tolist() == pytest.approx([1, 0.5], abs=1e-4)
    assert found.xyxy.tolist() == [[1, 0, 3, 1], [0, 1, 0, 2]]  # supervision's own convention: the last pixel
    assert found.area.tolist() == [4, 2]
    drawn = supervision.MaskAnnotator().annotate(np.full((3, 4, 3), 200, np.uint8), found)
    assert (drawn[2, 3] == 200).all() and not (drawn[0, 1] == 200).all()


def test_an_image_without_food_has_no_detections() -> None:
    found = prediction(np.zeros((3, 4), np.uint8))
    assert len(found.to_supervision()) == 0 and found.to_coco()["annotations"] == []
    assert "no ingredient found" in repr(found)


def test_supervision_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match=r"^to_supervision needs supervision: pip install 'foodseg\[supervision\]'$"):
        prediction().to_supervision()


def test_a_single_one_is_no_list() -> None:
    with pytest.raises(UserError, match=r"takes a list of predictions; of one it is prediction\.to_coco\(\)$"):
        to_coco(prediction())  # type: ignore[arg-type]


def test_repr_names_the_largest() -> None:
    assert repr(prediction()) == "Prediction(s3://bucket/lunch.jpg, 4 x 3 pixels: rice 67 %, egg 33 %)"
    assert repr(prediction(source=None)).startswith("Prediction(an array, 4 x 3 pixels: ")
