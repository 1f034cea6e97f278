"""Ingredients of a label map, counted by hand."""

import numpy as np
import pytest

from foodseg.classes import ClassTable
from foodseg.predict.ingredients import labelled_ingredients, mean_confidences

IDS = np.array([[0, 1, 1], [3, 1, 0]], np.uint8)
CONFIDENCE = np.array([[65535, 0, 65535], [13107, 0, 0]], np.uint16)


def test_mean_confidences_by_hand() -> None:
    assert mean_confidences(IDS, CONFIDENCE, 5) == pytest.approx([0.5, 1 / 3, 0, 0.2, 0])


def test_ingredients_by_hand() -> None:
    rice, egg = labelled_ingredients(IDS, CONFIDENCE, ClassTable(("background", "rice", "peas", "egg")))
    assert (rice.id, rice.name, rice.pixels, rice.share_of_food, rice.share_of_image) == (1, "rice", 3, 0.75, 0.5)
    assert (egg.id, egg.name, egg.pixels, egg.share_of_food, egg.share_of_image) == (3, "egg", 1, 0.25, 1 / 6)
    assert (rice.confidence, egg.confidence) == pytest.approx((1 / 3, 0.2))


def test_an_image_without_food() -> None:
    empty = np.zeros((2, 2), np.uint8)
    assert labelled_ingredients(empty, empty.astype(np.uint16), ClassTable(("background", "rice"))) == ()
