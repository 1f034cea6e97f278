"""Which canvas an image is padded to."""

import pytest

from foodseg.config.evaluation import EvalConfig
from foodseg.predict.canvas import fitted_size, padded_size, pick_canvas

LISTED = ((512, 512), (384, 512), (512, 384))


@pytest.mark.parametrize(
    ("height", "width", "canvas"),
    [
        (480, 640, (384, 512)),  # 4:3, shown as 384 x 512
        (4000, 3000, (512, 384)),
        (640, 640, (512, 512)),
        (500, 640, (512, 512)),  # 400 x 512 needs 416 x 512: the square has 1.23 times as many pixels
        (360, 640, (288, 512)),  # 16:9: 384 x 512 would be a third more
        (20, 640, (32, 512)),
    ],
)
def test_the_smallest_canvas_that_holds_it_unless_it_is_mostly_padding(height, width, canvas):
    assert pick_canvas(EvalConfig(longest_side=512), 32, height, width, LISTED) == canvas


def test_without_a_canvas_an_image_keeps_its_own_padded_size():
    assert pick_canvas(EvalConfig(longest_side=96), 32, 480, 640, LISTED) == (96, 96)  # shown as 72 x 96
    assert pick_canvas(EvalConfig(longest_side=None), 32, 700, 900, LISTED) == (704, 928)
    assert pick_canvas(EvalConfig(longest_side=512, window=256), 32, 500, 640, LISTED) == (416, 512)
    assert pick_canvas(EvalConfig(longest_side=512), 48, 640, 640, LISTED) == (528, 528)


def test_sizes_by_hand():
    assert fitted_size(EvalConfig(longest_side=512), 375, 500) == (384, 512)
    assert fitted_size(EvalConfig(longest_side=None), 375, 500) == (375, 500)
    several = {"scales": (0.5, 1.5, 1.0)}
    assert fitted_size(EvalConfig(longest_side=512, **several), 375, 500) == (576, 768)
    assert fitted_size(EvalConfig(longest_side=512, **several), 375, 500, 0.5) == (192, 256)
    assert fitted_size(EvalConfig(longest_side=None, **several), 375, 500, 0.5) == (188, 250)
    assert padded_size(375, 512, 32) == (384, 512)
