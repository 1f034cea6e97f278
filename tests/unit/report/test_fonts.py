"""Names in any script: which can be drawn, with what, and what replaces those that cannot."""

import logging
import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from foodseg.classes import ClassTable
from foodseg.report import fonts
from foodseg.report.fonts import as_legible, draw_text, is_legible, shortened, text_width
from foodseg.report.overlay import LONGEST_NAME, legend_name, overlay

SIMPLE = {
    "Latin": "cr\u00e8me br\u00fbl\u00e9e",
    "Vietnamese": "ph\u1edf b\u00f2",
    "Cyrillic": "\u0440\u0438\u0441",
    "Greek": "\u03c3\u03b1\u03bb\u03ac\u03c4\u03b1",
    "Japanese": "\u5bff\u53f8 \u3059\u3057",
    "Chinese": "\u997a\u5b50",
    "Korean": "\uae40\uce58",
    "Thai": "\u0e02\u0e49\u0e32\u0e27",
    "Emoji": "\U0001f363",
}
COMPLEX = {
    "Arabic": "\u0623\u0631\u0632",
    "Hebrew": "\u05d7\u05d5\u05de\u05d5\u05e1",
    "Devanagari": "\u0915\u094d\u0937",
    "Tamil": "\u0b9a\u0bbe\u0ba4\u0bae\u0bcd",
}
NOWHERE = "\U00012000\U00012001"  # cuneiform


def drawn(text: str, size: int = 24) -> np.ndarray:
    """Returns (40, 400) bool, where there is ink."""
    image = Image.new("RGB", (400, 40), "white")
    draw_text(ImageDraw.Draw(image), (4, 20), text, size, (0, 0, 0))
    return np.asarray(image)[..., 0] < 128


@pytest.fixture
def forgetful():
    """What was found out under a changed environment is forgotten before and after."""
    caches = (fonts._font_of, fonts._has, legend_name)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("script", SIMPLE)
def test_names_are_drawn_with_their_own_letters(script):
    name = SIMPLE[script]
    assert is_legible(name) and as_legible(name) == name
    ink = drawn(name)
    assert ink.any() and not np.array_equal(ink, drawn("?" * len(name)))
    for letter in name.replace(" ", ""):  # each has a shape that what no font has lacks
        assert not np.array_equal(drawn(letter), drawn(NOWHERE[0]))
    wide = np.flatnonzero(ink.any(0))
    assert wide[-1] - 4 <= text_width(name, 24) + 2


@pytest.mark.parametrize("script", COMPLEX)
def test_scripts_whose_letters_join_need_a_library(script, monkeypatch, forgetful):
    name = COMPLEX[script]
    monkeypatch.setattr(features, "check_feature", lambda feature: True)
    assert is_legible(name)
    monkeypatch.setattr(features, "check_feature", lambda feature: False)
    fonts._font_of.cache_clear()
    assert not is_legible(name) and is_legible("rice")


@pytest.mark.parametrize("name", [NOWHERE, f"rice {NOWHERE}"])
def test_a_name_that_cannot_be_drawn_is_its_id_and_a_warning(name, caplog, forgetful):
    assert not is_legible(name) and "?" in as_legible(name)
    with caplog.at_level(logging.WARNING):
        assert [legend_name(7, name), legend_name(7, name)] == ["id 7", "id 7"]
    assert caplog.text.count("in drawings the class is called id 7") == 1


def test_without_the_fonts_only_latin_is_legible(monkeypatch, forgetful):
    load = fonts._load

    def only_own(name: str, size: int):
        if name:
            raise ModuleNotFoundError(name)
        return load(name, size)

    monkeypatch.setattr(fonts, "_load", only_own)
    assert is_legible("rice") and not is_legible(SIMPLE["Japanese"])
    assert drawn(f"rice {SIMPLE['Japanese']}").any()


@pytest.mark.parametrize("script", SIMPLE)
def test_a_legend_in_any_script_differs_from_one_of_ids(script):
    image, mask = np.full((60, 80, 3), 200, np.uint8), np.ones((60, 80), np.uint8)
    shown, ids = (overlay(image, mask, ClassTable(("background", name))) for name in (SIMPLE[script], "id 1"))
    assert shown.shape != ids.shape or (shown != ids).any()


def test_long_names_are_cut_between_letters():
    assert shortened("a" * 36, 36) == "a" * 36
    assert shortened("a" * 60, 36) == "a" * 33 + "..."
    marked = "x" * 32 + "e\u0323\u0301" + "y" * 40
    assert shortened(marked, 36) == "x" * 32 + "..."
    cook = "\U0001f9d1\u200d\U0001f373"
    assert shortened("z" * 32 + cook + "z" * 40, 36) == "z" * 32 + "..."
    assert len(legend_name(1, "\u5bff" * 60)) == LONGEST_NAME


def test_controls_and_parts_of_letters():
    assert as_legible("a\nb\tc") == "a b c"
    apart = unicodedata.normalize("NFD", SIMPLE["Latin"])
    assert np.array_equal(drawn(apart), drawn(SIMPLE["Latin"]))
    assert np.array_equal(drawn("\U0001f363\ufe0f"), drawn("\U0001f363"))
    assert text_width("", 12) == 0 and not drawn("").any()
