"""Which ingredients are on an image and what share of the food they are, by hand."""

import numpy as np
import pytest

from foodseg.metrics.ingredients import Detection, ingredient_scores
from foodseg.metrics.per_image import ImageCounts

NAMES = ["background", "rice", "tofu", "fig"]


def image(*cells: tuple[int, int, int]) -> ImageCounts:
    """Cells (truth, prediction, pixels)."""
    matrix = np.zeros((4, 4), np.int64)
    for truth, prediction, count in cells:
        matrix[truth, prediction] += count
    return ImageCounts.from_matrix("p", "g", matrix)


def test_two_images_by_hand():
    # a: rice 60, tofu 40 true; rice 80, fig 20 predicted. b: rice 50 true and predicted; the rest is background.
    a = image((1, 1, 60), (2, 1, 20), (2, 3, 20))
    b = image((1, 1, 50), (0, 0, 50))
    result = ingredient_scores([a, b], NAMES)
    assert result.micro == Detection(precision=2 / 3, recall=2 / 3, f1=2 / 3)
    # a: one right of two and two; b: all right
    assert result.per_image == Detection(precision=0.75, recall=0.75, f1=0.75)
    assert (result.images, result.pairs) == (2, 4)
    # a: rice 0.8 - 0.6, tofu 0.4 - 0, fig 0.2 - 0; b: rice 1 - 1
    assert result.share_error == pytest.approx((0.2 + 0.4 + 0.2 + 0.0) / 4)
    rice, tofu, fig = result.classes
    assert (rice.id, rice.name, rice.truth, rice.predicted, rice.right) == (1, "rice", 2, 2, 2)
    assert rice.share_error == pytest.approx(0.1) and rice.detection.f1 == 1
    assert tofu.detection == Detection(None, 0.0, 0.0) and tofu.share_error == pytest.approx(0.4)
    assert fig.detection == Detection(0.0, None, 0.0) and fig.share_error == pytest.approx(0.2)


def test_images_without_any_ingredient():
    empty, ignored = image((0, 0, 10)), image()
    result = ingredient_scores([empty, ignored], NAMES)
    assert (result.images, result.pairs, result.share_error) == (0, 0, None)
    assert result.micro == result.per_image == Detection(None, None, None)
    # nothing was predicted where rice is: precision 0 for the image, none over all
    result = ingredient_scores([empty, image((1, 0, 10))], NAMES)
    assert result.per_image == Detection(0.0, 0.0, 0.0) and result.images == 1
    assert result.micro == Detection(None, 0.0, 0.0)
    assert result.share_error == 1.0
    result = ingredient_scores([image((0, 2, 5), (0, 0, 5))], NAMES)
    assert result.micro == Detection(0.0, None, 0.0) and result.share_error == 1.0


@pytest.mark.parametrize(("pixels", "counts"), [(9, False), (10, True), (11, True)])
def test_a_stray_pixel_is_no_ingredient(pixels, counts):
    """0.1 % of 10,000 labelled pixels are 10."""
    result = ingredient_scores([image((0, 0, 5000), (1, 1, 5000 - pixels), (1, 2, pixels))], NAMES)
    assert (result.classes[1].predicted == 1) is counts
    assert result.pairs == 1 + counts
    # its pixels stay in the food, so that the shares of the others do not grow
    assert result.classes[0].share_error == pytest.approx(pixels / 5000)


def test_one_pixel_is_enough_for_a_tiny_image():
    assert ingredient_scores([image((1, 1, 1))], NAMES).micro == Detection(1.0, 1.0, 1.0)


def test_the_order_of_images_does_not_matter():
    images = [image((1, 1, 5), (2, 3, 4)), image((0, 3, 9)), image((3, 3, 2))]
    result = ingredient_scores(images, NAMES)
    assert ingredient_scores(images[::-1], NAMES) == result
