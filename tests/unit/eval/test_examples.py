"""Which images the report shows, and what it draws of them."""

import base64

import numpy as np
import pytest

from foodseg.data.image_io import decode_image, decode_mask, encode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.eval.examples import colours, draw_example, draw_examples, image_miou, worst_and_best
from foodseg.eval.mapped import CommonSpace
from foodseg.eval.scoring import LabelledRow, Labels, score_rows
from foodseg.metrics.per_image import ImageCounts
from tests.support.synthetic_set import write_synthetic

SPACE = CommonSpace(SYNTHETIC_CLASSES, "synthetic")


def image(name: str, right: int, group: str | None = None) -> ImageCounts:
    """100 pixels of id 1, `right` of them found, the others called 0."""
    return ImageCounts.from_matrix(name, group or name, np.array([[0, 0], [100 - right, right]]))


def test_miou_of_an_image_by_hand():
    # id 0: 4 / (4 + 2); id 1: 3 / 5; id 2 has no truth pixel
    counts = ImageCounts.from_matrix("a", "a", np.array([[4, 0, 0], [1, 3, 1], [0, 0, 0]]))
    assert image_miou(counts, 3) == pytest.approx((4 / 5 + 3 / 5) / 2)
    assert image_miou(ImageCounts.from_matrix("b", "b", np.zeros((3, 3), int)), 3) is None


@pytest.mark.parametrize(
    ("count", "worst", "best"), [(0, 0, 0), (1, 1, 0), (2, 1, 1), (7, 4, 3), (12, 6, 6), (40, 6, 6)]
)
def test_worst_first_and_best_first(count, worst, best):
    images = [image(f"p{i:02d}", i) for i in range(count)]
    rng = np.random.default_rng(0)
    low, high = worst_and_best([images[i] for i in rng.permutation(count)], 2)
    assert [p.image_id for p in low] == [f"p{i:02d}" for i in range(worst)]
    assert [p.image_id for p in high] == [f"p{i:02d}" for i in range(count - 1, count - 1 - best, -1)]


def test_near_duplicates_are_shown_once_and_unlabelled_images_never():
    ignored = ImageCounts.from_matrix("x", "x", np.zeros((2, 2), int))
    images = [image("a", 10, "g"), image("b", 90, "g"), image("c", 50), ignored]
    low, high = worst_and_best(images, 2)
    assert [p.image_id for p in low + high] == ["a", "c"]


def read(jpeg: str) -> np.ndarray:
    return decode_image(base64.b64decode(jpeg))


def test_an_image_with_its_truth():
    rng = np.random.default_rng(0)
    image = np.full((600, 960, 3), 128, np.uint8)
    truth = np.zeros((600, 960), np.uint8)
    truth[:300] = 1
    truth[:, :60] = 255
    found = np.where(rng.random(truth.shape) < 0.5, 2, truth * (truth != 255)).astype(np.uint8)
    row = LabelledRow("a", encode_mask(image), encode_mask(truth), "a", "s")
    counts = ImageCounts.from_matrix("a", "a", np.diag([3, 4, 0]) + np.array([[0, 0, 1], [0, 0, 2], [0, 0, 0]]))
    example = draw_example(row, counts, lambda image_id, data, size: Labels(found), SPACE)
    assert (example.width, example.height, example.image_id) == (480, 300, "a")
    shown, predicted = read(example.truth), read(example.predicted)
    assert shown.shape == predicted.shape == (300, 480, 3)
    # rice is tinted, background is as it was, the ignored strip is hatched
    palette = SYNTHETIC_CLASSES.palette()
    tinted = 0.45 * 128 + 0.55 * palette[1]
    np.testing.assert_allclose(shown[20:120, 60:].reshape(-1, 3).mean(0), tinted, atol=3)
    np.testing.assert_allclose(shown[200:, 60:].reshape(-1, 3).mean(0), 128, atol=2)
    assert shown[200:, :20].std() > 5 > shown[200:, 60:].std()
    # shares of the food: truth 6 of id 1; prediction 4 of id 1 and 3 of id 2
    assert [(s.name, round(s.truth, 3), round(s.predicted, 3)) for s in example.shares] == [
        (SYNTHETIC_CLASSES.names[1], 1.0, round(4 / 7, 3)),
        (SYNTHETIC_CLASSES.names[2], 0.0, round(3 / 7, 3)),
    ]
    assert example.shares[0].colour == colours(SYNTHETIC_CLASSES)[1] and example.more == 0


def test_many_ingredients_are_counted_not_named():
    matrix = np.zeros((13, 13), int)
    matrix[1, 1:13] = np.arange(100, 112)
    row_counts = ImageCounts.from_matrix("a", "a", matrix)
    image = np.zeros((8, 8, 3), np.uint8)
    row = LabelledRow("a", encode_mask(image), encode_mask(image[:, :, 0]), "a", "s")
    labeller = lambda image_id, data, size: Labels(image[:, :, 0])  # noqa: E731
    example = draw_example(row, row_counts, labeller, SPACE)
    assert (len(example.shares), example.more) == (10, 2)
    assert example.shares[0].truth == 1.0
    assert (example.width, example.height) == (8, 8)  # small images are not blown up


def test_only_the_chosen_rows_are_labelled_again(tmp_path):
    uri = write_synthetic(tmp_path / "d", train=2, val=20, test=1)
    reader = RowReader(uri, read_manifest(uri), ["val"])
    masks = {row["image_id"]: decode_mask(row["mask"]) for row in reader.take(range(19)).to_pylist()}
    asked: list[str] = []

    def labeller(image_id, data, size):
        asked.append(image_id)
        number = int(image_id[-3:])
        return Labels(np.where(np.arange(size[1]) < 4 * number, masks[image_id] * (masks[image_id] < 255), 0))

    counts = score_rows(reader, range(20), labeller, SPACE).images
    asked.clear()
    worst, best = draw_examples(reader, counts, labeller, SPACE)
    low, high = worst_and_best(counts, len(SYNTHETIC_CLASSES))
    assert [example.image_id for example in worst + best] == [p.image_id for p in low + high] == asked
    assert len(asked) == 12
    assert [example.miou for example in worst] == sorted(example.miou for example in worst)
