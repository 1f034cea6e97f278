"""Lists of ingredients instead of the truth: how they are read, and what a model scores with them."""

from pathlib import Path

import pytest

import foodseg
from foodseg.classes import ClassTable
from foodseg.cli.main import run as cli
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.errors import UserError
from foodseg.eval.provided_lists import read_provided
from foodseg.eval.report_markdown import condition_mark
from foodseg.eval.result_files import conditions_note
from tests.support.api_world import write_api_world

CLASSES = ClassTable(("background", "rice", "fried tofu"))


def written(folder: Path, text: str) -> str:
    path = folder / "menu.tsv"
    path.write_text(text)
    return str(path)


def test_a_line_for_each_image(tmp_path: Path) -> None:
    menu = written(tmp_path, "a\tFried Tofu, rice\n\nb\t\nother\trice\n")
    assert read_provided(menu, CLASSES, ["a", "b"]) == {"a": [1, 2], "b": [], "other": [1]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a rice\n", "line 1: an image id, a tab, and names with commas between are needed, found 'a rice'"),
        ("a\trice\na\trice\n", "line 2: 'a' has a list already"),
        ("a\tdurian\n", "line 1: 'durian' is not one of the 2 ingredients"),
        ("c\trice\n", "has no line for the image 'a', and of 1 more: every scored image needs one"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        read_provided(written(tmp_path, text), CLASSES, ["a", "b"])
    assert sentence in str(refused.value)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("provided")
    write_api_world(folder)
    return folder


@pytest.fixture
def menu(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The true classes of val."""
    monkeypatch.chdir(world)
    manifest = read_manifest("prepared/meals")
    rows = RowReader("prepared/meals", manifest, ["val"]).columns(["image_id", "ingredients"]).to_pylist()
    lines = (f"{row['image_id']}\t{', '.join(manifest.classes[i] for i in row['ingredients'])}" for row in rows)
    return written(tmp_path, "\n".join(lines))


def test_the_truth_as_a_list_scores_as_the_oracle_and_is_not_called_one(menu: str) -> None:
    hard = ["eval.restrict=hard"]
    found = foodseg.evaluate("runs/a", "prepared/meals", provided=menu, overrides=hard)
    oracle = foodseg.evaluate("runs/a", "prepared/meals", overrides=[*hard, "eval.ingredients=provided"])
    assert found.evaluation.scores == oracle.evaluation.scores
    assert condition_mark(found.conditions) == "provided by lists, restrict hard"
    assert condition_mark(oracle.conditions) == "provided, oracle, restrict hard"
    assert conditions_note(found.conditions) == f"provided, the lists of {menu}; class scores restricted to them (hard)"
    assert not found.conditions.is_oracle and oracle.conditions.is_oracle


def test_other_lists_score_otherwise(menu: str, tmp_path: Path) -> None:
    nothing = written(tmp_path, "".join(line.split("\t")[0] + "\t\n" for line in Path(menu).read_text().splitlines()))
    found = foodseg.evaluate("runs/a", "prepared/meals", provided=nothing, overrides=["eval.restrict=hard"])
    assert found.evaluation.scores.miou_foreground == 0


def test_label_maps_take_no_lists(menu: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--predictions", "maps", "--data", "prepared/meals", "--out", "scores", "--workers", "0"]
    assert cli([*words, "--provided", menu]) == 2
    assert "--provided is for a model, and --predictions scores label maps" in capsys.readouterr().err
