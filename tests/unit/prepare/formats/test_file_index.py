"""Which file a written name means, and lists of such names."""

import logging
import unicodedata
from pathlib import Path

import pytest

from foodseg.prepare.formats.file_index import FileIndex
from foodseg.prepare.formats.split_lists import read_list
from foodseg.prepare.record import ImageFile, Unreadable

CAFE = "caf\u00e9"
NAMES = [
    "a.jpg", "B.JPG", "c.v2.webp", "50%20off.jpg", "x y.jpg", "c#d.png", unicodedata.normalize("NFD", f"{CAFE}.jpg"),
    "deep/1.jpg", "deep/er/2.jpg", "other/3.jpg", "deep/3.jpg", "both.jpg", "both.png", "000.jpg",
    "._a.jpg", "note.txt",
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> FileIndex:
    for name in NAMES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_text("")
    return FileIndex(str(tmp_path / "images"))


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("a", ["a.jpg"]),
        ("a.jpg", ["a.jpg"]),
        ("a.png", ["a.jpg"]),
        ("images/a.jpg", ["a.jpg"]),
        ("./images/a.jpg", ["a.jpg"]),
        ("/home/me/meals/images/a.jpg", ["a.jpg"]),
        ("..\\images\\a.jpg", ["a.jpg"]),
        ("b", ["B.JPG"]),
        ("A.JPG", ["a.jpg"]),
        ("c.v2", ["c.v2.webp"]),
        ("50%20off", ["50%20off.jpg"]),
        ("x%20y.jpg", ["x y.jpg"]),
        ("c#d", ["c#d.png"]),
        (CAFE, [unicodedata.normalize("NFD", f"{CAFE}.jpg")]),
        (f"{CAFE.upper()}.jpg", [unicodedata.normalize("NFD", f"{CAFE}.jpg")]),
        ("deep/1", ["deep/1.jpg"]),
        ("1", ["deep/1.jpg"]),
        ("deep/er/2.jpg", ["deep/er/2.jpg"]),
        ("other/3", ["other/3.jpg"]),
        ("3", ["deep/3.jpg", "other/3.jpg"]),
        ("both", ["both.jpg", "both.png"]),
        ("both.png", ["both.png"]),
        ("nothing", []),
        ("note", []),
        ("/", []),
    ],
)
def test_what_a_written_name_means(files: FileIndex, written: str, found: list[str]) -> None:
    assert files.find(written) == found


def test_a_near_name_is_offered(files: FileIndex) -> None:
    assert files.near("0") == "000.jpg"
    assert files.near("other/00") == "000.jpg"
    assert files.near("images/50%20of.webp") == "50%20off.jpg"
    assert files.near("something else entirely") is None


def test_a_list_of_every_kind_of_line(files: FileIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "# train\n\n  a.jpg \na\nimages/a.jpg\nb\n#hash\nboth\n00\ndeep/1\n"
    (tmp_path / "train.txt").write_text(text)
    with caplog.at_level(logging.INFO):
        lines = read_list(str(tmp_path / "train.txt"), files)
    assert [(line.stem, line.path) for line in lines] == [
        ("a", "a.jpg"), ("B", "B.JPG"), ("both", None), ("00", None), ("deep/1", "deep/1.jpg"),
    ]  # fmt: skip
    assert lines[0].image(files) == ImageFile(str(tmp_path / "images" / "a.jpg"))
    both, absent = lines[2].image(files), lines[3].image(files)
    assert isinstance(both, Unreadable) and both.fault == "ambiguous_name"
    assert "images/both.jpg and images/both.png both have that name" in both.reason
    assert isinstance(absent, Unreadable) and absent.fault == "missing_file"
    assert absent.reason == "train.txt lists '00', and no image in images/ has that name (images/000.jpg is there)"
    assert "train.txt lists 2 images more than once; each is taken once (the first is 'a')" in caplog.text
    assert "spelled differently from their image: 1; 'b' is read as B.JPG" in caplog.text


def test_further_columns_are_skipped_and_other_files_recognised(files: FileIndex, tmp_path: Path) -> None:
    for name in ("p.heic", "q.jfif", "r", "s.json", "t.gif", "t.txt"):
        (tmp_path / "images" / name).write_text("")
    text = "images/a.jpg masks/a.png\nB.JPG,B.png\nx y\np\nq.jfif\nr\ns\nt\nx z.jpg\n"
    (tmp_path / "list").write_text(text)
    found = [line.path for line in read_list(str(tmp_path / "list"), files)]
    assert found == ["a.jpg", "B.JPG", "x y.jpg", "p.heic", "q.jfif", "r", None, "t.gif", None]


def test_the_id_is_composed_whatever_the_file_and_the_list_say(files: FileIndex, tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        (tmp_path / "list").write_text(unicodedata.normalize(form, CAFE))
        (line,) = read_list(str(tmp_path / "list"), files)
        assert line.stem == CAFE and line.path == unicodedata.normalize("NFD", f"{CAFE}.jpg")
