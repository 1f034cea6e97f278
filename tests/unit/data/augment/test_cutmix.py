"""CutMix within an image: boxes fit, are drawn from the row's seed, and are moved as a whole."""

import pytest
import torch

from foodseg.data.augment.cutmix import draw_box, move_box


@pytest.mark.parametrize("sides", [(4, 4), (4, 9), (32, 24)])
def test_boxes_fit(sides):
    for seed in range(50):
        rows, columns, to_rows, to_columns = draw_box(seed, *sides)
        for part, to, side in ((rows, to_rows, sides[0]), (columns, to_columns, sides[1])):
            assert 0 <= part.start < part.stop <= side and 0 <= to.start < to.stop <= side
            assert part.stop - part.start == to.stop - to.start <= side / 2
    assert draw_box(7, 32, 24) == draw_box(7, 32, 24) != draw_box(8, 32, 24)


def test_a_box_is_moved_over_what_was_there():
    values = torch.arange(16).view(1, 4, 4)
    moved = move_box(values, (slice(0, 1), slice(0, 2), slice(1, 2), slice(1, 3)), 1)
    assert moved.tolist() == [[[0, 1, 2, 3], [4, 0, 1, 7], [8, 9, 10, 11], [12, 13, 14, 15]]]
    assert values[0, 1, 1] == 5, "the image itself stays"
    large = move_box(values, (slice(0, 1), slice(0, 1), slice(1, 2), slice(1, 2)), 2)
    assert large.tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1], [12, 13, 4, 5]]]
