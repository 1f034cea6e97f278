"""Regions of an image: connected parts by class, and given masks with the class of most of their pixels."""

import numpy as np

from foodseg.classes import ClassTable
from foodseg.data.regions import Box, box_of, labelled_masks, resize_mask, true_regions

CLASSES = ClassTable(("background", "rice", "egg"))


def drawn() -> np.ndarray:
    """Rice twice (6 and 2 pixels, touching at a corner is one part), egg once, a pixel of egg by itself, ignored."""
    return np.array(
        [
            [1, 1, 1, 0, 0, 2],
            [1, 1, 1, 0, 0, 0],
            [0, 0, 0, 0, 1, 0],
            [2, 2, 0, 0, 0, 1],
            [2, 2, 255, 255, 255, 0],
        ],
        np.uint8,
    )


def test_parts_are_connected_at_corners_and_come_by_class_and_size() -> None:
    found = true_regions(drawn(), CLASSES, least_share=0)
    assert [(each.label, int(each.mask.sum())) for each in found] == [(1, 6), (1, 2), (2, 4)]
    assert [each.box for each in found] == [Box(0, 0, 2, 3), Box(2, 4, 4, 6), Box(3, 0, 5, 2)]
    assert not np.logical_and(found[0].mask, found[1].mask).any()


def test_small_parts_are_left_out() -> None:
    assert [int(each.mask.sum()) for each in true_regions(drawn(), CLASSES, least_share=4 / 30)] == [6, 4]
    assert true_regions(drawn(), CLASSES, least_share=0.9) == []


def test_an_image_of_background_or_ignored_pixels_has_no_region() -> None:
    assert true_regions(np.zeros((4, 4), np.uint8), CLASSES, least_share=0) == []
    assert true_regions(np.full((4, 4), 255, np.uint8), CLASSES, least_share=0) == []
    assert true_regions(np.ones((1, 1), np.uint8), CLASSES, least_share=0) == []


def test_a_given_mask_has_the_class_of_at_least_half_its_pixels() -> None:
    truth = np.array([[1, 1, 2, 2, 0, 0, 255, 255]], np.uint8)

    def labels(*columns: slice, annotated: tuple[int, ...] | None = None) -> list[int]:
        masks = [np.zeros((1, 8), bool) for _ in columns]
        for mask, own in zip(masks, columns, strict=True):
            mask[0, own] = True
        return [each.label for each in labelled_masks(masks, truth, CLASSES, annotated, least_share=0)]

    assert labels(slice(0, 2), slice(2, 4), slice(4, 6)) == [1, 2, 0]
    assert labels(slice(0, 4)) == [1]  # half and half: the smaller id
    assert labels(slice(0, 6)) == []  # a third each
    assert labels(slice(5, 8)) == []  # a third of background, the rest is not labelled
    assert labels(slice(0, 2), slice(4, 6), annotated=(1,)) == [1]  # background of that source may be anything


def test_given_masks_of_another_scale_are_resized_and_small_ones_left_out() -> None:
    truth = np.repeat([[1] * 4 + [2] * 4], 4, 0).astype(np.uint8)
    half = np.array([[True, True, False, False]] * 2)
    (found,) = labelled_masks([half], truth, CLASSES, None, least_share=0.5)
    assert found.label == 1 and found.box == Box(0, 0, 4, 4) and int(found.mask.sum()) == 16
    assert labelled_masks([half], truth, CLASSES, None, least_share=0.51) == []


def test_box_and_size() -> None:
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    assert box_of(mask) == Box(1, 2, 3, 6)
    assert resize_mask(mask, (5, 7)) is mask
    np.testing.assert_array_equal(resize_mask(np.array([[1, 0]], bool), (2, 4)), [[1, 1, 0, 0]] * 2)
    turned = resize_mask(np.array([[1, 0], [0, 1]], bool), (4, 6))
    assert turned.tolist() == [[1, 1, 1, 0, 0, 0]] * 2 + [[0, 0, 0, 1, 1, 1]] * 2
