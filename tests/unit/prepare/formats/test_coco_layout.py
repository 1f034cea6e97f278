"""Where annotation tools put their COCO files, in which encodings, and what is skipped."""

import codecs
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from foodseg import storage
from foodseg.errors import UserError
from foodseg.prepare.formats.coco import list_coco, missing_in_coco
from foodseg.prepare.formats.coco_layout import find_annotation_files
from foodseg.prepare.formats.detect import find_format, list_source
from foodseg.prepare.record import ImageFile
from tests.unit.prepare.formats.test_coco import annotation, document, image, summary, write


def labels(file_name: str = "1.jpg", **more: Any) -> dict[str, Any]:
    return {**document([image(1, file_name)], [annotation(1, 1)]), **more}


@pytest.mark.parametrize(
    ("path", "file_name", "image_path"),
    [
        ("annotations/instances_default.json", "1.jpg", "images/default/1.jpg"),  # CVAT
        ("annotations/instances_default.json", "sub/1.jpg", "images/default/sub/1.jpg"),
        ("annotations/instances_Train.json", "1.jpg", "images/Train/1.jpg"),
        ("annotations/instances_train.json", "1.jpg", "images/train/1.jpg"),  # Datumaro
        ("annotations.json", "JPEGImages/1.jpg", "JPEGImages/1.jpg"),  # labelme2coco
        ("annotations.json", "1.jpg", "JPEGImages/1.jpg"),
        ("data/annotations.json", "batch_1/1.jpg", "data/batch_1/1.jpg"),  # TACO
        ("result.json", "images\\1.jpg", "images/1.jpg"),  # Label Studio
        ("labels.json", "1.jpg", "data/1.jpg"),  # FiftyOne
        ("train/labels.json", "1.jpg", "train/data/1.jpg"),
        ("train/annotations/instances.json", "1.jpg", "train/images/1.jpg"),  # Supervisely
        ("meals/annotations/instances.json", "1.jpg", "meals/images/1.jpg"),
        ("meals/_annotations.coco.json", "1.jpg", "meals/1.jpg"),  # Roboflow without splits
        ("train/_annotations.coco.json", "1.jpg", "train/1.jpg"),
        ("via_export_coco.json", "1.jpg", "1.jpg"),
        ("annotations/train/labels.json", "1.jpg", "images/train/1.jpg"),
        ("export/2024/project/coco.json", "1.jpg", "export/2024/project/images/1.jpg"),
        ("instances.json", "1.jpg", "photos/2024/1.jpg"),
        ("Annotations/labels.JSON", "1.jpg", "Images/1.jpg"),
    ],
)
def test_the_layouts_of_tools_are_found(path: str, file_name: str, image_path: str, tmp_path: Path) -> None:
    src = write(tmp_path, {path: labels(file_name), image_path: None})
    (tmp_path / path).with_name("._" + Path(path).name).write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "__MACOSX/annotations").mkdir(parents=True)
    (tmp_path / "__MACOSX/annotations/._instances_train.json").touch()
    assert find_format(src) == "coco"
    assert summary(src) == [("1", "train", image_path)]


def test_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    pairs = [image(1, "..\\media\\upload\\1.jpg"), image(2, "2.JPG"), image(3, "3.jpg")]
    files = {"result.json": document(pairs, [annotation(1, 1)]), "._result.json": "x"}
    local = write(tmp_path, files | dict.fromkeys(["images/1.jpg", "pics/a b/2.jpg", "pics/3.jpg", "pics/._3.jpg"]))
    for path in storage.list_tree(local):
        storage.write_bytes(storage.join(bucket, path), storage.read_bytes(storage.join(local, path)))
    assert find_format(bucket) == "coco"
    records = list_coco(bucket).records
    assert [record.image for record in records] == [
        ImageFile(storage.join(bucket, path)) for path in ("images/1.jpg", "pics/a b/2.jpg", "pics/3.jpg")
    ]
    assert records[0].image.read()[:2] == b"\xff\xd8"


def test_splits_in_folders(tmp_path: Path) -> None:
    names = {"train": "train", "validation": "val", "test": "test"}
    files = {f"{name}/labels.json": labels() for name in names} | {f"{name}/data/1.jpg": None for name in names}
    assert summary(write(tmp_path, files)) == [
        (f"{name}/data/1.jpg", split, f"{name}/data/1.jpg") for name, split in names.items()
    ]


def test_the_name_of_a_file_goes_before_that_of_its_folder(tmp_path: Path) -> None:
    files = {"test_kitchen/train.json": labels(), "test_kitchen/val.json": labels("2.jpg")}
    src = write(tmp_path, files | {"test_kitchen/1.jpg": None, "test_kitchen/2.jpg": None})
    assert [split for _, split, _ in summary(src)] == ["train", "val"]


def test_files_of_one_split_are_read_together(tmp_path: Path) -> None:
    files = {"annotations/train_1.json": labels("1.jpg"), "annotations/train_2.json": labels("2.jpg")}
    src = write(tmp_path, files | {"images/1.jpg": None, "images/2.jpg": None})
    assert [(image_id, split) for image_id, split, _ in summary(src)] == [("1", "train"), ("2", "train")]


@pytest.mark.parametrize(
    "others",
    [
        {"annotations/captions_train.json": labels(), "annotations/person_keypoints_train.json": labels()},
        {"annotations/panoptic_train.json": labels(), "annotations/image_info_test.json": labels()},
        {"annotations/package.json": {"name": "meals"}, "annotations/classes.json": ["rice"]},
    ],
)
def test_files_of_other_tasks_are_skipped(
    others: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    src = write(tmp_path, {"annotations/train.json": labels(), "images/1.jpg": None, **others})
    with caplog.at_level(logging.INFO):
        assert find_format(src) == "coco"
        assert summary(src) == [("1", "train", "images/1.jpg")]
    assert find_annotation_files(src).skipped == tuple(sorted(others))
    assert f"skipped, since they are not COCO instances: {', '.join(sorted(others))}\n" in caplog.text


def test_other_json_next_to_the_coco_file(tmp_path: Path) -> None:
    files = {
        "package.json": {"name": "x"},
        "_classes.json": {"0": "rice"},
        "zz.json": "no JSON",
        "meals.json": labels(),
    }
    src = write(tmp_path, files | {"1.jpg": None})
    assert summary(src) == [("1", "train", "1.jpg")]


@pytest.mark.parametrize("size", [0, 3 << 20])
@pytest.mark.parametrize("first", ["images", "annotations"])
def test_a_large_file_is_recognised_by_either_end(first: str, size: int, tmp_path: Path) -> None:
    lists = labels()
    ordered = {first: lists.pop(first), "info": {"text": "x" * size}, **lists}
    src = write(tmp_path, {"meals.json": ordered, "pics/1.jpg": None})
    assert missing_in_coco(src) == [] and find_annotation_files(src).paths == ("meals.json",)


@pytest.mark.parametrize("folder", ["annotations", "labels/json"])
def test_only_some_of_one_json_per_image_are_read(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    src = write(tmp_path, {f"{folder}/{n:03d}.json": {"shapes": [], "imagePath": f"{n}.jpg"} for n in range(120)})
    assert missing_in_coco(src) == [f"{folder}/000.json with `images`"]
    assert f"120 .json files such as {folder}/000.json are in one folder; only the first 100" in caplog.text


def test_a_json_that_is_not_coco_is_not_a_data_set(tmp_path: Path) -> None:
    src = write(tmp_path, {"id2label.json": {}, "data/train.parquet": "x"})
    assert missing_in_coco(src) == ["id2label.json with `images`"]
    assert missing_in_coco(write(tmp_path / "empty", {"images/1.jpg": None})) == ["a .json with annotations"]


def test_a_coco_file_next_to_another_format_is_ignored(tmp_path: Path) -> None:
    files = {"classes.txt": "0\tbackground\n1\trice\n", "train.txt": "1\n", "images/1.jpg": None, "masks/1.png": None}
    src = write(tmp_path, {**files, "meals.json": labels()})
    assert find_format(src) == "folder"
    assert [record.image_id for record in list_source(src, "coco").records] == ["1"]


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: text.replace(": ", ":\r\n").encode() + b"\r\n\x20\r\n",
    ],
)
def test_json_in_the_encodings_of_editors(encode: Any, tmp_path: Path) -> None:
    categories = [{"id": 3, "name": "cr\u00e8me br\u00fbl\u00e9e \u8c46\u8150"}]
    src = write(tmp_path, {"images/1.jpg": None})
    text = json.dumps(labels(categories=categories), ensure_ascii=False)
    (tmp_path / "result.json").write_bytes(encode(text))
    assert find_format(src) == "coco"
    listing = list_coco(src)
    assert listing.classes.names[1] == categories[0]["name"] and len(listing.records) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"result.json is not JSON: it is empty$"),
        (b" \n", r"is not JSON: it is empty$"),
        (
            b'{"images": [{"file_name": "1.j',
            "it ends too early, at line 1, column 27, character 26 of 30: copy or export",
        ),
        (b'{"images": [{"file_name": "1.jpg"}', "it ends too early, at line 1, column 35, character 34 of 34"),
        (b'{"images": [],\n "file_name": 1,}', "is not JSON: .* at line 2, column 1[67], character 3[01] of 32$"),
        (b'{"images": []}\n{"images": []}', r"line 2, column 1, .* COCO is one object, not one a line \(JSON lines\)"),
        (b"<!DOCTYPE html><html><head><title>Log in", "is not JSON: it begins with '<!DOCTYPE html><html><head><ti'$"),
        (b'version https://git-lfs.github.com/spec/v1\noid "file_name": 1', "is a Git LFS pointer, .* `git lfs pull`"),
        (
            b'{"images": [{"file_name": "caf\xe9.jpg"}]}',
            r"cannot read .*result.json as text: byte 30 \(0xe9\) is not UTF-8",
        ),
    ],
)
def test_invalid_json_is_reported_with_its_position(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(UserError, match=words):
        list_source(str(tmp_path), "coco")
