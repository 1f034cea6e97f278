"""Masks are matched with images by their names, where one reading is possible."""

import pytest

from foodseg.prepare.formats.mask_names import match_masks

STEMS = [f"s__{number:03d}" for number in range(6)]
IMAGES = [f"{stem}.jpg" for stem in STEMS]


@pytest.mark.parametrize(
    "form",
    [
        "{}.png", "{}.PNG", "{}.tif", "{}_mask.png", "{}-gt.bmp", "{}Mask.png", "{} (labels).png", "mask_{}.png",
        "gt_{}_seg.png", "{}.jpg.png", "train/{}.png", "train/{}_label.png", "a/b/{}.png",
    ],
)  # fmt: skip
def test_one_rule_for_all(form: str) -> None:
    found = match_masks(IMAGES, [form.format(stem) for stem in STEMS])
    assert found.masks == {image: form.format(stem) for image, stem in zip(IMAGES, STEMS, strict=True)}
    assert (found.unused, found.rivals) == ([], None)


def test_texts_before_the_names_of_both_sides() -> None:
    images, masks = [f"img_{n:03d}.jpg" for n in range(5)], [f"mask_{n:03d}.png" for n in range(5)]
    assert match_masks(images, masks).masks == dict(zip(images, masks, strict=True))


def test_folders_on_both_sides() -> None:
    images = ["canteen/000.jpg", "home/000.jpg", "home/001.jpg"]
    for masks in (
        ["canteen/000.png", "home/000.png", "home/001.png"],
        ["canteen/000_mask.png", "home/000_mask.png", "home/001_mask.png"],
        ["canteen_000.png", "home_000.png", "home_001.png"],
        ["canteen__000.png", "home__000.png", "home__001.png"],
    ):
        assert match_masks(images, masks).masks == dict(zip(images, masks, strict=True)), masks
    found = match_masks(images, ["000.png", "001.png"])
    assert found.masks == {"home/001.jpg": "001.png"}, "two images are called 000"
    assert found.unused == ["000.png"]


def test_a_part_of_the_images_is_labelled() -> None:
    found = match_masks(IMAGES, ["s__001_mask.png", "s__004_mask.png"])
    assert found.masks == {"s__001.jpg": "s__001_mask.png", "s__004.jpg": "s__004_mask.png"}
    found = match_masks(IMAGES, ["s__001.png", "s__004_vis.png", "rice.png"])
    assert found.masks == {"s__001.jpg": "s__001.png"}
    assert found.unused == ["s__004_vis.png", "rice.png"], "one name of another form is not a rule"


@pytest.mark.parametrize(
    "masks",
    [
        ["rice.png", "egg.png"],
        [f"{number}.png" for number in range(20, 30)],
        [f"{stem}{number}.png" for stem in STEMS for number in range(2)],
        [f"{stem}_{number}.png" for stem in STEMS for number in range(2)],
    ],
)
def test_names_that_mean_something_else(masks: list[str]) -> None:
    found = match_masks(IMAGES, masks)
    assert (found.masks, found.unused) == ({}, masks)
    found = match_masks([f"{number}.jpg" for number in range(1, 12)], [f"{number}.png" for number in range(20, 31)])
    assert found.masks == {}


def test_two_masks_of_each_image_are_rivals() -> None:
    found = match_masks(IMAGES, [f"{stem}_{kind}.png" for stem in STEMS for kind in ("mask", "colour")])
    assert found.masks == {} and found.rivals is not None
    assert sorted(found.rivals) == ["s__000_colour.png", "s__000_mask.png"]
    exact = [f"{stem}{end}.png" for stem in STEMS for end in ("", "_colour")]
    assert match_masks(IMAGES, exact).masks == {f"{stem}.jpg": f"{stem}.png" for stem in STEMS}


def test_two_files_of_one_stem() -> None:
    assert match_masks(["a.jpg"], ["a.png", "a.tif"]).unclear == {"a.jpg": ("a.png", "a.tif")}
    found = match_masks(["a.jpg"], ["a.jpg", "a.png"])
    assert (found.masks, found.unused) == ({"a.jpg": "a.png"}, []), "a JPEG of the same name shows the mask"
    assert match_masks(["a.jpg"], ["a.jpg"]).masks == {"a.jpg": "a.jpg"}, "refused when it is read"


def test_case_and_unicode_forms() -> None:
    assert match_masks(["Pizza.JPG"], ["pizza.PNG"]).masks == {"Pizza.JPG": "pizza.PNG"}
    assert match_masks(["caf\u00e9.jpg"], ["cafe\u0301.png"]).masks == {"caf\u00e9.jpg": "cafe\u0301.png"}
    assert match_masks(["a.jpg", "A.jpg"], ["A.png", "a.png"]).masks == {"a.jpg": "a.png", "A.jpg": "A.png"}
