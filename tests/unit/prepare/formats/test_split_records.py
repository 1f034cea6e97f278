"""Published data sets: a record for each line of their lists."""

import logging
from pathlib import Path

import pytest

from foodseg.errors import DataRefused
from foodseg.prepare.formats.split_records import ListedSplit, listed_records
from foodseg.prepare.record import ImageFile, MaskFile, Unreadable


def write(folder: Path, *names: str, lines: bytes) -> ListedSplit:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    (folder / "list.txt").write_bytes(lines)
    return ListedSplit("train", str(folder / "list.txt"), str(folder / "images"), str(folder / "masks"))


def test_each_line_of_a_list_is_a_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("images/1.jpg", "images/2.v2.PNG", "images/9.jpg", "images/note.txt", "masks/1.png", "masks/9.png")
    part = write(tmp_path, *names, lines="\ufeff1\r\n\r\n img\\2.v2.png \r\ntrain/3\r\n".encode())
    with caplog.at_level(logging.WARNING):
        one, two, three = listed_records([part], "s", MaskFile)
    images, masks = tmp_path / "images", tmp_path / "masks"
    assert (one.image_id, one.split, one.source) == ("1", "train", "s")
    assert (one.image, one.mask) == (ImageFile(str(images / "1.jpg")), MaskFile(str(masks / "1.png")))
    assert (two.image_id, two.image) == ("2.v2", ImageFile(str(images / "2.v2.PNG")))
    assert two.mask == Unreadable(f"{masks} has no mask 2.v2.png", "missing_file")
    assert three.image_id == "3" and isinstance(three.image, Unreadable)
    assert three.image.reason == "list.txt lists 'train/3', and no image in images/ has that name"
    assert "no list names 1 of the images, which are left out; the first is 9.jpg" in caplog.text


def test_masks_with_a_constant_text_behind_their_names(tmp_path: Path) -> None:
    names = [
        f"{folder}{number}{end}" for number in "123" for folder, end in (("images/", ".jpg"), ("masks/", "_GT.png"))
    ]
    records = listed_records([write(tmp_path, *names, lines=b"1\n2\n3\n")], "s", MaskFile)
    assert [record.mask for record in records] == [MaskFile(str(tmp_path / "masks" / f"{n}_GT.png")) for n in "123"]


def test_masks_of_which_none_is_used_are_an_error(tmp_path: Path) -> None:
    part = write(tmp_path, "images/1.jpg", "masks/rice.png", lines=b"1\n")
    with pytest.raises(DataRefused, match=r"none of the 1 files in .*masks is the mask of an image"):
        listed_records([part], "s", MaskFile)
