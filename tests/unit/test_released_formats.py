"""Data sets, runs and counts that a released version wrote are read by this one; see tests/fixtures/README.md."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import foodseg
from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.config import load_config
from foodseg.config.load import to_yaml
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.errors import UserError
from foodseg.eval.subject import checkpoint_subject
from foodseg.metrics.per_image import merge, read_image_counts
from foodseg.predict.device import pick_device
from foodseg.predict.predictor import Predictor
from foodseg.prepare.verify_shards import verify_shards
from foodseg.train.ray_trainer import run_training
from tests.support.compare import assert_same_ids, close, scores_of

FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


@pytest.fixture(params=RELEASES)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy, so that no test writes into what was released."""
    return Path(shutil.copytree(FIXTURES / request.param, tmp_path / "released"))


def test_a_data_set(released: Path) -> None:
    uri = str(released / "prepared")
    manifest = read_manifest(uri)
    assert verify_shards(uri, manifest) == sum(shard.size for shard in manifest.shards)
    for split, counts in manifest.counts.items():
        reader = RowReader(uri, manifest, [split])
        rows = reader.take(range(len(reader))).to_pylist()
        masks = [decode_mask(row["mask"]) for row in rows]
        assert [mask.shape for mask in masks] == [(row["height"], row["width"]) for row in rows]
        pixels = sum(np.bincount(mask.ravel(), minlength=256)[: len(manifest.classes)] for mask in masks)
        assert len(rows) == counts.images and tuple(pixels) == counts.class_pixels


def test_a_checkpoint_labels_as_it_did(released: Path) -> None:
    uri = str(released / "prepared")
    reader = RowReader(uri, read_manifest(uri), ["test"])
    rows = reader.take(range(len(reader))).to_pylist()
    model = foodseg.load(released / "run", device="cpu")
    where = resolve_checkpoint(str(released / "run"))
    loaded = load_checkpoint(where)
    predictor = Predictor(load_model(loaded, loaded.config.eval.weights), loaded.config.eval, pick_device("cpu"))
    for row in rows:
        (released / "image.jpg").write_bytes(row["image"])
        expected = decode_mask((released / "labelled" / f"{row['image_id']}.png").read_bytes())
        found = model.predict(released / "image.jpg").ids
        assert_same_ids(found, expected, scores_of(predictor.logits_of_file(row["image"])))
    assert len(rows) == len(list((released / "labelled").iterdir())) == 3
    assert loaded.class_pixels is None  # so for logit adjustment it has to be trained again
    adjusted = ["eval.logit_adjustment=1"]
    with pytest.raises(UserError, match=r"which a checkpoint written by foodseg 0\.1\.0 does not hold: train again"):
        checkpoint_subject(where, read_manifest(uri), reader, (None, None), "test", adjusted)
    with pytest.raises(UserError, match=r"does not hold: train again, or set eval\.logit_adjustment=0$"):
        foodseg.load(released / "run", device="cpu", overrides=adjusted).predict(released / "image.jpg")


def test_scores(released: Path) -> None:
    recorded = json.loads((released / "scores" / "metrics.json").read_text())
    log = str(released / "test_access.jsonl")
    found = foodseg.evaluate(str(released / "run"), str(released / "prepared"), "test", device="cpu", test_log=log)
    counts, facts = read_image_counts(str(released / "scores" / "images.parquet"))
    matrix = merge(counts, len(facts.classes))
    assert matrix.sum() == sum(each.count.sum() for each in counts) > 0
    assert found.evaluation.scores.aacc == close(recorded["scores"]["aacc"])
    assert np.trace(matrix) / matrix.sum() == pytest.approx(recorded["scores"]["aacc"])


def test_a_killed_run_resumes(released: Path) -> None:
    written = released / "run" / "config.yaml"
    config = load_config(str(written), [f"run.uri={released / 'run'}", f"data.uri={released / 'prepared'}"]).config
    written.write_text(to_yaml(config))  # its data have moved since, which a run may not
    result = run_training(config, resume=True)
    lines = [json.loads(line) for line in (released / "run" / "history.jsonl").read_text().splitlines()]
    assert result.step == 24 and [line["step"] for line in lines] == [4, 8, 12, 16, 20, 24]
