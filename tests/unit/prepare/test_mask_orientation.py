"""Which way a mask is turned: by EXIF, else to where its outlines lie on edges of the image."""

import numpy as np
import pytest

from foodseg.demo.synthetic import draw_meal
from foodseg.prepare.mask_orientation import find_mask_orientation

_INVERSE = {5: lambda m: m.T, 6: np.rot90, 8: lambda m: np.rot90(m, -1)}  # inverse of turning by 5, 6, 8


@pytest.mark.parametrize("size", [(96, 144), (480, 360)])
@pytest.mark.parametrize("turn", [5, 6, 8])
def test_synthetic_meals_are_turned_back(turn: int, size: tuple[int, int]) -> None:
    for seed in range(5):
        image, mask = draw_meal(seed, *size)
        found, sentence = find_mask_orientation(image, np.ascontiguousarray(_INVERSE[turn](mask)), 1)
        assert found == turn, (seed, sentence)
        assert sentence == find_mask_orientation(image, np.ascontiguousarray(_INVERSE[turn](mask)), 1)[1]


def test_exif_goes_before_the_edges() -> None:
    image, mask = draw_meal(0, 96, 144)
    assert find_mask_orientation(image, np.ascontiguousarray(mask.T), 8)[0] == 8
    assert find_mask_orientation(image, np.ascontiguousarray(mask.T), 3)[0] == 5, "a half turn swaps no sides"


@pytest.mark.parametrize("size", [(4, 6), (1, 2), (2, 700)])
def test_without_any_evidence_it_is_transposed(size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), 90, np.uint8)
    mask = np.zeros(size[::-1], np.uint8)
    assert find_mask_orientation(flat, mask, 1)[0] == 5
    mask[0, 0] = 1
    assert find_mask_orientation(flat, mask, 1)[0] == 5


def test_the_sentence_names_sizes_choice_and_evidence() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    _, sentence = find_mask_orientation(image, np.zeros((4, 2), np.uint8), 1)
    assert sentence == (
        "the mask is 2 x 4 pixels, the image 4 x 2: transposed, by the mean colour gradient along its outlines "
        "(transposed 0.0, turned clockwise 0.0, turned counter-clockwise 0.0)"
    )
