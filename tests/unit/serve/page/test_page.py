"""The files of the page as the server sends them."""

import re
from importlib import resources

import pytest

from foodseg.serve.page import MEDIA_TYPES, PAGE_HEADERS, page_file

NAMES = sorted(item.name for item in resources.files("foodseg.serve.page").iterdir() if "." in item.name)
FILES = [name for name in NAMES if name.endswith(tuple(MEDIA_TYPES))]


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_there_with_its_type(name):
    found = page_file(f"/page/{name}")
    assert found is not None and found.body
    assert found.media_type == MEDIA_TYPES[name[name.rindex(".") :]]


def test_the_root_is_the_index():
    root, index = page_file("/"), page_file("/page/index.html")
    assert root is not None and root == index


@pytest.mark.parametrize(
    "path", ["", "index.html", "/index.html", "/page/", "/page", "/page/__init__.py", "/page/../schema.py",
             "/page/..%2fschema.py", "/page//page/app.js", "/page/APP.JS", "/page/app.js/", "/page/\0app.js"],
)  # fmt: skip
def test_nothing_else_is_served(path):
    assert page_file(path) is None


def test_the_page_loads_nothing_from_elsewhere_and_has_no_inline_code():
    """What the Content-Security-Policy forbids is not there, so that nothing is lost in silence."""
    index = resources.files("foodseg.serve.page").joinpath("index.html").read_text()
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", index.replace("http://www.w3.org/2000/svg", "")) != []
    for name in FILES:
        text = resources.files("foodseg.serve.page").joinpath(name).read_text()
        assert text.isascii()
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        assert len(text.splitlines()) <= 350 and max(map(len, text.splitlines())) <= 1200, name
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]* src=)", index)
    assert "unsafe" not in PAGE_HEADERS["Content-Security-Policy"]
