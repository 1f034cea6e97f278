"""The folder format: what is listed, from which files, and what is missing."""

import logging
from pathlib import Path

import numpy as np
import pytest

from foodseg import storage
from foodseg.data.image_io import encode_mask
from foodseg.errors import DataRefused, UserError
from foodseg.prepare.formats.folder import list_folder, missing_in_folder
from foodseg.prepare.record import ImageFile, MaskFile, Unreadable


def write(folder: Path, files: dict[str, str]) -> str:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for name, text in {"classes.txt": "0\tbackground\n1\trice\n", "train.txt": "a\n", **files}.items():
        (folder / name).write_text(text)
    return str(folder)


def test_records_name_their_files_split_and_source(tmp_path: Path) -> None:
    files = ["images/canteen__1.jpg", "images/b.PNG", "images/c.v2.webp", "masks/canteen__1.png", "masks/c.v2.PNG"]
    src = write(
        tmp_path,
        dict.fromkeys(files, "")
        | {"train.txt": "canteen__1\r\n\n  b \n", "val.txt": "c.v2", "test.txt": "gone__x__y\n"},
    )
    listing = list_folder(src)
    assert listing.classes.names == ("background", "rice")
    found = [(r.image_id, r.split, r.source, r.image, r.mask) for r in listing.records]

    def image(name: str) -> ImageFile:
        return ImageFile(str(tmp_path / "images" / name))

    def mask(name: str) -> MaskFile:
        return MaskFile(str(tmp_path / "masks" / name))

    assert found == [
        ("canteen__1", "train", "canteen", image("canteen__1.jpg"), mask("canteen__1.png")),
        ("b", "train", "", image("b.PNG"), None),
        ("c.v2", "val", "", image("c.v2.webp"), mask("c.v2.PNG")),
        (
            "gone__x__y",
            "test",
            "gone",
            Unreadable("test.txt lists 'gone__x__y', and no image in images/ has that name", "missing_file"),
            None,
        ),
    ]


def test_images_that_no_list_names_are_left_out(tmp_path: Path) -> None:
    src = write(tmp_path, {"images/a.jpg": "", "images/z.jpg": "", "images/notes.txt": "", "masks/z.png": ""})
    assert [record.image_id for record in list_folder(src).records] == ["a"]


def test_masks_and_images_that_do_not_match_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = ["images/a.jpg", "images/b.jpg", "images/z.jpg", "masks/a.png", "masks/rice.png", "masks/a.txt"]
    with caplog.at_level(logging.WARNING):
        records = list_folder(write(tmp_path, dict.fromkeys(files, "") | {"train.txt": "a\nb\n"})).records
    assert [record.mask is None for record in records] == [False, True]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"{tmp_path}/masks: 1 masks belong to no image; the first is rice.png",
        f"{tmp_path}/images: no list names 1 of the images, which are left out; the first is z.jpg",
        f"1 of 2 listed images have no mask in {tmp_path}/masks; the first is b.jpg",
    ]


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        (["masks/rice.png"], DataRefused, "none of the 1 files in .*/masks is the mask of an image: the first is "
         "rice.png, and the mask of a.jpg should be a.png"),
        (["masks/a.npy", "masks/b.npy"], DataRefused, "holds no masks that can be read but 2 .npy files"),
        (["masks/a_mask.png", "masks/a_vis.png"], UserError, "two masks of each image, such as a_mask.png and a_vis"),
    ],
)  # fmt: skip
def test_masks_that_cannot_be_used_are_an_error(
    files: list[str], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        list_folder(write(tmp_path, dict.fromkeys(["images/a.jpg", *files], "")))


def test_two_files_of_one_name_refuse_their_record(tmp_path: Path) -> None:
    files = ["images/a.jpg", "images/a.png", "images/b.jpg", "masks/a.png", "masks/b.png", "masks/b.tif"]
    a, b = list_folder(write(tmp_path, dict.fromkeys(files, "") | {"train.txt": "a\nb\n"})).records
    assert isinstance(a.image, Unreadable) and isinstance(b.mask, Unreadable)
    assert "images/a.jpg and images/a.png both have that name" in a.image.reason
    assert "b.png and b.tif" in b.mask.reason and a.image.fault == b.mask.fault == "ambiguous_name"


def test_folders_below_images_and_masks(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for folder in ("images/canteen", "masks/canteen", "images/home", "masks/home"):
        (tmp_path / folder).mkdir()
    files = [f"{kind}/{location}/uec__1.{end}" for kind, end in (("images", "jpg"), ("masks", "png"))
             for location in ("canteen", "home")]  # fmt: skip
    for name, text in (dict.fromkeys(files, "") | {
        "classes.txt": "0\tbackground\n1\trice\n", "train.txt": "canteen/uec__1\n",
        "test.txt": "images/home/uec__1.jpg\n",
    }).items():  # fmt: skip
        (tmp_path / name).write_text(text)
    records = list_folder(str(tmp_path)).records
    assert [(r.image_id, r.source, r.split) for r in records] == [
        ("canteen/uec__1", "uec", "train"), ("home/uec__1", "uec", "test"),
    ]  # fmt: skip
    assert records[1].mask == MaskFile(str(tmp_path / "masks" / "home" / "uec__1.png"))


@pytest.mark.parametrize("masks", ["masks/{}.png", "masks/{}_mask.png"])
def test_folders_are_the_splits_where_there_are_no_lists(masks: str, tmp_path: Path) -> None:
    names = ["train/a", "train/deep/b", "valid/c", "test/a", "other/d"]
    for name in names:
        for path in (f"images/{name}.jpg", masks.format(name)):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text("")
    (tmp_path / "classes.txt").write_text("background\nrice\n")
    assert missing_in_folder(str(tmp_path)) == []
    records = list_folder(str(tmp_path)).records
    assert [(record.image_id, record.split) for record in records] == [
        ("test/a", "test"), ("train/a", "train"), ("train/deep/b", "train"), ("valid/c", "val"),
    ]  # fmt: skip
    assert [record.mask for record in records] == [
        MaskFile(str(tmp_path / masks.format(record.image_id))) for record in records
    ]


def test_names_of_other_tools_and_other_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("Images", "MASKS"):
        (tmp_path / name).mkdir()
    for name, text in {"Classes.txt": "0\tbackground\n1\trice\n", "Train.txt": "a\n", "valid.txt": "b\n"}.items():
        (tmp_path / name).write_text(text)
    with caplog.at_level(logging.INFO):
        assert [record.split for record in list_folder(str(tmp_path)).records] == ["train", "val"]
    assert "valid.txt is taken for the list of val" in caplog.text
    (tmp_path / "MASKS").rename(tmp_path / "labels")
    assert missing_in_folder(str(tmp_path)) == ["masks (labels is there: rename it)"]


@pytest.mark.parametrize("name", ["images", "masks", "classes.txt", "train.txt"])
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    src = write(tmp_path, {})
    path = tmp_path / name
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    with pytest.raises(UserError, match=f"is not in the folder format: {name} missing; expected images/, masks/"):
        list_folder(src)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"classes.txt": "0\tbackground\nrice\n"}, r"classes.txt, line 2: expected 'id<TAB>name', found 'rice'"),
        ({"classes.txt": "0\tbackground\n2\trice\n"}, r"classes.txt: class ids must be 0, 1, 2, .* \[1\] are missing"),
        ({"classes.txt": ""}, r"classes.txt: a class table needs background"),
    ],
)
def test_lists_that_are_refused(files: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        list_folder(write(tmp_path, files))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        list_folder(str(tmp_path / "nowhere"))


ODD = ["a b", "c#d", "50%20off", "e+f", "g&h", "i'j\"k", "\u5bff\u53f8__\u4e00", "\U0001f35c__x", "100% rice"]


@pytest.mark.parametrize("location", ["local", "s3"])
def test_names_with_any_characters(location: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = str(tmp_path) if location == "local" else request.getfixturevalue("bucket")
    src = storage.join(root, "my src #1 50%")
    for name in ODD:
        storage.write_bytes(storage.join(src, "images", f"{name}.jpg"), name.encode())
        storage.write_bytes(storage.join(src, "masks", f"{name}_mask.png"), encode_mask(np.ones((1, 2), np.uint8)))
    storage.write_text(storage.join(src, "classes.txt"), "0\tbackground\n1\trice\n")
    storage.write_text(storage.join(src, "train.txt"), "\ufeff" + "\r\n".join(f"{name}.jpg " for name in ODD))
    records = list_folder(src).records
    assert [record.image_id for record in records] == ODD
    assert [record.image.read().decode() for record in records] == ODD
    for record in records:
        assert record.mask is not None and record.mask.read().tolist() == [[1, 1]]
