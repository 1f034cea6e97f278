"""A training crop: geometry from the seed alone, padding ignored, ingredients counted on the crop."""

import cv2
import numpy as np
import pytest

from foodseg.classes import ClassTable
from foodseg.config.augment import AugmentConfig
from foodseg.data.augment.geometry import LISTED_SHARE, Crop, make_crop
from foodseg.data.image_io import encode_mask

CLASSES = ClassTable(("background", "rice", "egg", "tofu"))


def settings(**changes: object) -> AugmentConfig:
    """Crops of 8 pixels, as large as they come, unless changed."""
    return AugmentConfig.model_validate({"longest_side": 8, "scale": (1, 1), "crop": 8, "flip": 0, **changes})


def crop_of(mask: np.ndarray, augment: AugmentConfig, seed: int = 0, *, labelled: bool = True, k: int = 4) -> Crop:
    """The crop of an image whose red is 10 x row, green 10 x column, blue 20 x id."""
    rows, columns = np.indices(mask.shape)
    image = np.stack((10 * rows % 256, 10 * columns % 256, 20 * mask.astype(int) % 256), 2).astype(np.uint8)
    data = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    classes = CLASSES if k == 4 else ClassTable(tuple(map(str, range(k))))
    return make_crop(data, encode_mask(mask) if labelled else None, *mask.shape, seed, augment, classes)


def quarters(height: int = 8, width: int = 8) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return (2 * (rows >= height // 2) + (columns >= width // 2)).astype(np.uint8)


def test_nothing_random_gives_the_image_itself() -> None:
    crop = crop_of(quarters(), settings())
    np.testing.assert_array_equal(crop.mask, quarters())
    np.testing.assert_array_equal(crop.image[:, :, 2], 20 * quarters())
    np.testing.assert_array_equal(crop.image[:, 0, 0], np.arange(0, 80, 10))
    assert (crop.image.dtype, crop.mask.dtype, crop.extent.dtype) == (np.uint8, np.uint8, np.int32)
    assert crop.extent.tolist() == [0, 0, 8, 8]
    assert crop.ingredients.tolist() == [False, True, True, True] and crop.ingredients_known


def test_the_same_seed_gives_the_same_crop_and_others_differ() -> None:
    augment = settings(longest_side=32, scale=(0.5, 2), flip=0.5, class_aware=0.5)
    mask = np.random.default_rng(0).integers(0, 4, (30, 40)).astype(np.uint8)
    first, again = (crop_of(mask, augment, 5) for _ in range(2))
    for name in ("image", "mask", "extent", "ingredients"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert len({crop_of(mask, augment, seed).image.tobytes() for seed in range(20)}) == 20


@pytest.mark.parametrize(("height", "width"), [(4, 8), (8, 4), (3, 5)])
def test_a_small_image_is_padded_below_and_right(height: int, width: int) -> None:
    mask = np.ones((height, width), np.uint8)
    crop = crop_of(mask, settings(longest_side=max(8, height), crop=16))
    factor = 8 / max(height, width)
    tall, wide = round(height * factor), round(width * factor)
    assert crop.extent.tolist() == [0, 0, tall, wide]
    expected = np.full((16, 16), 255)
    expected[:tall, :wide] = 1
    np.testing.assert_array_equal(crop.mask, expected)
    assert (crop.image[tall:] == 0).all() and (crop.image[:, wide:] == 0).all()
    assert (crop.image[:tall, :wide, 2] == 20).all()


def test_flip_mirrors_image_and_mask_together_and_keeps_padding_right() -> None:
    mask = quarters(8, 4)
    plain, flipped = crop_of(mask, settings()), crop_of(mask, settings(flip=1))
    np.testing.assert_array_equal(flipped.mask[:, :4], plain.mask[:, 3::-1])
    np.testing.assert_array_equal(flipped.image[:, :4], plain.image[:, 3::-1])
    assert (flipped.mask[:, 4:] == 255).all()
    assert flipped.extent.tolist() == plain.extent.tolist() == [0, 0, 8, 4]


def test_flip_and_scale_follow_their_odds() -> None:
    mask = np.zeros((8, 8), np.uint8)
    augment = settings(crop=32, flip=0.25, scale=(1, 3))
    crops = [crop_of(mask, augment, seed) for seed in range(400)]
    flips = np.mean([crop.image[0, 0, 1] > 0 for crop in crops])
    assert abs(flips - 0.25) < 0.09  # four deviations
    sides = np.array([crop.extent[2] for crop in crops])
    assert sides.min() == 8 and sides.max() == 24 and abs(sides.mean() - 16) < 1


def test_crops_reach_every_offset_evenly() -> None:
    mask = np.zeros((10, 16), np.uint8)
    crops = [crop_of(mask, settings(longest_side=16), seed) for seed in range(600)]
    tops, lefts = (np.bincount([crop.image[0, 0, axis] // 10 for crop in crops]) for axis in (0, 1))
    assert len(tops) == 3 and len(lefts) == 9
    assert tops.min() > 140 and lefts.min() > 35


def test_class_aware_crops_are_centred_on_a_pixel_of_a_class_drawn_evenly() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[20, 20] = 1  # one pixel of rice
    mask[5:10, 25:35] = 2
    crops = [crop_of(mask, settings(longest_side=40, class_aware=1), seed) for seed in range(200)]
    centres = [int(crop.mask[4, 4]) for crop in crops]
    assert set(centres) == {1, 2}
    assert abs(np.mean(centres) - 1.5) < 0.15, "rice as often as egg, for all its one pixel"
    spots = {tuple(crop.image[4, 4, :2] // 10) for crop in crops if crop.mask[4, 4] == 2}
    assert len(spots) > 30, "any pixel of the class"


def test_class_aware_crops_stay_inside_the_image() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[0, 39] = 3
    crop = crop_of(mask, settings(longest_side=40, class_aware=1))
    assert crop.extent.tolist() == [0, 0, 8, 8] and crop.mask[0, 7] == 3


@pytest.mark.parametrize("labelled", [True, False])
def test_class_aware_without_a_class_takes_any_crop(labelled: bool) -> None:
    crop = crop_of(np.zeros((16, 16), np.uint8), settings(longest_side=16, class_aware=1), labelled=labelled)
    assert crop.extent.tolist() == [0, 0, 8, 8]


def test_one_pixel_is_an_image() -> None:
    crop = crop_of(np.full((1, 1), 2, np.uint8), settings(class_aware=1, scale=(0.5, 1.5)))
    side = crop.extent[2]
    assert crop.extent.tolist() == [0, 0, side, side] and 4 <= side <= 8
    assert (crop.mask[:side, :side] == 2).all() and crop.ingredients.tolist() == [False, False, True, False]


def test_an_unlabelled_image_is_all_ignored_and_its_ingredients_unknown() -> None:
    crop = crop_of(quarters(), settings(class_aware=1), labelled=False)
    assert (crop.mask == 255).all() and crop.mask.dtype == np.uint8
    assert not crop.ingredients_known and not crop.ingredients.any()
    assert crop.extent.tolist() == [0, 0, 8, 8], "unlabelled is not padding"
    assert crop.image[:, :, 0].any()


@pytest.mark.parametrize(("pixels", "listed"), [(0, False), (1, False), (2, False), (3, True)])
def test_an_ingredient_is_listed_from_a_thousandth_of_the_real_pixels_on(pixels: int, listed: bool) -> None:
    assert LISTED_SHARE == 0.001
    mask = np.zeros((48, 50), np.uint8)  # 2400 pixels: the threshold is 2.4
    mask[0, :pixels] = 3
    crop = crop_of(mask, settings(longest_side=50, crop=104))  # padding does not count
    assert crop.ingredients.tolist() == [False, False, False, listed]


def test_ignored_pixels_are_not_listed() -> None:
    mask = np.full((8, 8), 255, np.uint8)
    mask[0, 0] = 1
    crop = crop_of(mask, settings(class_aware=1))
    assert crop.ingredients.tolist() == [False, True, False, False] and crop.ingredients_known
    assert (crop.mask == 255).sum() == 63


def test_a_label_space_of_300_classes_is_16_bit() -> None:
    mask = np.full((4, 8), 65535, np.uint16)
    mask[:2] = 255
    mask[2, :4] = 299
    crop = crop_of(mask, settings(), k=300)
    assert crop.mask.dtype == np.uint16
    assert (crop.mask[:2] == 255).all() and (crop.mask[2, :4] == 299).all()
    assert (crop.mask[4:] == 65535).all(), "padding"
    assert np.flatnonzero(crop.ingredients).tolist() == [255, 299]
