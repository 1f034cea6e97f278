"""Scores of label maps that are redrawn along masks: kept ones beside the data, with what the report says of it."""

import json
from pathlib import Path

import numpy as np
import pytest

import foodseg
from foodseg.cli.main import run as cli
from foodseg.config.zero_shot import parse_zero_shot_config
from foodseg.data.reader import RowReader
from foodseg.data.sam_masks import mask_row
from foodseg.data.shards import read_manifest
from foodseg.errors import UserError
from foodseg.eval.refined import mask_source
from tests.support.api_world import write_api_world
from tests.unit.data.test_sam_masks import keep

DATA = "prepared/meals"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With masks of everything: each image is one region."""
    folder = tmp_path_factory.mktemp("refined")
    write_api_world(folder)
    uri = str(folder / DATA)
    manifest = read_manifest(uri)
    table = RowReader(uri, manifest, list(manifest.counts)).columns(["image_id", "height", "width"]).to_pylist()
    rows = [
        mask_row(row["image_id"], (row["height"], row["width"]), [np.ones((row["height"], row["width"]), bool)], [0.9])
        for row in table
    ]
    keep(uri, manifest, rows)
    return folder


@pytest.fixture(autouse=True)
def inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


@pytest.mark.parametrize("how", ["vote", "soft"])
def test_kept_masks_redraw_what_is_scored(how: str, tmp_path: Path) -> None:
    words = ["evaluate", "runs/a", "--data", DATA, "--workers", "0", "--out", str(tmp_path), "--refine", how, "--json"]
    assert cli(words) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["conditions"]["refine"] == f"{how}, vit_t 00ff"
    assert f"along masks of Segment Anything: {how}, vit_t 00ff" in (tmp_path / "report.md").read_text()
    found = foodseg.evaluate("runs/a", DATA, refine=how)  # type: ignore[arg-type]
    plain = foodseg.evaluate("runs/a", DATA)
    assert found.conditions is not None and found.conditions.refine and found.evaluation != plain.evaluation
    assert plain.conditions is not None and plain.conditions.refine is None
    if how == "soft":  # one region, one id for each image
        predicted = [row.id for row in found.evaluation.scores.classes if row.predicted_pixels]
        assert 1 <= len(predicted) <= found.images


def test_clip_is_redrawn_too() -> None:
    config = parse_zero_shot_config(None, ["clip.model=models/clip", "eval.longest_side=64", "eval.window=null"])
    found = foodseg.evaluate(config, DATA, refine="soft")
    assert found.to_json()["refine"] == "soft, vit_t 00ff"


def test_what_does_not_go_together(tmp_path: Path) -> None:
    manifest = read_manifest(DATA)
    assert mask_source("none", None, DATA, manifest) is None
    with pytest.raises(UserError, match="--sam is for --refine vote or soft"):
        foodseg.evaluate("runs/a", DATA, sam="x.pt")
    with pytest.raises(UserError, match="--refine is for a model, and --predictions scores label maps as they are"):
        foodseg.evaluate(None, DATA, predictions="maps", refine="vote")
    with pytest.raises(UserError, match=r"x\.pt"):
        foodseg.evaluate("runs/a", DATA, refine="vote", sam="x.pt")
