"""Files in any case, splits in file names."""

import logging
from pathlib import Path

import pytest

from foodseg.errors import UserError
from foodseg.prepare.formats.layout import locate, missing, splits_by_name, visible_names


def test_the_case_of_a_name_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "IMAGES" / "Img_Dir").mkdir(parents=True)
    assert locate(str(tmp_path), "Images/img_dir") == str(tmp_path / "IMAGES" / "Img_Dir")
    assert missing(str(tmp_path), ["images/IMG_DIR", "images/ann_dir", "x"]) == ["images/ann_dir", "x"]


def test_of_two_spellings_the_exact_one_is_taken(tmp_path: Path) -> None:
    for name in ("DATA", "data"):
        (tmp_path / name).mkdir()
    if len(list(tmp_path.iterdir())) == 2:  # not on a file system that ignores case
        assert locate(str(tmp_path), "data") == str(tmp_path / "data")
        assert locate(str(tmp_path), "Data") == str(tmp_path / "DATA")


def test_what_desktops_leave_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    left = ["._a.jpg", ".DS_Store", "__MACOSX", "Thumbs.db", "Desktop.ini", "@eaDir", ".ipynb_checkpoints"]
    for name in (*left, "a.jpg", "b", "macosx"):
        (tmp_path / name).write_text("")
    assert visible_names(str(tmp_path)) == ["a.jpg", "b", "macosx"]
    assert missing(str(tmp_path), ["thumbs.db", "A.jpg"]) == ["thumbs.db"]


def test_what_is_not_there_keeps_its_name(tmp_path: Path) -> None:
    assert locate(str(tmp_path), "a/b.txt") == str(tmp_path / "a" / "b.txt")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("annotations/instances_val2017.json", "val"),
        ("valid/_annotations.coco.json", "val"),
        ("data/validation-00000-of-00001.parquet", "val"),
        ("Test.json", "test"),
        ("training_set.json", "train"),
        ("test-dev.json", "test"),
    ],
)
def test_names_give_the_split(name: str, split: str) -> None:
    assert splits_by_name([name], "x") == {name: split}


def test_a_single_file_without_a_split_is_train(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert splits_by_name(["latest.json"], "meals") == {"latest.json": "train"}  # no "test" in it
    assert "meals: latest.json names no split" in caplog.text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train.json", "a.json"], "meals: a.json names no split; each file has to have one of train, val and test"),
        (["trainval.json", "test.json"], "trainval.json names no split"),
        (["train_and_test.json"], "train_and_test.json names test and train"),
    ],
)
def test_names_without_one_split(names: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        splits_by_name(names, "meals")
