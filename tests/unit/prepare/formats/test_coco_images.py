"""Where the image of a `file_name` lies: the path conventions of tools, and ambiguous names."""

import logging
import unicodedata
from pathlib import Path

import pytest

from foodseg import storage
from foodseg.prepare.formats.coco_images import ImageFinder, ImageReference


def touch(root: Path, *paths: str) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return str(root)


def locate(
    src: str, *names: str, document: str = "annotations/instances_train.json", split: str = "train"
) -> list[str]:
    """Path of each image, or the reason why it is not found."""
    found = ImageFinder(src).locate_all([ImageReference(document, split, name) for name in names])
    return [location.path or location.reason for location in found]


@pytest.mark.parametrize(
    ("path", "file_name"),
    [
        # a path from another machine
        ("images/000.jpg", "..\\..\\label-studio\\media\\upload\\4\\000.jpg"),
        ("images/000.jpg", "../../../media/upload/4/000.jpg"),
        ("images/000.jpg", "images\\1/000.jpg"),
        ("images/000.jpg", "upload/4/000.jpg"),
        ("images/000.jpg", "/home/me/meals/000.jpg"),
        ("images/000.jpg", "C:\\Users\\me\\meals\\000.jpg"),
        ("images/000.jpg", "file:///home/me/000.jpg"),
        ("images/000.jpg", "./images/000.jpg"),
        ("images/000.jpg", "annotations/../images/000.jpg"),
        # a URL
        ("images/000.jpg", "https://example.com/meals/000.jpg"),
        ("images/000.jpg", "https://bucket.s3.amazonaws.com/a/000.jpg?X-Amz-Signature=a/b.jpg&x=1"),
        ("images/000.jpg", "s3://bucket/meals/000.jpg"),
        ("images/000.jpg", "/data/upload/4/000.jpg?t=1"),
        ("images/000.jpg", "/data/local-files/?d=images%2F000.jpg"),
        ("images/000.jpg", "/data/local-files/?d=meals/images/000.jpg&t=1"),
        ("images/my meal 1.jpg", "my%20meal%201.jpg"),
        ("images/my meal 1.jpg", "https://example.com/my%20meal%201.jpg"),
        ("images/50%.jpg", "50%25.jpg"),
        ("images/caf\u00e9 #1.jpg", "caf%C3%A9%20%231.jpg"),
        # another name
        ("images/000.jpg", "000.JPG"),
        ("images/IMG_1.JPG", "img_1.jpg"),
        ("Images/000.jpg", "images/000.jpg"),
        ("images/000.jpg", "000.png"),
        ("images/000.jpeg", "000.jpg"),
        ("images/000.jpg", "000"),
        ("images/000.jpg", " 000.jpg \n"),
        ("images/000.jpg", "1a2b3c4d-000.jpg"),
        ("images/000.jpg", "../upload/7/1a2b3c4d-000.jpg"),
        # deeper than the path
        ("images/batch_1/000.jpg", "000.jpg"),
        ("a/b/c/d/000.jpg", "000.jpg"),
        ("a/b/c/d/000.jpg", "c/d/000.jpg"),
    ],
)
def test_a_name_that_means_one_image(
    path: str, file_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    src = touch(tmp_path, path, "images/other.jpg")
    with caplog.at_level(logging.INFO):
        assert locate(src, file_name) == [path]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_both_unicode_forms(form: str, tmp_path: Path) -> None:
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    name = unicodedata.normalize(form, "cr\u00e8me br\u00fbl\u00e9e.jpg")
    src = touch(tmp_path, f"images/{name}")
    assert locate(src, unicodedata.normalize(other, name)) == [f"images/{name}"]


def test_an_exact_path_is_preferred(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    src = touch(
        tmp_path, "images/a%20b.jpg", "images/a b.jpg", "images/c.JPG", "images/c.jpg", "images/d?x.jpg", "d.jpg"
    )
    names = ["a%20b.jpg", "a b.jpg", "c.JPG", "c.jpg", "d?x.jpg"]
    with caplog.at_level(logging.INFO):
        assert locate(src, *names) == [f"images/{name}" for name in names]
    assert not caplog.records


def test_inexact_matches_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    src = touch(tmp_path, "images/1.jpg", "images/2.jpg", "images/3.jpg")
    with caplog.at_level(logging.INFO):
        locate(src, "1.JPG", "2.JPG", "3.jpg")
    assert [record.getMessage() for record in caplog.records] == [
        "annotations/instances_train.json: 2 images are not where `file_name` says and were found by the last part of "
        "it: '1.JPG' is images/1.jpg"
    ]


def test_the_path_decides_between_images_of_one_name(tmp_path: Path) -> None:
    src = touch(tmp_path, "x/batch_1/000.jpg", "x/batch_2/000.jpg", "y/batch_1/000.jpg")
    assert locate(src, "here/x/batch_1/000.jpg", "batch_2/000.jpg") == ["x/batch_1/000.jpg", "x/batch_2/000.jpg"]
    assert locate(src, "batch_1/000.jpg") == [
        "file_name 'batch_1/000.jpg' may mean x/batch_1/000.jpg or y/batch_1/000.jpg: write its path from the source "
        "folder"
    ]


def test_the_folder_and_the_split_of_the_coco_file_decide(tmp_path: Path) -> None:
    src = touch(tmp_path, "train/pics/1.jpg", "val/pics/1.jpg")
    assert locate(src, "1.jpg", document="train/labels.json") == ["train/pics/1.jpg"]
    assert locate(src, "1.jpg", document="val/annotations/labels.json", split="val") == ["val/pics/1.jpg"]
    assert locate(src, "1.jpg", document="annotations/instances_val.json", split="val") == ["val/pics/1.jpg"]
    assert "may mean train/pics/1.jpg or val/pics/1.jpg" in locate(src, "1.jpg", split="test")[0]


def test_two_names_for_one_image_are_both_ambiguous(tmp_path: Path) -> None:
    src = touch(tmp_path, "images/1.jpg", "images/2.jpg")
    assert locate(src, "a/1.jpg", "b/1.jpg", "2.jpg", "c/2.jpg", "2.jpg") == [
        "file_name 'a/1.jpg' may mean images/1.jpg, but so does 'b/1.jpg'",
        "file_name 'b/1.jpg' may mean images/1.jpg, but so does 'a/1.jpg'",
        "images/2.jpg",
        "file_name 'c/2.jpg' may mean images/2.jpg, but so does '2.jpg'",
        "images/2.jpg",
    ]


def test_masks_and_drawings_are_not_taken_for_images(tmp_path: Path) -> None:
    src = touch(tmp_path, "data/1.jpg", "masks/1.png", "Visualization/1.jpg", "SegmentationClass/2.png", "labels/3.png")
    assert locate(src, "1.jpg", "1.png")[1] == "file_name '1.png' may mean data/1.jpg, but so does '1.jpg'"
    assert locate(src, "1.jpg") == locate(src, "1.png") == ["data/1.jpg"]
    assert locate(src, "Visualization/1.jpg") == ["Visualization/1.jpg"]  # the exact path
    assert "is not in the data set" in locate(src, "2.png")[0]


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    src = touch(
        tmp_path, "__MACOSX/images/._1.jpg", "__MACOSX/images/1.jpg", ".cache/1.jpg", "images/._1.jpg", "pics/1.jpg"
    )
    assert locate(src, "1.jpg") == ["pics/1.jpg"]
    assert "is not in the data set" in locate(src, "._1.jpg")[0]


def test_another_extension_is_an_image_where_images_are_kept_and_a_near_name_elsewhere(tmp_path: Path) -> None:
    src = touch(tmp_path, "images/1.jpg", "small/2.jpg")
    assert locate(src, "1.png", "upload/1.png") == [
        "file_name '1.png' may mean images/1.jpg, but so does 'upload/1.png'",
        "file_name 'upload/1.png' may mean images/1.jpg, but so does '1.png'",
    ]
    assert locate(src, "upload/1.png") == ["images/1.jpg"]
    assert locate(src, "2.png") == ["file_name '2.png' is not in the data set; small/2.jpg is there"]


def test_a_near_name_is_offered(tmp_path: Path) -> None:
    src = touch(tmp_path, "images/meal_0001.jpg", "images/b.jpg")
    assert locate(src, "meal_00001.jpg", "zzzzzz.jpg") == [
        "file_name 'meal_00001.jpg' is not in the data set; images/meal_0001.jpg is there",
        "file_name 'zzzzzz.jpg' is not in the data set; there is images/b.jpg, for example",
    ]
    empty = touch(tmp_path / "empty", "annotations/instances_train.json", "masks/1.png")
    assert locate(empty, "1.jpg") == ["file_name '1.jpg' is not in the data set, which holds no images"]


def test_nothing_outside_the_source_is_looked_at(tmp_path: Path) -> None:
    touch(tmp_path, "secret.jpg", "src/images/1.jpg")
    for name in ("../secret.jpg", "../../secret.jpg", str(tmp_path / "secret.jpg"), "images/../../secret.jpg"):
        assert "is not in the data set" in locate(str(tmp_path / "src"), name)[0]


def test_a_folder_of_a_name_with_an_extension_is_not_an_image(tmp_path: Path) -> None:
    src = touch(tmp_path, "images/1.jpg/2.jpg")
    assert locate(src, "images/1.jpg/2.jpg") == ["images/1.jpg/2.jpg"]
    assert "is not in the data set" in locate(src, "images/1.jpg/2.jpg/3.jpg")[0]


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/deep/1.jpg")
    src = touch(tmp_path / "src", "annotations/instances_train.json")
    (tmp_path / "src/pics").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "src/loop").symlink_to(tmp_path / "src")
    assert locate(src, "1.jpg") == ["pics/deep/1.jpg"]


def test_a_thousand_images_are_found_with_a_few_listings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{n:04d}.jpg" for n in range(1000)]
    src = touch(tmp_path, *(f"pics/{name}" for name in names))
    calls = []
    listed, walked = storage.list_names, storage.list_tree
    monkeypatch.setattr(storage, "list_names", lambda uri: calls.append(uri) or listed(uri))
    monkeypatch.setattr(storage, "list_tree", lambda uri: calls.append(uri) or walked(uri))
    assert locate(src, *names) == [f"pics/{name}" for name in names]
    assert len(calls) <= 12
