"""Which format a folder is in."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from foodseg.errors import UserError
from foodseg.prepare.formats.detect import absolute_source, find_format, list_source, parse_format, source_name
from tests.unit.prepare.formats import test_coco, test_foodseg103, test_huggingface, test_uecfoodpix


def folder(root: Path) -> None:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(root / "images" / "canteen__1.jpg")
    Image.new("L", (4, 3), 1).save(root / "masks" / "canteen__1.png")
    (root / "classes.txt").write_text("0\tbackground\n1\trice\n2\tegg\n")
    (root / "train.txt").write_text("canteen__1\n")


def coco(root: Path) -> None:
    images, annotations = [test_coco.image(1, "canteen__1.jpg")], [test_coco.annotation(1, 1)]
    document = test_coco.document(images, annotations)
    test_coco.write(root, {"annotations/instances_train.json": document, "images/canteen__1.jpg": None})


WRITERS: dict[str, Callable[[Path], object]] = {
    "folder": folder,
    "foodseg103": lambda root: test_foodseg103.write(root / "FoodSeg103"),
    "uecfoodpix": test_uecfoodpix.write,
    "coco": coco,
    "huggingface": lambda root: test_huggingface.mirror(root, train=(0, 2)),
}


@pytest.mark.parametrize("format", WRITERS)
def test_each_format_is_found_and_said(format: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    WRITERS[format](tmp_path)
    with caplog.at_level(logging.INFO):
        assert find_format(str(tmp_path)) == format
    assert f"{tmp_path} is in the {format} format" in caplog.text
    found = list_source(str(tmp_path))
    assert found == list_source(str(tmp_path), format)  # type: ignore[arg-type]
    assert found.records and all(record.image.read() for record in found.records)


@pytest.mark.parametrize("format", WRITERS)
def test_a_relative_path_becomes_absolute(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[format](tmp_path / "meals")
    monkeypatch.chdir(tmp_path)
    records = list_source("meals").records
    monkeypatch.chdir("/")  # a worker runs elsewhere
    assert records[0].image.read()


@pytest.mark.parametrize("format", [name for name in WRITERS if name != "folder"])
def test_the_wrong_format_says_what_it_needs(format: str, tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(UserError, match="expected"):
        list_source(str(tmp_path), format)  # type: ignore[arg-type]


def test_no_format_fits(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="is in no known format; expected the files of one of these: folder") as error:
        find_format(str(tmp_path))
    assert all(f"{format}: " in str(error.value) for format in WRITERS if format != "folder")


def test_a_format_fits_in_part(tmp_path: Path) -> None:
    folder(tmp_path)
    shutil.rmtree(tmp_path / "masks")
    with pytest.raises(UserError, match=r"no known format; missing for the folder format: masks \(expected images/"):
        find_format(str(tmp_path))


@pytest.mark.parametrize("there", [True, False])
def test_an_empty_folder_and_none_at_all(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / "meals").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path / 'meals'} does not exist or is empty; expected the folder"):
        list_source(str(tmp_path / "meals"))


def test_several_formats_fit(tmp_path: Path) -> None:
    folder(tmp_path)
    test_huggingface.mirror(tmp_path, train=(0, 1))
    with pytest.raises(UserError, match="could be in the formats folder and huggingface: say which with --format"):
        list_source(str(tmp_path))
    assert len(list_source(str(tmp_path), "huggingface").records) == 1


def test_a_complete_folder_wins_over_a_json_next_to_it(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "notes.json").write_text("{}")
    assert find_format(str(tmp_path)) == "folder"
    coco(tmp_path)  # annotations/ is more than a stray file
    with pytest.raises(UserError, match="could be in the formats folder and coco: say which with --format"):
        find_format(str(tmp_path))


EMPTY: dict[str, Callable[[Path], object]] = {
    "folder": lambda root: (folder(root), (root / "train.txt").write_text("\n \n")),
    "foodseg103": lambda root: test_foodseg103.write(root, train="", test=None),
    "coco": lambda root: test_coco.write(root, {"a.json": test_coco.document([], []), "images/1.jpg": None}),
    "huggingface": lambda root: test_huggingface.mirror(root, train=(0, 0)),
}


@pytest.mark.parametrize("format", EMPTY)
def test_a_source_without_images_is_refused(format: str, tmp_path: Path) -> None:
    EMPTY[format](tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path} \(format {format}\) lists no images"):
        list_source(str(tmp_path))


def test_both_samples_of_real_layouts(shared: Path) -> None:
    samples = shared / "datasets" / "layout_samples"
    assert find_format(str(samples / "FoodSeg103")) == "foodseg103"
    assert find_format(str(samples / "UECFOODPIXCOMPLETE")) == "uecfoodpix"
    assert find_format(str(samples / "UECFOODPIXCOMPLETE" / "data")) == "uecfoodpix"
    assert find_format(str(shared / "datasets" / "foodmix_small")) == "folder"
    with pytest.raises(UserError, match="could be in the formats foodseg103 and uecfoodpix"):
        find_format(str(samples))  # the folder around both


@pytest.mark.parametrize("format", ["folder", "coco"])
def test_sources_tsv_says_what_a_source_annotates(format: str, tmp_path: Path) -> None:
    WRITERS[format](tmp_path)
    assert list_source(str(tmp_path)).annotated == {}
    (tmp_path / "sources.tsv").write_text("canteen\t1\n")
    assert list_source(str(tmp_path)).annotated == {"canteen": (0, 1)}
    (tmp_path / "sources.tsv").write_text("kantine\t1\n")
    with pytest.raises(UserError, match=r"sources.tsv, line 1: no image has the source 'kantine'"):
        list_source(str(tmp_path))


def test_what_sources_annotate_by_name(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "train.txt").write_text("a__1\nb__1\nc\n")
    (tmp_path / "sources.tsv").write_text("a\tegg\nb\t*\n")
    assert list_source(str(tmp_path)).annotated == {"a": (0, 2)}
    (tmp_path / "sources.tsv").write_text("a\tfig\n")
    with pytest.raises(UserError, match=r"sources.tsv, line 1: 'fig' is neither an id from 0 to 2 nor"):
        list_source(str(tmp_path))


def test_absolute_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_source("meals") == str(tmp_path / "meals")
    assert absolute_source("s3://bucket/meals/") == "s3://bucket/meals"
    assert absolute_source("hf://datasets/a/b@v1") == "hf://datasets/a/b@v1"


@pytest.mark.parametrize(
    ("src", "name"),
    [
        ("/data/meals/", "meals"),
        ("s3://bucket/raw/meals?endpoint_override=127.0.0.1:8333", "meals"),
        ("hf://datasets/somebody/meals@v1", "meals"),
        ("hf://datasets/somebody/meals/", "meals"),
        ("/data/m@v1", "m@v1"),
    ],
)
def test_what_a_data_set_is_called(src: str, name: str) -> None:
    assert source_name(src) == name


def test_formats_by_name() -> None:
    assert [parse_format(name) for name in ("auto", *WRITERS)] == ["auto", *WRITERS]
    with pytest.raises(UserError, match="--format voc: there is no such format; there are auto, foodseg103"):
        parse_format("voc")
