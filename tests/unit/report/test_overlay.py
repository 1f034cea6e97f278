"""Overlays, shares of the food and contact sheets, against numbers worked out by hand on 4x4 masks."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from foodseg.classes import IGNORE_8BIT, IGNORE_16BIT, ClassTable
from foodseg.errors import UserError
from foodseg.report import overlay as module
from foodseg.report.overlay import LEGEND_BACKGROUND, contact_sheet, food_shares, overlay

CLASSES = ClassTable(("background", "rice", "egg", "leek"))
MASK = np.array(
    [
        [0, 0, 1, 1],
        [0, 3, 3, 3],
        [0, 3, 3, 3],
        [255, 255, 3, 3],
    ],
    np.uint8,
)


def test_shares_leave_out_background_and_ignored_pixels() -> None:
    assert food_shares(MASK, CLASSES) == [(3, 8, 0.8), (1, 2, 0.2)]


def test_equal_shares_are_sorted_by_id() -> None:
    assert food_shares(np.array([[3, 1], [2, 0]]), CLASSES) == [(1, 1, 1 / 3), (2, 1, 1 / 3), (3, 1, 1 / 3)]


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_without_food_has_no_shares(value: int) -> None:
    assert food_shares(np.full((4, 4), value, np.uint8), CLASSES) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.uint64])
def test_shares_take_any_integer_dtype_and_cross_bands(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BAND_PIXELS", 4)
    assert food_shares(MASK.astype(dtype), CLASSES) == [(3, 8, 0.8), (1, 2, 0.2)]


def test_a_large_label_space_ignores_65535() -> None:
    many = ClassTable(tuple(f"food {index}" for index in range(300)))
    assert food_shares(np.array([[299, 255, IGNORE_16BIT]], np.uint16), many) == [(255, 1, 0.5), (299, 1, 0.5)]


def test_ingredients_are_tinted_and_background_is_untouched() -> None:
    image = np.full((60, 60, 3), 100, np.uint8)
    mask = np.zeros((60, 60), np.uint8)
    mask[10:50, 10:50] = 2
    colour = CLASSES.palette()[2].astype(int)
    shown = overlay(image, mask, CLASSES, opacity=0.5)
    assert shown[30, 30].tolist() == np.rint(50 + colour / 2).astype(int).tolist()
    assert shown[30, 10].tolist() == (colour * 0.6).astype(int).tolist(), "outline"
    np.testing.assert_array_equal(shown[:60, :60][mask == 0], image[mask == 0])
    assert shown.dtype == np.uint8
    assert (shown[:, 60:] == colour).all(2).sum() >= 100, "the swatch has the colour of the palette"
    assert (image == 100).all(), "the caller's image is left alone"


def test_the_legend_names_only_what_is_there() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    mask = np.zeros((200, 200), np.uint8)
    mask[:50], mask[50:60] = 1, 3
    legend = overlay(image, mask, CLASSES)[:, 200:]
    palette = CLASSES.palette()
    first = [np.flatnonzero((legend == palette[index]).all(2).any(1)) for index in (1, 3)]
    assert first[0].max() < first[1].min(), "the largest comes first"
    assert not (legend == palette[2]).all(2).any()


def test_ignored_pixels_are_hatched_grey() -> None:
    shown = overlay(np.full((40, 40, 3), 200, np.uint8), np.full((40, 40), IGNORE_8BIT, np.uint8), CLASSES)[:40, :40]
    assert {tuple(pixel) for pixel in shown.reshape(-1, 3).tolist()} == {(148, 148, 148), (175, 175, 175)}


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (3, 2), (90, 120), (120, 90)])
@pytest.mark.parametrize("value", [0, 3, IGNORE_8BIT])
def test_any_size_keeps_the_image_in_the_corner_and_gets_a_legend(shape: tuple[int, int], value: int) -> None:
    image = np.full((*shape, 3), 60, np.uint8)
    shown = overlay(image, np.full(shape, value, np.uint8), CLASSES)
    assert shown.shape[0] >= shape[0] and shown.shape[1] >= shape[1]
    assert shown.shape[0] > shape[0] or shown.shape[1] > shape[1]
    assert (shown.reshape(-1, 3).min(1) < 60).any(), "there is text"
    if value == 0:
        np.testing.assert_array_equal(shown[: shape[0], : shape[1]], image)


def test_wide_images_have_the_legend_below_and_tall_ones_at_the_right() -> None:
    wide = overlay(np.zeros((300, 600, 3), np.uint8), np.ones((300, 600), np.uint8), CLASSES)
    tall = overlay(np.zeros((600, 300, 3), np.uint8), np.ones((600, 300), np.uint8), CLASSES)
    assert wide.shape[1] == 600 and 300 < wide.shape[0] < 400
    assert tall.shape[0] == 600 and tall.shape[1] > 300
    assert tuple(tall[-1, -1]) == LEGEND_BACKGROUND


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1300, 40, 3), dtype=np.uint8)
    mask = np.repeat(rng.choice(np.array([0, 1, 2, 255], np.uint8), (130, 4)), 10, 0).repeat(10, 1)
    whole = overlay(image, mask, CLASSES)
    monkeypatch.setattr(module, "BAND_PIXELS", 40)
    np.testing.assert_array_equal(overlay(image, mask, CLASSES), whole)


def test_a_large_image_needs_little_memory_besides_the_result() -> None:
    image = np.full((1500, 2000, 3), 90, np.uint8)
    mask = np.ones((1500, 2000), np.uint8)
    mask[::7] = 2
    tracemalloc.start()
    overlay(image, mask, CLASSES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The bands need the same at any size, so that twelve million pixels stay below three times their own bytes.
    assert peak < 1.5 * image.nbytes + 40 * module.BAND_PIXELS


def test_a_contact_sheet_keeps_aspects_and_order() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    shapes = [(10, 20), (20, 10), (1, 400)]
    sheet = contact_sheet([np.full((*shape, 3), c, np.uint8) for shape, c in zip(shapes, colours, strict=True)], 2, 40)
    assert sheet.shape == (80, 80, 3)
    line = 40 + (40 - 1) // 2
    assert [tuple(sheet[y, x].tolist()) for y, x in ((20, 20), (20, 60), (line, 20))] == colours
    assert (sheet == (255, 0, 0)).all(2).sum() == 20 * 40
    assert (sheet == (0, 255, 0)).all(2).sum() == 40 * 20
    assert (sheet == (0, 0, 255)).all(2).sum() == 1 * 40
    assert tuple(sheet[60, 60].tolist()) == LEGEND_BACKGROUND


def test_a_contact_sheet_has_no_more_columns_than_images() -> None:
    assert contact_sheet([np.zeros((5, 5, 3), np.uint8)], 4, 16).shape == (16, 16, 3)


IMAGE = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: overlay(IMAGE, MASK[:3], CLASSES), r"size \(4, 4\), found \(3, 4\)"),
        (lambda: overlay(IMAGE.astype(float), MASK, CLASSES), "found .* float64"),
        (lambda: overlay(IMAGE[:, :, 0], MASK, CLASSES), r"found \(4, 4\) uint8"),
        (lambda: overlay(IMAGE[:0], MASK[:0], CLASSES), r"found \(0, 4, 3\)"),
        (lambda: overlay(IMAGE, MASK.astype(float), CLASSES), "array of integers, found .* float64"),
        (lambda: overlay(IMAGE, MASK, CLASSES, opacity=1.5), "found 1.5"),
        (lambda: food_shares(np.array([[0, 4]]), CLASSES), "holds id 4, but the class table ends at 3"),
        (lambda: food_shares(np.array([[-1, 1]]), CLASSES), "holds id -1"),
        (lambda: food_shares(np.array([0, 1]), CLASSES), r"found \(2,\)"),
        (lambda: contact_sheet([]), "found 0 images"),
        (lambda: contact_sheet([IMAGE], columns=0), "0 columns"),
        (lambda: contact_sheet([IMAGE, MASK]), "image 1 must be"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()
