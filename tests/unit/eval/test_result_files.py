"""What an evaluation leaves behind."""

import json

import numpy as np
import pytest

from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.eval.evaluate import Labels, score_rows
from foodseg.eval.mapped import CommonSpace
from foodseg.eval.result_files import TrainingCurves, conditions_note, shown_facts, shown_settings, write_evaluation
from foodseg.eval.scores import Evaluation, summarise_evaluation
from foodseg.metrics.calibration import CERTAIN
from foodseg.metrics.per_image import read_image_counts
from tests.support.synthetic_set import write_synthetic

ORACLE = {"ingredients": "provided", "restrict": "hard", "weights": "ema"}


@pytest.mark.parametrize(("confident", "conditions"), [(True, ORACLE), (True, None), (False, None)])
def test_the_files(tmp_path, confident, conditions):
    uri = write_synthetic(tmp_path / "d", train=2, val=5, test=1)
    manifest = read_manifest(uri)
    reader = RowReader(uri, manifest, ["val"])
    space = CommonSpace(SYNTHETIC_CLASSES, f"{manifest.identity} mapped")

    def labeller(image_id, data, size):
        return Labels(np.ones(size, np.uint8), np.full(size, CERTAIN, np.uint16) if confident else None)

    scored = score_rows(reader, range(5), labeller, space)
    evaluation = summarise_evaluation(
        scored, SYNTHETIC_CLASSES.names, subsets={}, trained_ids=None, calibration_note="a note"
    )
    metrics = {"predictions": "elsewhere", "data": space.data, "split": "val", "images": 4, "unlabelled": 1}
    metrics |= evaluation.to_json() | ({"conditions": conditions} if conditions else {})
    write_evaluation(
        str(tmp_path / "o"), metrics, evaluation, scored, space, manifest, reader, labeller, TrainingCurves()
    )
    names = {"metrics.json", "report.html", "report.md", "images.parquet"} | (
        {"confidence.parquet"} if confident else set()
    )
    assert {path.name for path in (tmp_path / "o").iterdir()} == names
    written = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert written == metrics and Evaluation.from_json(written) == evaluation
    images, about = read_image_counts(str(tmp_path / "o" / "images.parquet"))
    assert about["data"] == space.data and about["conditions"] == conditions and len(images) == 4
    assert all(np.array_equal(a.boundary, b.boundary) for a, b in zip(images, scored.images, strict=True))
    for name in ("report.html", "report.md"):
        text = (tmp_path / "o" / name).read_text()
        assert (
            "synthetic val" in text and "label maps in elsewhere" in text and "4 images, 1 unlabelled left out" in text
        )
        assert ("mIoU (provided, oracle, restrict hard)" in text) is (conditions is not None)


def test_facts_of_a_checkpoint():
    metrics = {
        "checkpoint": "runs/a/checkpoints/step-00000007", "step": 7, "weights": "ema", "config_hash": "abc",
        "eval": {"longest_side": 512, "window": None, "flip": False, "weights": "ema"},
        "data": "meals@v1-0", "split": "val", "images": 3, "unlabelled": 0,
    }  # fmt: skip
    facts = shown_facts(metrics)
    assert list(facts) == ["scored", "model", "data", "settings", "written"]
    mapped = shown_facts({**metrics, "map": "to_b.tsv", "mapped": ["data", "predictions"]})
    assert mapped["label spaces"] == "data and predictions mapped by to_b.tsv"
    assert len(mapped) == len(facts) + 1, "said once"
    partial = shown_facts({**metrics, "partly_annotated": {"canteen": 3, "uec": 102}})
    assert partial["partial labels"] == (
        "canteen (3 ids), uec (102 ids); background predicted as an id that its source lacks is not scored"
    )
    assert facts["model"] == "step 7, ema weights, configuration abc"
    assert facts["settings"] == "longest_side 512, flip False"
    assert facts["data"] == "meals@v1-0, split val, 3 images"


@pytest.mark.parametrize(
    ("ingredients", "restrict", "note"),
    [
        ("vocabulary", "none", None),
        ("predicted", "none", "predicted, the model's image-level prediction"),
        (
            "predicted",
            "soft",
            "predicted, the model's image-level prediction; class scores restricted to them (soft)",
        ),
        (
            "provided",
            "hard",
            "provided, the true classes of each image, an oracle: not comparable with other results; "
            "class scores restricted to them (hard)",
        ),
    ],
)
def test_under_which_conditions_a_score_stands(ingredients, restrict, note):
    metrics = {
        "checkpoint": "c", "step": 7, "weights": "ema", "config_hash": "abc", "text": "random unit vectors, seed 0",
        "conditions": {"ingredients": ingredients, "restrict": restrict},
        "data": "meals@v1-0", "split": "val", "images": 3, "unlabelled": 0,
    }  # fmt: skip
    facts = shown_facts(metrics)
    assert facts.get("ingredients") == note == conditions_note(metrics)
    assert facts["text"] == "random unit vectors, seed 0"


def test_settings_that_are_not_used_are_not_shown():
    settings = {"flip": False, "ingredients": "vocabulary", "ingredients_threshold": 0.2}
    settings |= {"restrict": "none", "restrict_lambda": 1.0}
    assert shown_settings(settings) == "flip False, ingredients vocabulary"
    settings |= {"ingredients": "predicted", "restrict": "soft"}
    assert shown_settings(settings) == (
        "flip False, ingredients predicted, ingredients_threshold 0.2, restrict soft, restrict_lambda 1.0"
    )
