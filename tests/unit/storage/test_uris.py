"""Local paths, joined as pathlib does, only faster."""

from pathlib import Path

import pytest

from foodseg.storage.uris import absolute, join


@pytest.mark.parametrize(
    "path",
    ["/", "/a", "/a/b", "/a/", "//a", "/a//b", "/a/./b", "/./a", "/a/.", "/a/..", "/a/../b", "/a/.b", "/a b", "a", "."],
)
@pytest.mark.parametrize("part", ["", "b", "/b/", "b//c", "./b", "b/.", "..", "~", "b/c.jpg"])
def test_local_paths_are_those_of_pathlib(path: str, part: str) -> None:
    assert absolute(path) == str(Path(path).absolute())
    assert join(path, part) == str(Path(Path(path).absolute(), part.strip("/")))
