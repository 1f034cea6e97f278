"""Masks of requests: every form at the image's own size, what is refused, and what the models get to see."""

import json
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from foodseg.data.image_io import encode_mask
from foodseg.data.regions import Box
from foodseg.serve.http import region_codec
from foodseg.serve.http.region_codec import read_masks
from foodseg.serve.http.schema import ApiError

SIZE = (40, 60)
MASK = np.zeros(SIZE, bool)
MASK[10:30, 20:50] = True
ROW = np.arange(40)[:, None] + np.zeros(60) == 0
SQUARE = [20, 10, 50, 10, 50, 30, 20, 30]


def code_of(mask: np.ndarray) -> dict[str, Any]:
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def png_of(*masks: tuple[int, np.ndarray]) -> bytes:
    ids = np.zeros(SIZE, np.uint8)
    for value, mask in masks:
        ids[mask] = value
    return encode_mask(ids)


@pytest.mark.parametrize(
    "data",
    [
        json.dumps([[SQUARE]]).encode(), json.dumps([code_of(MASK)]).encode(),
        json.dumps({"images": [{"id": 1}], "annotations": [{"segmentation": [SQUARE]}]}).encode(),
        b"\xef\xbb\xbf" + json.dumps([{"segmentation": code_of(MASK)}]).encode(), png_of((9, MASK)),
    ],
    ids=["polygon", "rle", "coco", "annotation", "png"],
)  # fmt: skip
def test_every_form_is_measured_at_the_size_of_the_image_and_seen_smaller(data: bytes) -> None:
    (found,) = read_masks(data, SIZE, (20, 30))
    assert (found.pixels, found.share, found.box) == (600, 0.25, Box(10, 20, 30, 50))
    assert found.number == (9 if data.startswith(b"\x89PNG") else 0)
    assert found.region.mask.shape == (20, 30) and found.region.box == Box(5, 10, 15, 25)
    np.testing.assert_array_equal(found.region.mask, MASK[::2, ::2])
    (whole,) = read_masks(data, SIZE, SIZE)
    np.testing.assert_array_equal(whole.region.mask, MASK)


def test_a_mask_too_small_for_the_decoded_image_is_all_that_it_touches() -> None:
    speck = np.zeros(SIZE, bool)
    speck[12, 41] = True
    (found,) = read_masks(png_of((1, speck)), SIZE, (10, 15))
    assert (found.pixels, found.box) == (1, Box(12, 41, 13, 42))
    assert np.argwhere(found.region.mask).tolist() == [[3, 10]]


def test_values_of_a_png_ascend_and_a_list_keeps_its_order() -> None:
    found = read_masks(png_of((200, MASK), (3, ~MASK)), SIZE, SIZE)
    assert [(each.number, each.pixels) for each in found] == [(3, 1800), (200, 600)]
    found = read_masks(json.dumps([code_of(MASK), code_of(~MASK), [SQUARE]]).encode(), SIZE, SIZE)
    assert [(each.number, each.pixels) for each in found] == [(0, 600), (1, 1800), (2, 600)]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (json.dumps([code_of(np.ones((40, 61), bool))]).encode(), r"mask 0: the RLE has size \[40, 61\]"),
        (json.dumps([[SQUARE], code_of(np.zeros(SIZE, bool))]).encode(), "mask 1 has no pixel"),
        (encode_mask(np.ones((41, 60), np.uint8)), "the PNG has 60 x 41 pixels, and the image 60 x 40"),
        (encode_mask(np.zeros(SIZE, np.uint8)), "found 0 masks"), (b"[]", "found 0 masks"),
        (b"[[1, 2]", "neither JSON nor a PNG"), (b"", "neither JSON nor a PNG"), (b"7", "a list of segmentations"),
        (b'{"images": [{}, {}], "annotations": []}', "of 2 images"), (b"[" * 5000, "neither JSON nor a PNG"),
        (json.dumps(["[[1, 2, 3, 4, 5, 6]]"]).encode(), "mask 0 is a text"), (b"[null]", "mask 0"),
        (json.dumps([[[0, 0, 1, 0]]]).encode(), "at least 3 points"), (b"\xff\xd8\xff\xe0" + b"\0" * 60, "JPEG"),
        (json.dumps([[SQUARE]] * 257).encode(), "found 257 masks, and 1 to 256"),
        (b"[" + b"1," * 400_000 + b"1]", "more than 400,000 values"), (b" " * (2**22 + 1), "more than 4,194,304 bytes"),
        (json.dumps([[[-1e6, 0, 1e6, 39, -1e6, 39]] * 4]).encode(), "longer than 10,000,000 pixels together"),
        (png_of((9, MASK))[:-30], "masks: "), (encode_mask(np.ones(SIZE, np.uint8))[:30], "masks: "),
        (cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8))[1].tobytes(),
         "masks: "),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(data: bytes, says: str) -> None:
    with pytest.raises(ApiError, match=says) as caught:
        read_masks(data, SIZE, SIZE)
    assert (caught.value.status, caught.value.code) == (422, "bad_masks")
    assert "COCO" in caught.value.hint


def test_the_pixels_of_all_masks_are_bounded_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_codec, "MAX_MASK_PIXELS", 2 * 2400)
    data = json.dumps([[SQUARE]] * 3).encode()
    assert len(read_masks(json.dumps([[SQUARE]] * 2).encode(), SIZE, SIZE)) == 2
    for sent in (data, png_of((1, MASK), (2, ROW), (3, np.roll(ROW, 2, 0)))):
        with pytest.raises(ApiError, match="3 masks of 60 x 40 pixels came, and at most 2") as caught:
            read_masks(sent, SIZE, SIZE)
        assert caught.value.code == "too_many_masks"
