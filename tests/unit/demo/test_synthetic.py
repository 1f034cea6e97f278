"""Synthetic meals: the same bytes on every run, masks that name what lies on top, a complete folder."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.demo.synthetic import MIN_SIDE, draw_meal, write_meals
from foodseg.demo.synthetic_ingredients import SYNTHETIC_CLASSES, Meal, _pixels
from foodseg.errors import UserError


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (MIN_SIDE, MIN_SIDE), (33, 300)])
def test_a_meal_has_the_asked_size_and_known_ids(height: int, width: int) -> None:
    image, mask = draw_meal(3, height, width)
    assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((height, width), np.uint8)
    assert mask.max() < len(SYNTHETIC_CLASSES)


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = draw_meal(7, 96, 128), draw_meal(7, 96, 128), draw_meal(8, 96, 128)
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1].tobytes() == again[1].tobytes()
    assert first[0].tobytes() != other[0].tobytes()
    assert first[1].tobytes() != other[1].tobytes()


def test_sixty_meals_show_every_class_and_two_to_seven_ingredients_each() -> None:
    seen = [set(np.unique(draw_meal(seed, 64, 80)[1]).tolist()) for seed in range(60)]
    assert set().union(*seen) == set(range(len(SYNTHETIC_CLASSES)))
    assert all(BACKGROUND in ids and 1 <= len(ids - {BACKGROUND}) <= 7 for ids in seen)
    assert max(len(ids) for ids in seen) > 6


def test_the_mask_names_the_piece_laid_last_and_no_shadow() -> None:
    meal = Meal(np.random.default_rng(0), 100, 100)
    meal.tilt, meal.centre = 1.0, (50.0, 50.0)
    before = meal.image.copy()
    for name, x in (("carrot", 40), ("lemon", 50)):
        silhouette, texture, middle = meal.window(10, (200, 100, 50))
        silhouette[middle - 10 : middle + 10, middle - 10 : middle + 10] = 255
        meal.lay((x, 50), silhouette, texture, name, 0.02)
    expected = np.zeros((100, 100), np.uint8)
    expected[40:60, 30:50] = SYNTHETIC_CLASSES.names.index("carrot")
    expected[40:60, 40:60] = SYNTHETIC_CLASSES.names.index("lemon")
    np.testing.assert_array_equal(meal.mask, expected)
    np.testing.assert_allclose(meal.image[50, 50], (200, 100, 50), rtol=0.1)
    shadow = slice(45, 58), 61
    assert (meal.image[shadow] < before[shadow]).all(), "a shadow darkens the image"
    np.testing.assert_array_equal(meal.image[:20], before[:20])


def test_pixels_rounds_to_the_nearest() -> None:
    np.testing.assert_array_equal(_pixels(np.array([0.4, 1.6, -0.6])), [0, 2, -1])


def test_a_red_tomato_is_red_and_green_beans_are_green() -> None:
    """Means over many meals: RGB order, and a colour that a network can learn."""
    totals = {name: np.zeros(3) for name in ("tomato", "green beans", "carrot")}
    for seed in range(40):
        image, mask = draw_meal(seed, 64, 64)
        for name, total in totals.items():
            total += image[mask == SYNTHETIC_CLASSES.names.index(name)].sum(0)
    assert totals["tomato"].argmax() == 0
    assert totals["green beans"].argmax() == 1
    assert totals["carrot"].tolist() == sorted(totals["carrot"], reverse=True)


def test_written_meals_make_a_complete_folder(tmp_path: Path) -> None:
    write_meals(tmp_path, train=5, test=2, seed=1, longest_side=96)
    train, test = ((tmp_path / name).read_text().splitlines() for name in ("train.txt", "test.txt"))
    assert train == [f"synthetic__{number:04d}" for number in range(1, 6)]
    assert test == ["synthetic__0006", "synthetic__0007"]
    assert ClassTable.from_text((tmp_path / "classes.txt").read_text(), "classes.txt") == SYNTHETIC_CLASSES
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [f"{stem}.jpg" for stem in train + test]
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [f"{stem}.png" for stem in train + test]
    sizes = set()
    for stem in train + test:
        with (
            Image.open(tmp_path / "images" / f"{stem}.jpg") as image,
            Image.open(tmp_path / "masks" / f"{stem}.png") as mask,
        ):
            assert (image.mode, mask.mode) == ("RGB", "L")
            assert image.size == mask.size and max(image.size) == 96
            sizes.add(image.size)
    assert len(sizes) > 3, "landscape, portrait and square"


def test_the_jpeg_is_rgb_and_the_png_exact(tmp_path: Path) -> None:
    write_meals(tmp_path, train=1, test=0, seed=0, longest_side=96)
    with Image.open(tmp_path / "images" / "synthetic__0001.jpg") as image:
        read, (width, height) = np.asarray(image).astype(int), image.size
    image, mask = draw_meal(1, height, width)
    assert abs(read - image).mean() < 8 < abs(read[:, :, ::-1] - image).mean()
    np.testing.assert_array_equal(
        cv2.imread(str(tmp_path / "masks" / "synthetic__0001.png"), cv2.IMREAD_UNCHANGED), mask
    )


def test_a_broken_run_leaves_no_split_lists_and_no_half_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_meals(tmp_path, train=2, test=1, seed=0, longest_side=64)

    def full_disk(path: Path, data: bytes) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_meals(tmp_path, train=2, test=1, seed=1, longest_side=64)
    assert not (tmp_path / "train.txt").exists() and not (tmp_path / "test.txt").exists()
    assert (tmp_path / "images" / "synthetic__0001.jpg").stat().st_size > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda folder: draw_meal(0, MIN_SIDE - 1, 64), "at least 32 x 32 pixels, asked for 31 x 64"),
        (lambda folder: draw_meal(-1, 64, 64), "0 or more, found -1"),
        (lambda folder: write_meals(folder, 0, 0, seed=0), "asked for 0 train and 0 test"),
        (lambda folder: write_meals(folder, 5, -1, seed=0), "asked for 5 train and -1 test"),
        (lambda folder: write_meals(folder, 99_999, 1, seed=0), "1 to 99999 meals"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        call(tmp_path)
