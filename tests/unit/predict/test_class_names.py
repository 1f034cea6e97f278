"""Names of ingredients as users write them, and suggestions for unknown ones."""

import pytest

from foodseg.classes import ClassTable
from foodseg.errors import UserError
from foodseg.predict.class_names import nearest_names, parse_ingredients

CLASSES = ClassTable(("background", "rice", "fried tofu", "steamed tofu", "spring onion", "apple"))


@pytest.mark.parametrize(
    ("text", "ids"),
    [("rice", [1]), ("rice, fried tofu", [1, 2]), (" Fried Tofu ,RICE,, rice", [1, 2]), ("apple,steamed tofu", [3, 5])],
)
def test_names(text, ids):
    assert parse_ingredients(text, CLASSES) == ids


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ricce", "--ingredients: 'ricce' is not one of the 5 ingredients; did you mean 'rice'?"),
        (
            "rice, freid tofu",
            "--ingredients: 'freid tofu' is not one of the 5 ingredients; did you mean 'fried tofu' or 'steamed tofu'?",
        ),
        ("tofu", "--ingredients: 'tofu' is not one of the 5 ingredients; did you mean 'fried tofu' or 'steamed tofu'?"),
        ("scallions", "--ingredients: 'scallions' is not one of the 5 ingredients; did you mean 'spring onion'?"),
        (
            "xyzzy",
            "--ingredients: 'xyzzy' is not one of the 5 ingredients; `classes.tsv` of the checkpoint lists them",
        ),
        (" , ", '--ingredients is empty: name what is on the images, for example "rice, fried tofu"'),
    ],
)
def test_unknown_names(text, sentence):
    with pytest.raises(UserError) as error:
        parse_ingredients(text, CLASSES)
    assert str(error.value) == sentence


def test_a_list_for_each_image_is_refused():
    with pytest.raises(
        UserError, match=r"^ingredients is a list of names, for all images alike; found \[\['rice'\]\]$"
    ):
        parse_ingredients([["rice"]], CLASSES, where="ingredients")


def test_background_is_no_ingredient():
    with pytest.raises(UserError, match="'background' is not one of the 5 ingredients"):
        parse_ingredients("background", CLASSES)
    assert "background" not in nearest_names("background", CLASSES)
