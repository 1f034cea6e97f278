"""Label spaces: ids, the ignore id, colours, the text form."""

import logging

import numpy as np
import pytest

from foodseg.classes import ClassTable, parse_id_lines, same_name
from foodseg.errors import UserError


def table(count: int) -> ClassTable:
    return ClassTable(tuple(f"n{index}" for index in range(count)))


@pytest.mark.parametrize(
    ("count", "ignore", "dtype"),
    [
        (2, 255, np.uint8),
        (104, 255, np.uint8),
        (255, 255, np.uint8),
        (256, 65535, np.uint16),
        (300, 65535, np.uint16),
        (65535, 65535, np.uint16),
    ],
)
def test_the_ignore_id_is_no_class_and_fits_the_mask(count: int, ignore: int, dtype: type) -> None:
    classes = table(count)
    assert (len(classes), classes.ignore_id, classes.mask_dtype) == (count, ignore, dtype)
    assert classes.ignore_id >= len(classes)


def test_the_palette_is_black_for_background_and_differs_for_neighbours() -> None:
    palette = table(104).palette()
    assert (palette.shape, palette.dtype) == ((104, 3), np.uint8)
    assert palette[0].tolist() == [0, 0, 0]
    assert len(np.unique(palette, axis=0)) == 104
    # id 1: hue 0.618 = 3.708 sixths, value 0.95, saturation 0.75
    assert palette[1].tolist() == [
        round(255 * 0.95 * 0.25),
        round(255 * 0.95 * (1 - 0.75 * 0.7082039325)),
        round(255 * 0.95),
    ]


def test_text_and_back() -> None:
    classes = ClassTable(("background", "white rice", "fried egg"))
    assert classes.to_text() == "0\tbackground\n1\twhite rice\n2\tfried egg\n"
    assert ClassTable.from_text(classes.to_text(), "classes.txt") == classes
    assert ClassTable.from_text("2\tc\n\n 0 \ta \n1\tb\r\n", "x") == ClassTable(("a", "b", "c"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "at least one ingredient, this one has 0 names"),
        (("background",), "at least one ingredient, this one has 1 names"),
        (("a", "b", "b", "a", "c"), "'a', 'b' occurs more than once"),
        (tuple(map(str, range(65536))), "at most 65535 names, this one has 65536"),
    ],
)
def test_tables_that_are_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ClassTable(names)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\ta\nrice\n", "t.txt, line 2: expected 'id<TAB>name', found 'rice'"),
        ("0\ta\n-1\tb\n", "line 2: expected"),
        ("0\ta\n\u00b2\tb\n", "line 2: expected"),  # a digit to str.isdigit, no number to int
        ("0\ta\n0\tb\n", "t.txt, line 2: id 0 occurs twice"),
        ("rice\n0\tbackground\n", "line 1: expected"),
        ("rice\negg\n", "line 1: expected 'id<TAB>name', found 'rice'"),
        ("0\ta\nid\tname\n", "line 2: expected"),
        ("0\ta\n2\tb\n", r"t.txt: class ids must be 0, 1, 2, ... without gaps, but \[1\] are missing"),
        ("1\ta\n2\tb\n", "t.txt: ids begin at 0 = background .*but these begin at 1: add the line '0<TAB>background'"),
        ("2\ta\n3\tb\n", r"but \[0, 1\] are missing"),
        ("0\ta\n1\ta\n", "t.txt: class names must differ"),
        ("", "t.txt: a class table needs background"),
    ],
)
def test_texts_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ClassTable.from_text(text, "t.txt")


@pytest.mark.parametrize(
    "text",
    [
        "0\tbackground\n1\twhite rice\n2\t7 up\n",
        "id\tname\n0\tbackground\n1\twhite rice\n2\t7 up\n",
        "class_id,class_name\n0,background\n1,white rice\n2,7 up\n",
        "0 background\n1 white rice\n2 7 up\n",
        "0,background\n1,white rice\n2,7 up\n",
        '0,"background"\n1,"white rice"\n2,"7 up"\n',
        "0: background\n1: white rice\n2: 7 up\n",
        "0. background\n1. white rice\n2. 7 up\n",
        "0) background\n1) white rice\n2) 7 up\n",
        "0 - background\n1 - white rice\n2 - 7 up\n",
        "0.0\tbackground\n1.0\twhite rice\n2.0\t7 up\n",
        "# made by hand\n\n0\tbackground\t#000000\n2\t7 up\t#00ff00\n1\twhite rice\t#ff0000\n",
        "0\tbackground\n1\twhite rice\n1\twhite rice\n2\t7 up\n",
        "background\nwhite rice\n7 up\n",
        "__ignore__\nbackground\n\nwhite rice \n7 up\n",
    ],
)
def test_tables_as_people_write_them(text: str) -> None:
    assert ClassTable.from_text(text, "classes.txt") == ClassTable(("background", "white rice", "7 up"))


def test_what_was_interpreted_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ClassTable.from_text("0,a\n1,b\n1,b\n", "classes.txt")
    assert "classes.txt has no tabs; '0,a' is read as id 0, name 'a'" in caplog.text
    assert "classes.txt: line 3 repeats a line before" in caplog.text


def test_names_are_composed() -> None:
    classes = ClassTable.from_text("0\tbackground\n1\tcre\u0300me\n", "classes.txt")
    assert classes.names[1] == "cr\u00e8me" and same_name("cre\u0300me", "cr\u00e8me")


def test_a_subset_may_leave_out_names_and_ids() -> None:
    assert parse_id_lines("7\tegg\n3\n\n12\t\n", "subset") == {7: "egg", 3: "", 12: ""}
