"""Label spaces on the command line: a data set that is mapped, and label maps that are scored in another space."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foodseg.cli.main import run
from foodseg.data.shards import read_manifest
from tests.support.tiny_world import make_world


@pytest.fixture
def ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A tiny world as working directory, with `few.tsv`: all ingredients become two kinds, the last is ignored.

    Returns the number of ids that the data set has.
    """
    monkeypatch.chdir(tmp_path)
    make_world(tmp_path)
    names = read_manifest("prepared").classes
    lines = ["meals_id\tmeals_name\tfew_id\tfew_name", "0\tbackground\t0\tbackground"]
    lines += [f"{index}\t{names[index]}\t{1 + index % 2}\tkind {index % 2}" for index in range(1, len(names) - 1)]
    Path("few.tsv").write_text("\n".join([*lines, f"{len(names) - 1}\t{names[-1]}\tignore\n"]))
    return len(names)


def answered(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    logging.getLogger("foodseg").handlers.clear()  # they write to the stderr of an earlier test
    assert run([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_scores_in_another_label_space(ids: int, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("meals/masks", "maps")

    metrics = answered(
        capsys, "evaluate", "--predictions", "maps", "--data", "prepared", "--out", "out", "--workers", "0",
        "--map", "few.tsv",
    )  # fmt: skip

    assert metrics["scores"]["miou"] == 1.0 and metrics["mapped"] == ["data", "predictions"]
    assert [row["name"] for row in metrics["scores"]["classes"]] == ["background", "kind 0", "kind 1"]
    text = Path("out/report.md").read_text()
    assert text.count("few.tsv") == 1 and "- label spaces: data and predictions mapped by few.tsv" in text


def test_map_a_data_set(ray_cluster: None, ids: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Shards are mapped on Ray, as they are prepared."""
    answer = answered(capsys, "data", "map", "prepared", "few.tsv", "mapped", "--name", "few")

    before, after = read_manifest("prepared"), read_manifest("mapped")
    assert answer["data"] == after.identity and after.name == "few" and answer["classes"] == len(after.classes) == 3
    assert answer["splits"] == {"train": 8, "val": 2, "test": 3} and answer["annotated"] == {"synthetic": None}
    pixels = np.array(before.counts["test"].class_pixels)
    kinds = [int(pixels[[index for index in range(1, ids - 1) if index % 2 == odd]].sum()) for odd in (0, 1)]
    assert after.counts["test"].class_pixels == (int(pixels[0]), *kinds)
