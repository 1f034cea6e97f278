"""Lists of image ids become row numbers."""

import pytest

from foodseg.errors import UserError
from foodseg.eval.image_ids import listed_rows

IDS = ["a", "b.v2", "canteen/1", "caf\u00e9", "x y"]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a\nb.v2\n", [0, 1]),
        ("b.v2\n\n  a  \na\n", [0, 1]),
        ("a.jpg\nb.v2.png\n", [0, 1]),
        ("./images/a.jpg\nimages\\canteen\\1.jpg\n", [0, 2]),
        ("cafe\u0301.jpg\nx y", [3, 4]),
        ("\n", []),
    ],
)
def test_lines_are_found_however_they_are_written(text: str, rows: list[int]) -> None:
    assert listed_rows(text, IDS, "--images p.txt") == rows


def test_unknown_ids_are_counted() -> None:
    with pytest.raises(UserError, match=r"--images p.txt: 'c' is not in the split \(nor are 1 others\)"):
        listed_rows("a\nc\nd\n", IDS, "--images p.txt")
