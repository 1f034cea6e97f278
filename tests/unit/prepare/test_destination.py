"""Where data sets and tables may be written."""

from pathlib import Path

import pytest

from foodseg.errors import UserError
from foodseg.models.text.embed import embed_names
from foodseg.prepare.destination import check_destination


@pytest.fixture
def src(tmp_path: Path) -> Path:
    for name in ("images/a.jpg", "masks/deep/a.png", "classes.txt", "empty/.DS_Store", "done/dataset.json", "done/v-1"):
        path = tmp_path / "meals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"format_version": 2}')
    return tmp_path / "meals"


@pytest.mark.parametrize("dst", ["prepared", "out/prepared", "empty", "done", "../prepared", "../meals2", ".."])
def test_new_folders_and_prepared_sets_are_fine(dst: str, src: Path) -> None:
    check_destination(str(src), str(src / dst))


@pytest.mark.parametrize(
    ("dst", "words"),
    [
        (".", "DST .* is SRC"),
        ("../meals/", "is SRC"),
        ("images/../", "is SRC"),
        ("images", "is in images/ of SRC"),
        ("images/prepared", "is in images/ of SRC"),
        ("masks/deep/new/er", "is in masks/ of SRC"),
    ],
)
def test_never_among_the_inputs(dst: str, words: str, src: Path) -> None:
    with pytest.raises(UserError, match=words):
        check_destination(str(src), f"{src}/{dst}")


def test_links_are_followed(src: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(src)
    (tmp_path / "to_images").symlink_to(src / "images")
    for dst, words in (("link", "is SRC"), ("link/images/x", "is in images/"), ("to_images/x", "is in images/")):
        with pytest.raises(UserError, match=words):
            check_destination(str(src), str(tmp_path / dst))
    with pytest.raises(UserError, match="is SRC"):
        check_destination(str(tmp_path / "link"), f"file://{src}")


def test_a_file_of_another_program_is_not_replaced(tmp_path: Path) -> None:
    for text in ('{"images": []}', "[]"):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(UserError, match=r"dataset\.json was not written by foodseg and would be replaced"):
            check_destination("hf://datasets/a/b", str(tmp_path))
    (tmp_path / "dataset.json").write_text('{"format_version": 2, "na')
    check_destination("hf://datasets/a/b", str(tmp_path))  # a damaged one is ours


def test_tables_replace_only_tables(tmp_path: Path) -> None:
    classes, out = tmp_path / "classes.txt", tmp_path / "table.safetensors"
    classes.write_text("0\tbackground\n1\trice\n2\tegg\n3\ttofu\n")
    for seed in (0, 1):
        embed_names(str(classes), str(out), random_seed=seed)
    out.write_bytes(b"weights of a model")
    with pytest.raises(UserError, match="OUT would replace a file that `foodseg data embed` did not write"):
        embed_names(str(classes), str(out), random_seed=0)
    assert out.read_bytes() == b"weights of a model"
