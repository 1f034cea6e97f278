"""Hugging Face data sets: Parquet written by `datasets`, from a folder; masks of every kind; class names."""

import json
import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from foodseg.errors import UserError
from foodseg.prepare.formats import huggingface
from foodseg.prepare.formats.detect import list_source
from foodseg.prepare.formats.huggingface import ParquetCell, ParquetMask, decode_label, list_huggingface

datasets.disable_progress_bars()

NAMES = ["background", "rice", "egg"]
CLASSES = "0\tbackground\n1\trice\n2\tegg\n"


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


def mask(index: int) -> np.ndarray:
    """(3, 4) ids, another one for each index."""
    return ((np.arange(12) * (index + 1)) // 3 % 3).astype(np.uint8).reshape(3, 4)


def rows(count: int, start: int = 0, *, path: str | None = "{:08d}") -> dict[str, list[Any]]:
    """Images of 4 x 3 pixels whose grey value is their number."""
    names = [None if path is None else path.format(index) for index in range(start, start + count)]
    grey = [png(np.full((3, 4, 3), index, np.uint8)) for index in range(start, start + count)]
    labels = [png(mask(index)) for index in range(start, start + count)]
    return {
        "image": [{"bytes": b, "path": n and f"{n}.jpg"} for b, n in zip(grey, names, strict=True)],
        "label": [{"bytes": b, "path": n and f"{n}.png"} for b, n in zip(labels, names, strict=True)],
        "id": list(range(start, start + count)),
    }


def write(path: Path, columns: dict[str, list[Any]], group: int = 1000, **features: Any) -> None:
    """Writes columns as `datasets` does; `group` is the number of rows in a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, Any] = {"image": datasets.Image(), "label": datasets.Image(), "id": datasets.Value("int64")}
    kinds = {name: kind for name, kind in {**kinds, **features}.items() if name in columns}
    datasets.Dataset.from_dict(columns, features=datasets.Features(kinds)).to_parquet(path, batch_size=group)


def mirror(folder: Path, **splits: tuple[int, int]) -> str:
    """Writes a mirror with `split=(first, count)` and classes.txt."""
    for split, (start, count) in splits.items():
        write(folder / "data" / f"{split}-00000-of-00001.parquet", rows(count, start), group=2)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "classes.txt").write_text(CLASSES)
    return str(folder)


def check(listing: Any, numbers: list[int]) -> None:
    """Images and masks are those of `rows`."""
    assert len(listing.records) == len(numbers)
    for record, number in zip(listing.records, numbers, strict=True):
        assert np.array(Image.open(BytesIO(record.image.read())))[0, 0, 0] == number
        np.testing.assert_array_equal(record.mask.read(), mask(number))


def test_images_and_masks_of_a_mirror(tmp_path: Path) -> None:
    src = mirror(tmp_path, train=(0, 5), test=(5, 3))
    assert pq.ParquetFile(tmp_path / "data" / "train-00000-of-00001.parquet").num_row_groups == 3
    listing = list_huggingface(src)
    assert listing.classes.names == tuple(NAMES)
    assert [(record.image_id, record.split) for record in listing.records] == [
        *((f"{index:08d}", "train") for index in range(5)),
        *((f"{index:08d}", "test") for index in range(5, 8)),
    ]
    check(listing, list(range(8)))


def test_validation_is_the_official_test_where_there_is_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        listing = list_huggingface(mirror(tmp_path / "a", train=(0, 2), validation=(2, 1)))
    assert [record.split for record in listing.records] == ["train", "train", "test"]
    assert "has no test split: its validation split is taken for the official test" in caplog.text
    listing = list_huggingface(mirror(tmp_path / "b", train=(0, 2), validation=(2, 1), test=(3, 1)))
    assert [record.split for record in listing.records] == ["train", "train", "val", "test"]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["default/train/0000.parquet"], ["train"]),
        (["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"],
         ["train"] * 2 + ["test"]),
        (["train/0000.parquet", "test/0000.parquet"], ["train", "test"]),
        (["default/partial-train/0000.parquet"], ["train"]),
        (["meals/train-00000-of-00001.parquet", "meals/validation-00000-of-00001.parquet"], ["train", "test"]),
        (["0000.parquet"], ["train"]),
        (["0000.parquet", "0001.parquet"], ["train", "train"]),
    ],
)  # fmt: skip
def test_layouts_of_the_conversion_of_the_hub(files: list[str], splits: list[str], tmp_path: Path) -> None:
    for number, name in enumerate(files):
        write(tmp_path / name, rows(1, number))
    (tmp_path / "classes.txt").write_text(CLASSES)
    listing = list_source(str(tmp_path))
    assert [record.split for record in listing.records] == splits
    check(listing, list(range(len(files))))


def test_several_configurations_are_refused_by_name(tmp_path: Path) -> None:
    for config in ("large", "small"):
        write(tmp_path / config / "train" / "0000.parquet", rows(1))
        (tmp_path / config / "classes.txt").write_text(CLASSES)
    with pytest.raises(
        UserError, match=r"several configurations, large, small: give one of them, for example .*/large"
    ):
        list_source(str(tmp_path))
    check(list_source(str(tmp_path / "small")), [0])


def test_a_prepared_data_set_is_not_a_source(tmp_path: Path) -> None:
    write(tmp_path / "v-1" / "train" / "part-00000.parquet", rows(1))
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="is in no known format"):
        list_source(str(tmp_path))


def test_a_split_in_several_files_next_to_the_class_names(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"train-0000{number}-of-00003.parquet", rows(2, 2 * number))
    (tmp_path / "category_id.txt").write_text(CLASSES)
    check(list_huggingface(str(tmp_path)), list(range(6)))


@pytest.mark.parametrize(
    ("path", "has_id", "ids"),
    [
        ("{:08d}", True, ["00000000", "00000001"]),
        ("folder/canteen__{}", True, ["canteen__0", "canteen__1"]),
        ("same", True, ["0", "1"]),  # names that are not unique
        (None, True, ["0", "1"]),
        (None, False, ["train-000000", "train-000001"]),
        ("same", False, ["train-000000", "train-000001"]),
    ],
)
def test_what_an_image_is_called(path: str | None, has_id: bool, ids: list[str], tmp_path: Path) -> None:
    columns = rows(2, path=path)
    write(tmp_path / "train.parquet", columns if has_id else {k: v for k, v in columns.items() if k != "id"})
    (tmp_path / "classes.txt").write_text(CLASSES)
    records = list_huggingface(str(tmp_path)).records
    assert [record.image_id for record in records] == ids
    assert {record.source for record in records} == ({"canteen"} if "canteen" in str(path) else {""})


def test_ids_that_repeat_across_splits_are_not_used(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", rows(2, path=None))
    (tmp_path / "classes.txt").write_text(CLASSES)
    ids = [record.image_id for record in list_huggingface(str(tmp_path)).records]
    assert ids == ["train-000000", "train-000001", "test-000000", "test-000001"]


def test_ids_that_repeat_are_not_used(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {**rows(3, path=None), "id": [7, 8, 7]})
    (tmp_path / "classes.txt").write_text(CLASSES)
    ids = [record.image_id for record in list_huggingface(str(tmp_path)).records]
    assert ids == ["train-000000", "train-000001", "train-000002"]


def test_records_of_one_row_group_share_their_locality(tmp_path: Path) -> None:
    records = list_huggingface(mirror(tmp_path, train=(0, 3), test=(3, 1))).records  # two rows in a group
    names = [f"{tmp_path}/data/{split}-00000-of-00001.parquet" for split in ("train", "test")]
    assert [record.locality for record in records] == [(names[0], 0), (names[0], 0), (names[0], 1), (names[1], 0)]


@pytest.mark.parametrize("column", ["label", "mask", "annotation"])
def test_the_column_of_masks(column: str, tmp_path: Path) -> None:
    columns = {("label" if name == "label" else name): value for name, value in rows(2).items()}
    columns[column] = columns.pop("label")
    write(tmp_path / "train.parquet", columns, **{column: datasets.Image()})
    (tmp_path / "classes.txt").write_text(CLASSES)
    check(list_huggingface(str(tmp_path)), [0, 1])


def test_columns_of_plain_bytes_and_a_number_called_label(tmp_path: Path) -> None:
    columns = rows(2)
    plain = {
        "image": [cell["bytes"] for cell in columns["image"]],
        "mask": [cell["bytes"] for cell in columns["label"]],
        "label": [7, 7],
    }
    binary = datasets.Value("binary")
    write(tmp_path / "train.parquet", plain, image=binary, mask=binary, label=datasets.Value("int64"))
    (tmp_path / "classes.txt").write_text(CLASSES)
    listing = list_huggingface(str(tmp_path))
    assert listing.records[1].image == ParquetCell(str(tmp_path / "train.parquet"), 0, 1, "image")
    check(listing, [0, 1])


def test_a_row_without_mask_is_unlabelled(tmp_path: Path) -> None:
    columns = rows(5)
    columns["label"][1] = columns["label"][4] = None
    write(tmp_path / "train.parquet", columns, group=2)
    (tmp_path / "classes.txt").write_text(CLASSES)
    records = list_huggingface(str(tmp_path)).records
    assert [record.mask is None for record in records] == [False, True, False, False, True]
    assert isinstance(records[2].mask, ParquetMask)
    np.testing.assert_array_equal(records[2].mask.read(), mask(2))


def test_a_row_without_image_is_refused_when_it_is_read(tmp_path: Path) -> None:
    columns = rows(2)
    columns["image"][1] = None
    write(tmp_path / "train.parquet", columns)
    (tmp_path / "classes.txt").write_text(CLASSES)
    with pytest.raises(UserError, match=r"row 1 of row group 0 has no image\.bytes"):
        list_huggingface(str(tmp_path)).records[1].image.read()


def test_a_row_group_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = mirror(tmp_path, train=(0, 6))
    listing = list_huggingface(src)
    opened = []
    real = huggingface.storage.open_input
    monkeypatch.setattr(huggingface.storage, "open_input", lambda uri: opened.append(uri) or real(uri))
    huggingface._read_leaf.cache_clear()
    check(listing, list(range(6)))
    assert len(opened) == 6  # three row groups, images and masks of each


# --- masks ---


@pytest.mark.parametrize(
    "data",
    [
        png(mask(1)),
        png(mask(1).astype(np.uint16)),
        png(np.dstack([mask(1), np.zeros((3, 4, 2), np.uint8)])),  # UEC's red channel
        png(np.dstack([mask(1)] * 3)),  # grey saved as colours
        png(np.dstack([mask(1)] * 3), "RGBA"),
    ],
    ids=["grey", "16 bit", "red", "grey as RGB", "grey as RGBA"],
)
def test_masks_of_one_channel_or_of_red(data: bytes) -> None:
    np.testing.assert_array_equal(decode_label(data), mask(1))


def test_the_indices_of_a_palette_are_the_ids() -> None:
    image = Image.fromarray(mask(1)).convert("P")
    image.putdata(mask(1).ravel().tolist())
    image.putpalette([200, 10, 30, 0, 0, 0, 90, 90, 90])
    buffer = BytesIO()
    image.save(buffer, "PNG")
    np.testing.assert_array_equal(decode_label(buffer.getvalue()), mask(1))


def test_colours_that_are_not_ids_are_refused() -> None:
    colours = np.array([[0, 0, 0], [200, 10, 30], [90, 90, 90]], np.uint8)[mask(1)]
    with pytest.raises(UserError, match="the mask is a colour image"):
        decode_label(png(colours))


# --- class names ---


def test_names_from_id2label(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1))
    (tmp_path / "id2label.json").write_text(json.dumps({"0": "background", "2": "egg", "1": "rice"}))
    assert list_huggingface(str(tmp_path)).classes.names == tuple(NAMES)


@pytest.mark.parametrize(
    "text",
    [
        '\ufeff{"2": "egg", "0": "background", "1": "rice"}',
        '{"egg": 2, "background": 0, "rice": 1}',
        '["background", "rice", "egg"]',
    ],
)
def test_other_forms_of_id2label(text: str, tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1))
    (tmp_path / "id2label.json").write_bytes(text.encode())
    assert list_huggingface(str(tmp_path)).classes.names == tuple(NAMES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", r"id2label\.json should be an object of id: name"),
        ("{", r"id2label\.json is not JSON"),
        ('{"0": "background", "2": "egg"}', r"id2label\.json: class ids must be 0, 1, 2"),
    ],
)
def test_a_bad_id2label(text: str, words: str, tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1))
    (tmp_path / "id2label.json").write_text(text)
    with pytest.raises(UserError, match=words):
        list_huggingface(str(tmp_path))


def with_labels(path: Path, names: list[str]) -> None:
    write(
        path,
        {**rows(2), "classes_on_image": [[0, 1], [2]], "count": [2, 1]},
        classes_on_image=datasets.List(datasets.ClassLabel(names=names)),
        count=datasets.Value("int32"),
    )


def test_names_from_the_one_class_label(tmp_path: Path) -> None:
    with_labels(tmp_path / "train.parquet", NAMES)
    with_labels(tmp_path / "test.parquet", NAMES)
    assert list_huggingface(str(tmp_path)).classes.names == tuple(NAMES)


def test_a_file_of_names_goes_before_a_class_label(tmp_path: Path) -> None:
    with_labels(tmp_path / "train.parquet", NAMES)
    (tmp_path / "classes.txt").write_text("0\tbackground\n1\tsoup\n2\tbread\n")
    assert list_huggingface(str(tmp_path)).classes.names == ("background", "soup", "bread")


def test_names_that_do_not_begin_with_background_are_not_taken(tmp_path: Path) -> None:
    with_labels(tmp_path / "train.parquet", ["rice", "egg", "bread"])  # every id would be off by one
    with pytest.raises(UserError, match=r"does not say what the ids in its masks mean: put classes.txt .* next to"):
        list_huggingface(str(tmp_path))


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000])
def test_foreign_metadata_is_ignored(text: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    src = mirror(tmp_path, train=(0, 2))
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), path)
    assert len(list_huggingface(src).records) == 2
    assert "its metadata `huggingface` is not JSON and is ignored" in caplog.text


def test_class_labels_however_deep_and_odd() -> None:
    deep: Any = {"_type": "ClassLabel", "names": NAMES}
    for _ in range(5000):
        deep = [deep]
    odd = [{"_type": "ClassLabel", "names": 3}, {"_type": "ClassLabel"}, {"names": NAMES}, None]
    assert list(huggingface._class_labels({"a": deep, "b": odd})) == [tuple(NAMES)]


# --- what is refused ---


@pytest.mark.parametrize(
    ("drop", "words"),
    [("label", "has no columns of images among label, mask, annotation.*columns are image, id"),
     ("image", "has no columns of images among image,.*columns are label, id")],
)  # fmt: skip
def test_a_missing_column_is_named(drop: str, words: str, tmp_path: Path) -> None:
    columns = rows(1)
    del columns[drop]
    write(tmp_path / "train.parquet", columns)
    with pytest.raises(UserError, match=words):
        list_huggingface(str(tmp_path))


def test_two_columns_of_masks_are_one_too_many(tmp_path: Path) -> None:
    columns = rows(1)
    write(tmp_path / "train.parquet", {**columns, "mask": columns["label"]}, mask=datasets.Image())
    with pytest.raises(UserError, match="has 2 columns of images among label, mask, annotation"):
        list_huggingface(str(tmp_path))


def test_no_parquet_and_damaged_parquet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no Parquet files; expected train"):
        list_huggingface(str(tmp_path))
    mirror(tmp_path, train=(0, 2))
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet is not a readable Parquet file"):
        list_huggingface(str(tmp_path))


def test_a_damaged_row_group_is_refused_when_it_is_read(tmp_path: Path) -> None:
    src = mirror(tmp_path, train=(0, 2))
    listing = list_huggingface(src)
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)  # the footer stays whole
    path.write_bytes(data)
    huggingface._read_leaf.cache_clear()
    with pytest.raises(UserError, match="not a readable Parquet file"):
        listing.records[0].image.read()


def test_samples_as_parquet_are_the_same_masks(shared: Path, tmp_path: Path) -> None:
    """What the mirror of FoodSeg103 holds: the files of the official download, names included."""
    root = shared / "datasets" / "layout_samples" / "FoodSeg103"
    for split, name in (("train", "train"), ("test", "validation")):
        images = sorted((root / "Images" / "img_dir" / split).iterdir())
        masks = sorted((root / "Images" / "ann_dir" / split).iterdir())
        write(
            tmp_path / "data" / f"{name}-00000-of-00001.parquet",
            {
                "image": [{"bytes": path.read_bytes(), "path": path.name} for path in images],
                "label": [{"bytes": path.read_bytes(), "path": path.name} for path in masks],
                "id": [int(path.stem) for path in images],
            },
            group=10,
        )
    (tmp_path / "category_id.txt").write_bytes((root / "category_id.txt").read_bytes())
    listing = list_huggingface(str(tmp_path))
    assert [record.split for record in listing.records] == ["train"] * 26 + ["test"] * 11
    for record in listing.records:
        original = np.array(Image.open(root / "Images" / "ann_dir" / record.split / f"{record.image_id}.png"))
        assert record.mask is not None
        np.testing.assert_array_equal(record.mask.read(), original)
