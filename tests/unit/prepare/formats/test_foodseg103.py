"""FoodSeg103's layout: the sample of the real one, and variations of it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foodseg.errors import UserError
from foodseg.prepare.formats.foodseg103 import list_foodseg103, missing_in_foodseg103


def write(folder: Path, train: str = "00000000\n00000004.jpg\n", test: str | None = "00000048\n") -> Path:
    """Writes four images of 4 x 3 pixels, each mask full of one id."""
    images, masks = folder / "Images" / "img_dir", folder / "Images" / "ann_dir"
    for index, name in enumerate(("train/00000000", "train/00000004", "train/00000007", "test/00000048")):
        for path in (images / f"{name}.jpg", masks / f"{name}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (90, 40, 10)).save(images / f"{name}.jpg")
        Image.new("L", (4, 3), index).save(masks / f"{name}.png")
    (folder / "ImageSets").mkdir()
    (folder / "ImageSets" / "train.txt").write_text(train)
    if test is not None:
        (folder / "ImageSets" / "test.txt").write_text(test)
    (folder / "category_id.txt").write_text("0\tbackground\n1\tcandy\n2\tegg tart\n3\tfrench fries\n")
    return folder


def test_the_sample_of_the_real_layout(shared: Path) -> None:
    root = shared / "datasets" / "layout_samples" / "FoodSeg103"
    listing = list_foodseg103(str(root))
    assert len(listing.classes) == 104 and listing.classes.names[:3] == ("background", "candy", "egg tart")
    assert [record.split for record in listing.records] == ["train"] * 26 + ["test"] * 11
    assert [r.image_id for r in listing.records if r.image_id.startswith("0000")] == [
        "00000000",
        "00000004",
        "00000048",
    ]
    assert {record.source for record in listing.records} == {"foodseg103"}
    for record in listing.records:
        assert record.mask is not None
        original = np.array(Image.open(root / "Images" / "ann_dir" / record.split / f"{record.image_id}.png"))
        np.testing.assert_array_equal(record.mask.read(), original)
        assert (
            record.image.read() == (root / "Images" / "img_dir" / record.split / f"{record.image_id}.jpg").read_bytes()
        )


def test_the_folder_around_it_is_the_source_too(tmp_path: Path) -> None:
    root = write(tmp_path / "FoodSeg103")
    assert list_foodseg103(str(tmp_path)) == list_foodseg103(str(root))
    assert [(r.image_id, r.split) for r in list_foodseg103(str(root)).records] == [
        ("00000000", "train"), ("00000004", "train"), ("00000048", "test"),
    ]  # fmt: skip


def test_folders_in_another_case(tmp_path: Path) -> None:
    root = write(tmp_path / "FoodSeg103")
    (root / "Images" / "img_dir").rename(root / "Images" / "IMG_DIR")
    (root / "Images").rename(root / "IMAGES")
    (root / "ImageSets").rename(root / "imagesets")
    (root / "category_id.txt").rename(root / "Category_ID.txt")
    root.rename(tmp_path / "foodseg103")
    listing = list_foodseg103(str(tmp_path))
    masks = [record.mask.read() for record in listing.records if record.mask]
    assert [mask.tolist() for mask in masks] == [[[0] * 4] * 3, [[1] * 4] * 3, [[3] * 4] * 3]
    assert all(record.image.read()[:2] == b"\xff\xd8" for record in listing.records)


def test_a_listed_image_without_its_files_is_refused_when_it_is_read(tmp_path: Path) -> None:
    root = write(tmp_path, train="00000000\n12345678\n")
    (root / "Images" / "ann_dir" / "train" / "00000000.png").unlink()
    first, gone = list_foodseg103(str(root)).records[:2]
    assert first.mask is not None
    with pytest.raises(UserError, match=r"ann_dir/train has no mask 00000000\.png"):
        first.mask.read()  # a mask that is missing is not an unlabelled image
    with pytest.raises(UserError, match=r"train.txt lists '12345678', and no image in train/ has that name"):
        gone.image.read()


def test_a_copy_without_its_test_split(tmp_path: Path) -> None:
    assert {record.split for record in list_foodseg103(str(write(tmp_path, test=None))).records} == {"train"}


@pytest.mark.parametrize("name", ["category_id.txt", "ImageSets/train.txt", "Images/ann_dir"])
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / name).rename(root / "elsewhere")
    assert len(missing_in_foodseg103(str(root))) == 1
    with pytest.raises(UserError, match=f"is not laid out as FoodSeg103: {name}.* missing; expected category_id.txt"):
        list_foodseg103(str(root))
