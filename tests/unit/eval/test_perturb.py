"""Perturbed views: the same patches in another order, and a view that was moved, by hand."""

import numpy as np
import pytest

from foodseg.data.roi_views import PAD_VALUE
from foodseg.errors import UserError
from foodseg.eval.perturb import PATCH, RIGHT, UP, parse_perturbation, perturbed


def views_of(side: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (count, side, side, 3), np.uint8)


def patches(view: np.ndarray) -> list[bytes]:
    """Each patch of a view, cut out one by one."""
    side = len(view)
    return [
        view[top : top + PATCH, left : left + PATCH].tobytes()
        for top in range(0, side, PATCH)
        for left in range(0, side, PATCH)
    ]


def test_patches_are_the_same_in_another_order() -> None:
    views = views_of(64)
    before = views.copy()
    found = perturbed(views, "permute", 3)
    assert found.shape == views.shape and found.dtype == np.uint8
    for shuffled, view in zip(found, views, strict=True):
        assert sorted(patches(shuffled)) == sorted(patches(view)) and patches(shuffled) != patches(view)
    orders = [
        [patches(view).index(each) for each in patches(shuffled)] for shuffled, view in zip(found, views, strict=True)
    ]
    assert orders[0] != orders[1]  # each view by itself
    np.testing.assert_array_equal(views, before)


def test_the_order_is_that_of_the_seed() -> None:
    views = views_of(64)
    np.testing.assert_array_equal(perturbed(views, "permute", 3), perturbed(views, "permute", 3))
    assert not np.array_equal(perturbed(views, "permute", 3), perturbed(views, "permute", 4))


def test_patches_that_stick_out_are_padded_with_black() -> None:
    """Of 40 pixels a side: 3 x 3 patches, of which those at the right and the lower edge have 8 pixels."""
    view = views_of(40, 1)
    found = perturbed(view, "permute", 0)
    assert found.shape == view.shape and 0 < np.count_nonzero(found == 0) < found.size
    assert not np.count_nonzero(view == 0)


def test_translocation_is_60_pixels_to_the_right_and_85_up() -> None:
    assert (RIGHT, UP) == (60, 85)
    view = np.zeros((1, 224, 224, 3), np.uint8)
    view[0, 100, 10] = (1, 2, 3)
    view[0, 223, 163] = (4, 5, 6)
    view[0, 84, 0] = view[0, 200, 164] = (7, 7, 7)  # leave it
    (found,) = perturbed(view, "translocate", 0)
    assert found[15, 70].tolist() == [1, 2, 3] and found[138, 223].tolist() == [4, 5, 6]
    assert not (found == 7).any()
    came_in = np.ones((224, 224), bool)
    came_in[:139, 60:] = False
    assert (found[came_in] == PAD_VALUE).all() and np.count_nonzero(found[~came_in]) == 6


def test_a_view_smaller_than_the_shift_is_all_grey() -> None:
    assert (perturbed(views_of(64), "translocate", 0) == PAD_VALUE).all()


def test_what_may_be_asked_for() -> None:
    assert [parse_perturbation(name) for name in (None, "permute", "translocate")] == [None, "permute", "translocate"]
    with pytest.raises(UserError, match="--perturb 'shuffle': use permute or translocate"):
        parse_perturbation("shuffle")
