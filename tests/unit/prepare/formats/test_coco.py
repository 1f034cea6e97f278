"""COCO data sets: the three layouts, categories, and entries that are wrong."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foodseg.errors import UserError
from foodseg.prepare.formats.coco import list_coco, missing_in_coco
from foodseg.prepare.record import ImageFile, Record

SQUARE = [0, 0, 2, 0, 2, 2, 0, 2]
CATEGORIES = [{"id": 17, "name": "egg"}, {"id": 3, "name": "rice", "supercategory": "grain"}]


def image(index: int, name: str, **more: Any) -> dict[str, Any]:
    return {"id": index, "file_name": name, "height": 3, "width": 4, **more}


def annotation(index: int, image_id: int, category: int = 3, **more: Any) -> dict[str, Any]:
    return {"id": index, "image_id": image_id, "category_id": category, "segmentation": [SQUARE], **more}


def document(images: list[Any], annotations: list[Any] | None = None, categories: Any = CATEGORIES) -> dict[str, Any]:
    parts = {"images": images, "annotations": annotations, "categories": categories}
    return {key: part for key, part in parts.items() if part is not None}


def write(folder: Path, files: dict[str, Any]) -> str:
    """Writes JSON files, and images of 4 x 3 pixels."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (4, 3)).save(path)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder)


def summary(src: str) -> list[tuple[str, str, str | None]]:
    """Id, split and the path of the image of each record."""
    paths = [
        str(Path(r.image.uri).relative_to(src)) if isinstance(r.image, ImageFile) else None
        for r in list_coco(src).records
    ]
    return [(r.image_id, r.split, path) for r, path in zip(list_coco(src).records, paths, strict=True)]


def reason(record: Record) -> str:
    """Why a record cannot be read."""
    with pytest.raises(UserError) as error:
        record.image.read()
        assert record.mask is not None
        record.mask.read()
    return str(error.value)


def test_the_layout_of_coco_2017(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    src = write(
        tmp_path,
        {
            "annotations/instances_val2017.json": document([image(9, "000009.jpg")], [annotation(1, 9, 17)]),
            "annotations/instances_train2017.json": document([image(1, "000001.jpg"), image(2, "a/000002.png")], []),
            "annotations/captions_train2017.json": {"annotations": []},
            "train2017/000001.jpg": None,
            "train2017/a/000002.png": None,
            "val2017/000009.jpg": None,
        },
    )
    with caplog.at_level(logging.INFO):
        assert summary(src) == [
            ("000001", "train", "train2017/000001.jpg"),
            ("000002", "train", "train2017/a/000002.png"),
            ("000009", "val", "val2017/000009.jpg"),
        ]
    assert "skipped, since they are not COCO instances: annotations/captions_train2017.json" in caplog.text
    assert missing_in_coco(src) == []


def test_images_in_images_or_in_a_folder_of_their_split_there(tmp_path: Path) -> None:
    src = write(
        tmp_path,
        {
            "annotations/train.json": document([image(1, "canteen__1.jpg"), image(2, "2.jpg")]),
            "annotations/test.json": document([image(1, "images/3.jpg"), image(2, "images\\4.jpg")]),
            "images/train/canteen__1.jpg": None,
            "images/2.jpg": None,
            "images/3.jpg": None,
            "images/4.jpg": None,
        },
    )
    assert summary(src) == [
        ("canteen__1", "train", "images/train/canteen__1.jpg"),
        ("2", "train", "images/2.jpg"),
        ("3", "test", "images/3.jpg"),
        ("4", "test", "images/4.jpg"),
    ]
    assert [record.source for record in list_coco(src).records] == ["canteen", "", "", ""]
    assert all(record.mask is None for record in list_coco(src).records)  # no list `annotations`: unlabelled


def test_the_layout_of_roboflow(tmp_path: Path) -> None:
    src = write(
        tmp_path,
        {f"{name}/_annotations.coco.json": document([image(0, "1.jpg")], []) for name in ("valid", "train", "test")}
        | {f"{name}/1.jpg": None for name in ("valid", "train", "test")},
    )
    # three images of one name are three images
    assert summary(src) == [
        ("train/1.jpg", "train", "train/1.jpg"),
        ("valid/1.jpg", "val", "valid/1.jpg"),
        ("test/1.jpg", "test", "test/1.jpg"),
    ]
    assert missing_in_coco(src) == []


@pytest.mark.parametrize("path", ["1.jpg", "images/1.jpg"])
def test_one_json_with_its_images_next_to_it(path: str, tmp_path: Path) -> None:
    src = write(tmp_path, {"labels.json": document([image(0, "1.jpg")], [annotation(1, 0)]), path: None})
    assert summary(src) == [("1", "train", path)]
    assert missing_in_coco(src) == []


def test_an_id_that_an_export_wrote_is_taken(tmp_path: Path) -> None:
    images = [image(0, "train/1.jpg", foodseg_id="train/1"), image(1, "2.jpg", foodseg_id=""), image(2, "3.jpg")]
    src = write(tmp_path, {"a.json": document(images, [])} | {f"images/{n}.jpg": None for n in ("train/1", "2", "3")})
    assert [image_id for image_id, _, _ in summary(src)] == ["train/1", "2", "3"]


def test_an_image_in_two_splits_keeps_one_id(tmp_path: Path) -> None:
    files = {f"annotations/{name}.json": document([image(0, "1.jpg")], []) for name in ("train", "test")}
    src = write(tmp_path, {**files, "images/1.jpg": None})
    assert summary(src) == [("1", "train", "images/1.jpg"), ("1", "test", "images/1.jpg")]


def test_categories_become_ids_without_gaps(tmp_path: Path) -> None:
    other = [{"id": 5, "name": "bean"}, CATEGORIES[0]]
    src = write(
        tmp_path,
        {
            "annotations/train.json": document([image(1, "1.jpg")], [annotation(1, 1, 17), annotation(2, 1, 3)]),
            "annotations/test.json": document([image(1, "2.jpg")], [annotation(1, 1, 5)], other),
            "images/1.jpg": None,
            "images/2.jpg": None,
        },
    )
    listing = list_coco(src)
    assert listing.classes.names == ("background", "rice", "bean", "egg")  # 3, 5, 17
    first, second = (record.mask.read() for record in listing.records if record.mask)
    # equally large: the later annotation, rice, lies on top
    assert first.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert second.tolist() == [[2, 2, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]]


def test_a_category_called_background_is_0(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "Background"}, {"id": 2, "name": "rice"}]
    annotations = [annotation(1, 1, 2), annotation(2, 1, 1, segmentation=[[0, 0, 1, 0, 1, 2, 0, 2]])]
    src = write(tmp_path, {"a.json": document([image(1, "1.jpg")], annotations, categories), "1.jpg": None})
    listing = list_coco(src)
    assert listing.classes.names == ("background", "rice")
    assert listing.records[0].mask is not None
    assert listing.records[0].mask.read().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_crowds_and_empty_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crowd = annotation(2, 1, 17, iscrowd=1, segmentation={"size": [3, 4], "counts": [0, 3, 9]})  # the left column
    src = write(
        tmp_path,
        {
            "a.json": document([image(1, "1.jpg"), image(2, "2.jpg")], [annotation(1, 1), crowd]),
            "1.jpg": None,
            "2.jpg": None,
        },
    )
    with caplog.at_level(logging.INFO):
        both, empty = (record.mask.read() for record in list_coco(src).records if record.mask)
    assert both.tolist() == [[2, 1, 0, 0], [2, 1, 0, 0], [2, 0, 0, 0]]  # the crowd is smaller than the square
    assert not empty.any() and empty.shape == (3, 4)
    assert "a.json: 1 of 2 images have no annotation and are all background; the first is 2.jpg" in caplog.text


def test_each_malformed_entry_is_a_record_that_says_why(tmp_path: Path) -> None:
    images = [
        image(1, "good.jpg"),
        image(2, "category.jpg"),
        image(3, "polygon.jpg"),
        image(4, "size.jpg", width=4.5),
        image(5, "flat.jpg", height=-3),
        image(6, "twice.jpg"),
        image(6, "twice2.jpg"),
        image(12, "number.jpg"),
        image("12", "text.jpg"),
        image(7, "nowhere.jpg"),
        {"id": 9, "fileName": "1.jpg", "height": 3, "width": 4},
        {"file_name": "noid.jpg", "height": 3, "width": 4},
        image(1.5, "fraction.jpg"),
        image(True, "true.jpg"),
        image(10, "nolabel.jpg"),
        image(11, "box.jpg"),
        image(13, "crowd.jpg"),
        image(14, "key.jpg"),
        image(15, "null.jpg"),
        image(16, "nothing.jpg"),
    ]
    annotations = [
        annotation(1, 1),
        annotation(2, 2, 99),
        {**annotation(3, 3), "segmentation": [SQUARE[:7]]},
        annotation(4, 6),
        {"id": 5, "category_id": 3, "segmentation": [SQUARE]},
        annotation(6, 77),
        annotation(7, 77),
        {"image_id": 10, "category_id": "rice", "segmentation": [SQUARE]},
        {**annotation(9, 11), "segmentation": [], "bbox": [0, 0, 2, 2]},
        annotation(10, 13, iscrowd="perhaps"),
        {"id": 11, "image_id": 14, "categoryId": 3, "segmentation": [SQUARE]},
        annotation(12, 15, None),
        {"id": 13, "image_id": 16, "category_id": 3, "polygon": [SQUARE]},
        annotation(14, 1.5),
        annotation(15, None),
        {"id": 16, "imageId": 1, "category_id": 3, "segmentation": [SQUARE]},
    ]
    names = [
        entry["file_name"]
        for entry in images
        if "file_name" in entry and entry["id" if "id" in entry else "width"] != 7
    ]
    src = write(tmp_path, {"a.json": document(images, annotations)} | dict.fromkeys(names))
    listing = list_coco(src)
    good, *bad = listing.records
    assert good.mask is not None and good.mask.read().max() == 1
    assert {record.image_id: reason(record) for record in bad} == {
        "category": "annotation 2 has category_id 99, which `categories` does not list",
        "polygon": "annotation 3: a polygon has an even number of coordinates, this one has 7",
        "size": "`images` gives height 3 and width 4.5; both should be numbers of pixels",
        "flat": "`images` gives height -3 and width 4; both should be numbers of pixels",
        "twice": "image id 6 occurs 2 times in `images`",
        "twice2": "image id 6 occurs 2 times in `images`",
        "number": "image id 12 occurs 2 times in `images`, as '12' and 12",
        "text": "image id 12 occurs 2 times in `images`, as '12' and 12",
        "nowhere": "file_name 'nowhere.jpg' is not in the data set; there is box.jpg, for example",
        "a.json, image 9": "its entry in `images` has no file_name, but 'fileName'",
        "noid": "its entry in `images` has no id, so that no annotation can refer to it",
        "fraction": "its entry in `images` has the id 1.5, so that no annotation can refer to it",
        "true": "its entry in `images` has the id True, so that no annotation can refer to it",
        "nolabel": "annotation number 8 has category_id 'rice', which `categories` does not list",
        "box": "annotation 9 has a bbox and no segmentation: a box does not say which pixels are meant",
        "crowd": "annotation 10 has iscrowd 'perhaps', which is neither 0 nor 1",
        "key": "annotation 11 has no category_id, but 'categoryId'",
        "null": "annotation 12 has no category_id: None is not an id",
        "nothing": "annotation 13 has no segmentation; its keys are id, image_id, category_id, polygon",
        "a.json, annotation 5": "annotation 5 has no image_id; its keys are id, category_id, segmentation",
        "a.json, annotation 6": (
            "annotation 6 and 1 more have image_id 77, which `images` does not list; the first id there is 1"
        ),
        "a.json, annotation 14": "annotation 14 has image_id 1.5, which is not an id (a whole number or a text)",
        "a.json, annotation 15": "annotation 15 has image_id None, which is not an id (a whole number or a text)",
        "a.json, annotation 16": "annotation 16 has no image_id, but 'imageId'",
    }
    assert listing.lost is not None and (listing.lost.count, listing.lost.total) == (6, 16)
    assert listing.lost.first == "a.json, annotation 5 has no image_id; its keys are id, category_id, segmentation"


FIRST, SECOND = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], [[2, 2, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("in_images", [int, float, str, lambda n: f" {n}", lambda n: f"{n}.0"])
@pytest.mark.parametrize("in_annotations", [int, float, str, lambda n: f"{n} ", lambda n: f"{n}.0"])
def test_ids_and_sizes_in_every_spelling_of_a_number(in_images: Any, in_annotations: Any, tmp_path: Path) -> None:
    images = [image(in_images(n), f"{n}.jpg", height=in_images(3), width=in_images(4)) for n in (1, 2)]
    annotations = [
        annotation(5, in_annotations(1), in_annotations(3)),
        annotation(6, in_annotations(2), in_annotations(17)),
    ]
    categories = [{**category, "id": in_images(category["id"])} for category in CATEGORIES]
    src = write(tmp_path, {"a.json": document(images, annotations, categories), "1.jpg": None, "2.jpg": None})
    listing = list_coco(src)
    assert listing.classes.names == ("background", "rice", "egg")
    assert listing.lost is not None and listing.lost.count == 0
    assert [record.mask.read().tolist() for record in listing.records if record.mask] == [FIRST, SECOND]


def test_texts_as_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [image("plate-1", "1.jpg"), image("plate-2", "2.jpg")]  # type: ignore[arg-type]
    annotations = [annotation(1, "plate-2", "b"), annotation(2, "plate-1", "7")]  # type: ignore[arg-type]
    categories = [{"id": "b", "name": "egg"}, {"id": "7", "name": "rice"}]
    src = write(tmp_path, {"a.json": document(images, annotations, categories), "1.jpg": None, "2.jpg": None})
    with caplog.at_level(logging.INFO):
        listing = list_coco(src)
    assert listing.classes.names == ("background", "rice", "egg")  # numbers before texts
    assert [record.mask.read().tolist() for record in listing.records if record.mask] == [FIRST, SECOND]
    assert "2 ids are spelled as text or floats and are read as whole numbers (category_id '7')" in caplog.text


@pytest.mark.parametrize("height", [None, float("nan"), "", 0, "0", "missing"])
def test_a_size_that_is_not_given_is_that_of_the_image(
    height: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = {key: value for key, value in image(1, "1.jpg", height=height).items() if value != "missing"}
    src = write(tmp_path, {"a.json": document([entry], [annotation(1, 1)]), "1.jpg": None})
    with caplog.at_level(logging.INFO):
        (record,) = list_coco(src).records
    assert record.mask is not None and record.mask.read().tolist() == FIRST
    assert "a.json: 1 images are listed without height and width; the sizes of their files are used" in caplog.text


def test_height_and_width_that_were_exchanged_in_all_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # of 3 x 5 pixels each; the first image alone does not decide
    images = [image(n, f"{n}.jpg", height=5, width=3) for n in (1, 2)]
    wide = annotation(2, 2, segmentation=[[2, 0, 5, 0, 5, 2, 2, 2]])
    src = write(tmp_path, {"a.json": document(images, [annotation(1, 1), wide]), "1.jpg": None, "2.jpg": None})
    first, second = (record.mask.read().tolist() for record in list_coco(src).records if record.mask)
    assert first == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0] * 5]
    assert second == [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0] * 5]
    assert "a.json: height and width are exchanged in `images`" in caplog.text


def test_an_rle_proves_nothing_about_the_sizes_of_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [image(n, f"{n}.jpg", height=5, width=3) for n in (1, 2)]
    transposed = annotation(2, 2, segmentation={"size": [3, 5], "counts": [6, 9]})
    src = write(tmp_path, {"a.json": document(images, [annotation(1, 1), transposed]), "1.jpg": None, "2.jpg": None})
    first, second = list_coco(src).records
    assert first.mask is not None and first.mask.read().shape == (5, 3) and not caplog.records
    assert "the RLE has size [3, 5], the image [5, 3]" in reason(second)


def test_one_image_that_fits_only_as_listed_keeps_the_sizes_of_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [image(n, f"{n}.jpg", height=5, width=3) for n in (1, 2, 3)]
    wide, high = [[2, 0, 5, 0, 5, 2, 2, 2]], [[0, 2, 2, 2, 2, 5, 0, 5]]
    annotations = [annotation(1, 1), annotation(2, 2, segmentation=wide), annotation(3, 3, segmentation=high)]
    src = write(tmp_path, {"a.json": document(images, annotations)} | {f"{n}.jpg": None for n in (1, 2, 3)})
    shapes = [record.mask.read().shape for record in list_coco(src).records if record.mask]
    assert shapes == [(5, 3)] * 3 and not caplog.records


def test_a_careless_polygon_does_not_exchange_height_and_width(tmp_path: Path) -> None:
    entry = image(1, "1.jpg", height=60, width=40)
    over = annotation(1, 1, segmentation=[[0, 0, 42, 0, 42, 9, 0, 9]])
    src = write(tmp_path, {"a.json": document([entry], [over]), "1.jpg": None})
    assert [record.mask.read().shape for record in list_coco(src).records if record.mask] == [(60, 40)]


def test_an_image_that_is_listed_twice_is_one_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [image(1, "1.jpg"), image(2, "2.jpg"), image("1.0", "1.jpg")]  # type: ignore[arg-type]
    src = write(tmp_path, {"a.json": document(images, [annotation(1, 1)]), "1.jpg": None, "2.jpg": None})
    assert [image_id for image_id, _, _ in summary(src)] == ["1", "2"]
    assert "a.json: 1 entries of `images` occur twice and are read once" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda one: {**one, "image_id": 7},
            "a.json, annotation 1 has image_id 7, which `images` does not list; the first id",
        ),
        (lambda one: {**one, "image_id": 1.5}, "annotation 1 has image_id 1.5, which is not an id"),
        (lambda one: {**one, "image_id": float("nan")}, "annotation 1 has image_id nan, which is not an id"),
        (lambda one: {**one, "image_id": True}, "annotation 1 has image_id True, which is not an id"),
        (
            lambda one: {("ImageID" if key == "image_id" else key): one[key] for key in one},
            "no image_id, but 'ImageID'",
        ),
        (lambda one: {key: one[key] for key in one if key != "image_id"}, "no image_id; its keys are id, category_id"),
        (
            lambda one: {**one, "image_id": "1.jpg"},
            "image_id '1.jpg', which `images` does not list; the first id there is 1",
        ),
    ],
)
def test_annotations_that_belong_to_no_image_are_counted_one_by_one(change: Any, words: str, tmp_path: Path) -> None:
    images = [image(n, f"{n}.jpg") for n in (1, 2)]
    annotations = [change(annotation(n, 1)) for n in (1, 2, 3)] + [annotation(4, 2)]
    src = write(tmp_path, {"a.json": document(images, annotations), "1.jpg": None, "2.jpg": None})
    listing = list_coco(src)
    assert listing.lost is not None and (listing.lost.count, listing.lost.total) == (3, 4)
    assert words in listing.lost.first
    assert len(listing.records) == 3  # the two images, and one for the three annotations


@pytest.mark.parametrize("name", ["background", "Background", "_background_", "__background__", "_BACKGROUND_"])
def test_what_tools_call_background_is_background(name: str, tmp_path: Path) -> None:
    categories = [{"id": 0, "name": name}, {"id": 1, "name": "rice"}]
    annotations = [annotation(1, 1, 1), annotation(2, 1, 0, segmentation=[[0, 0, 1, 0, 1, 2, 0, 2]])]
    src = write(tmp_path, {"a.json": document([image(1, "1.jpg")], annotations, categories), "1.jpg": None})
    listing = list_coco(src)
    assert listing.classes.names == ("background", "rice") and listing.records[0].mask is not None
    assert listing.records[0].mask.read().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("name", ["_ignore_", "__ignore__", "__IGNORE__"])
def test_what_labelme_calls_ignore_is_ignored(name: str, tmp_path: Path) -> None:
    categories = [{"id": 0, "name": name}, {"id": 1, "name": "rice"}, {"id": 2, "name": "ignored bean"}]
    annotations = [annotation(1, 1, 1), annotation(2, 1, 0, segmentation=[[0, 0, 1, 0, 1, 2, 0, 2]])]
    src = write(tmp_path, {"a.json": document([image(1, "1.jpg")], annotations, categories), "1.jpg": None})
    listing = list_coco(src)
    assert listing.classes.names == ("background", "rice", "ignored bean") and listing.records[0].mask is not None
    assert listing.records[0].mask.read().tolist() == [[255, 1, 0, 0], [255, 1, 0, 0], [0, 0, 0, 0]]


def root(name: str, supercategory: str | None = "none", index: int = 0) -> dict[str, Any]:
    return {"id": index, "name": name, "supercategory": supercategory}


@pytest.mark.parametrize(
    ("categories", "names"),
    [
        ([root("meals"), root("rice", "meals", 1), root("egg", "meals", 2)], ("rice", "egg")),
        ([root("rice"), root("rice", "rice", 1)], ("rice",)),  # project and class have one name
        ([root("rice"), root("egg", "rice", 1), root("rice", "rice", 2)], ("egg", "rice")),
        ([root("meals"), root("rice", "food", 1)], ("rice",)),
        ([root("food", None, 1), root("rice", "food", 2)], ("rice",)),
        # not a root: no category belongs to it, or it is annotated (category 3)
        ([root("bean"), root("rice", "none", 1)], ("bean", "rice")),
        ([root("bean", "plants"), root("rice", "plants", 1)], ("bean", "rice")),
        ([root("bean", None), root("rice", None, 1)], ("bean", "rice")),
        ([root("bean", "none", 4), root("rice", "grain", 5)], ("bean", "rice")),
        ([root("meals", "none", 3), root("rice", "meals", 4)], ("meals", "rice")),
    ],
)
def test_the_root_category_of_roboflow_is_not_a_class(
    categories: list[Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    src = write(
        tmp_path, {"train/_annotations.coco.json": document([image(1, "1.jpg")], [annotation(1, 1)], categories)}
    )
    assert list_coco(src).classes.names == ("background", *names)


def test_images_that_nobody_lists_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"annotations/train.json": document([image(1, "1.jpg")], [annotation(1, 1)])}
    src = write(tmp_path, files | dict.fromkeys(["images/1.jpg", "images/2.jpg", "images/3.png", "other/4.jpg"]))
    (tmp_path / "images/._5.jpg").touch()
    (tmp_path / "images/notes.txt").touch()
    list_coco(src)
    assert "no `images` lists 2 images, which are left out; the first is images/2.jpg" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", r"a\.json is not JSON"),
        ("[" * 100_000, r"a\.json is not JSON"),
        ("[]", r"a\.json is not a COCO file: it has no list `images`"),
        ({"categories": CATEGORIES}, "it has no list `images`"),
        ({"images": {}}, "`images` should be a list of objects"),
        ({"images": [], "annotations": [1]}, "`annotations` should be a list of objects"),
        ({"Images": [], "info": {}}, "it has no list `images`, but 'Images'"),
        ({"shapes": [], "version": "5"}, "it has no list `images`; its keys are shapes, version"),
        ({**document([]), "annotation": []}, "it has no list `annotations`, but 'annotation': rename it"),
        ({"images": [], "annotations": [{}]}, "it has no list `categories`; its keys are images, annotations"),
        ({"images": [], "annotations": [{}], "category": []}, "it has no list `categories`, but 'category'"),
        (document([image(1, "1.jpg")], [], None), "`categories`: a class table needs background and at least one"),
        (
            document([], [], [{"id": True, "name": "rice"}]),
            "a category has an id of its own and a name; found {'id': True",
        ),
        (document([], [], [{"id": 1, "name": " "}]), "a category has an id of its own and a name"),
        (document([], [], [{"id": 1, "name": "rice"}, {"id": "1", "name": "egg"}]), "a category has an id of its own"),
        (
            document([], [], [{"id": 1, "name": "egg"}, {"id": 2, "name": "egg"}]),
            "categories 1 and 2 are both called 'egg'",
        ),
    ],
)
def test_files_that_are_not_coco(content: Any, words: str, tmp_path: Path) -> None:
    src = write(tmp_path, {"a.json": content, "1.jpg": None})
    with pytest.raises(UserError, match=words):
        list_coco(src)


def test_files_that_disagree_on_a_category(tmp_path: Path) -> None:
    src = write(
        tmp_path,
        {
            "annotations/train.json": document([]),
            "annotations/test.json": document([], [], [{"id": 3, "name": "egg"}]),
        },
    )
    with pytest.raises(UserError, match=r"category 3 is 'egg' in annotations/test.json and 'rice' before"):
        list_coco(src)


def test_no_coco_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no COCO annotations; expected annotations/"):
        list_coco(str(tmp_path))


def test_a_listing_holds_little_more_than_the_file(tmp_path: Path) -> None:
    polygon = np.round(np.random.default_rng(0).uniform(0, 3, 400), 2).tolist()
    src = write(
        tmp_path,
        {
            "a.json": document([image(1, "1.jpg")], [annotation(n, 1, segmentation=[polygon]) for n in range(50)]),
            "1.jpg": None,
        },
    )
    import pickle

    assert len(pickle.dumps(list_coco(src))) < 1.2 * (tmp_path / "a.json").stat().st_size
