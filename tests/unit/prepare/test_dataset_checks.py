"""Checks of a data set as a whole: annotations that belong to no image, splits without food."""

import logging

import pytest

from foodseg.classes import ClassTable
from foodseg.data.shards import SplitCounts
from foodseg.errors import DataRefused
from foodseg.prepare.dataset_checks import refuse_foodless, refuse_lost_annotations, warn_of_labels
from foodseg.prepare.record import LostAnnotations


def counts(*class_pixels: int, images: int = 3, unlabelled: int = 0, ignored: int = 0) -> SplitCounts:
    return SplitCounts(
        images=images,
        unlabelled=unlabelled,
        groups=images,
        class_images=tuple(min(pixels, 1) for pixels in class_pixels),
        class_pixels=class_pixels,
        ignored_pixels=ignored,
    )


@pytest.mark.parametrize(
    ("count", "total", "max_bad"),
    [(0, 0, 0), (0, 10, 0), (1, 100, 0.01), (99, 100, 1)],
)
def test_a_share_of_annotations_up_to_max_bad_may_be_lost(count: int, total: int, max_bad: float) -> None:
    refuse_lost_annotations(LostAnnotations(count, total, "annotation 1 has no image_id"), max_bad)
    refuse_lost_annotations(None, max_bad)


@pytest.mark.parametrize(
    ("count", "total", "max_bad", "share"),
    [(1, 10, 0, "0.1"), (2, 100, 0.01, "0.02"), (99, 100, 0.5, "0.99")],
)
def test_more_is_refused(count: int, total: int, max_bad: float, share: str) -> None:
    words = (
        f"^{count} of {total} annotations belong to no image, a share of {share}, and --max-bad is {max_bad:g}; "
        "the first: annotation 1 has no image_id$"
    )
    with pytest.raises(DataRefused, match=words):
        refuse_lost_annotations(LostAnnotations(count, total, "annotation 1 has no image_id"), max_bad)


@pytest.mark.parametrize("max_bad", [0, 0.01, 1])
def test_losing_all_is_refused_whatever_max_bad_is(max_bad: float) -> None:
    words = "^none of the 299 annotations belongs to an image; the first: annotation 1 has no image_id$"
    with pytest.raises(DataRefused, match=words):
        refuse_lost_annotations(LostAnnotations(299, 299, "annotation 1 has no image_id"), max_bad)


def test_one_food_pixel_in_each_split_is_enough() -> None:
    refuse_foodless({"train": counts(100, 0, 1), "test": counts(0, 1, 0, images=1)}, "meals")


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (
            {"train": counts(90, 0, 0)},
            r"^meals has no labelled food pixel in train \(train: 3 images, 3 with background and ignored pixels "
            r"only\): check the masks or annotations and the ids of the classes$",
        ),
        (
            {"train": counts(90, 4), "test": counts(0, 0, images=1, unlabelled=1)},
            r"^meals has no labelled food pixel in test \(test: 1 image, 1 without mask or annotations\): "
            "label some of these images, or leave the split out$",
        ),
        (
            {"train": counts(9, 0, unlabelled=1), "val": counts(9, 0), "test": counts(9, 5)},
            r"in train and val \(train: 3 images, 1 without mask or annotations and 2 with background and ignored "
            r"pixels only; val: 3 images, 3 with background and ignored pixels only\): label some",
        ),
    ],
)
def test_a_split_without_food_is_refused_by_name(splits: dict[str, SplitCounts], words: str) -> None:
    with pytest.raises(DataRefused, match=words):
        refuse_foodless(splits, "meals")


def test_food_that_is_all_255_gets_its_own_remedy() -> None:
    words = (
        r"^meals has no labelled food pixel in train \(train: 3 images, 3 with background and ignored pixels only, "
        r"25.0% of them ignored\): ignored pixels \(255 in masks of 8 bits, .* where they mark food, write its id"
    )
    with pytest.raises(DataRefused, match=words):
        refuse_foodless({"train": counts(75, 0, 0, ignored=25), "test": counts(9, 9, 9, ignored=0)}, "meals")


def test_classes_that_no_mask_holds_are_named(caplog: pytest.LogCaptureFixture) -> None:
    classes = ClassTable(("background", "rice", "egg", "tofu"))
    with caplog.at_level(logging.WARNING):
        warn_of_labels({"train": counts(9, 1, 0, 0), "test": counts(9, 0, 1, 0)}, classes)
    assert "no mask holds the id of 1 of the 4 classes: 3 'tofu'; take them out" in caplog.text
    caplog.clear()
    many = ClassTable(tuple(map(str, range(20))))
    warn_of_labels({"train": counts(9, 1, *[0] * 18)}, many)
    assert "18 of the 20 classes: 2 '2', 3 '3', 4 '4', 5 '5', 6 '6' and 13 more;" in caplog.text
    caplog.clear()
    warn_of_labels({"train": counts(9, 1, 1, 1, ignored=11)}, classes)
    assert caplog.text == ""


def test_a_split_that_is_mostly_ignored_is_named(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_labels({"train": counts(9, 1, ignored=90), "val": counts(9, 1, ignored=1)}, ClassTable(("background", "a")))
    assert caplog.messages == [
        "train: 90 % of the pixels of the masks are 255 = ignored, which is never learned; where it marks food, write "
        "the id of the food there"
    ]
