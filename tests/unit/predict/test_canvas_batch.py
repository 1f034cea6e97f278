"""Which canvas an image is padded to, and batches on it."""

import pytest

from foodseg.config.evaluation import EvalConfig
from foodseg.predict.canvas_batch import BatchPredictor, pick_canvas
from foodseg.predict.predictor import Predictor
from tests.support.compare import assert_close, assert_same_ids, scores_of
from tests.unit.predict.test_predictor import CPU, PixelModel, sample_image

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


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"window": 64}])
def test_images_of_several_sizes_on_one_canvas(settings):
    config, model = EvalConfig(longest_side=None, **settings), PixelModel()
    batched, alone = BatchPredictor(model, config, CPU), Predictor(model, config, CPU)
    sizes = [(96, 120), (80, 128), (65, 97)]
    images = [sample_image(*size) for size in sizes]
    canvas = (96, 128)
    answers = batched.logits(images, sizes, canvas)
    if not settings.get("window"):
        assert model.seen == [canvas] * (2 if settings else 1)  # one forward pass for all of them
    for image, size, answer in zip(images, sizes, answers, strict=True):
        expected = alone.logits(image, *size)
        assert answer.ids().shape == size
        # in this model no grid cell sees its neighbours, so the wider padding changes nothing
        assert_close(answer.values, expected.values)
        assert_same_ids(answer.ids(), expected.ids(), scores_of(expected))
