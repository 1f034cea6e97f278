"""The folder format: what is listed, from which files, and what is missing."""

from pathlib import Path

import pytest

from foodseg.data.formats.folder import list_folder
from foodseg.data.record import ImageFile, MaskFile
from foodseg.errors import UserError


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
        ("gone__x__y", "test", "gone", image("gone__x__y.jpg"), None),  # refused when it is read
    ]


def test_pictures_that_no_list_names_are_left_out(tmp_path: Path) -> None:
    src = write(tmp_path, {"images/a.jpg": "", "images/z.jpg": "", "images/notes.txt": "", "masks/z.png": ""})
    assert [record.image_id for record in list_folder(src).records] == ["a"]


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
