"""Names as people type them, and those that are refused."""

import pytest

from foodseg.errors import UserError
from foodseg.models.clip.names import Names, parse_names


def test_names_are_read_from_a_text_or_a_list() -> None:
    expected = Names(("kimchi", "white rice"), (("kimchi",), ("white rice", "steamed rice")))
    assert parse_names(" kimchi,white  rice | steamed rice|white rice,") == expected
    assert parse_names(["kimchi", "white rice|steamed rice"]) == expected
    assert expected.classes.names == ("background", "kimchi", "white rice")


def test_any_number_of_names() -> None:
    many = parse_names([f"name {index}" for index in range(10_000)])
    assert len(many.labels) == 10_000 and many.classes.names[10_000] == "name 9999"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (" , ", 'names is empty: name what to look for, for example "kimchi, rice"'),
        (["rice", 3], r"names is a list of texts, found \['rice', 3\]"),
        ("rice, Rice", "names: 'Rice' occurs twice"),
        ("rice, background", "names: 'background' is what fits none of the names: leave it out"),
        (["rice", "n" * 10_240], "names: 'n{40}'... has 10,240 characters; a name has at most 200"),
        (["ri\x00ce"], r"names: 'ri\\x00ce' has a character that cannot be printed"),
    ],
)
def test_names_that_are_refused(names: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_names(names)  # type: ignore[arg-type]
