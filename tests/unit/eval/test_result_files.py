"""What an evaluation leaves behind."""

import json
from dataclasses import replace

import numpy as np
import pytest

from foodseg.config.evaluation import EvalConfig
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.eval.mapped import CommonSpace
from foodseg.eval.result import EvaluationResult, LabelMaps, ScoredCheckpoint
from foodseg.eval.result_files import TrainingCurves, conditions_note, shown_facts, shown_settings, write_evaluation
from foodseg.eval.scores import summarise_evaluation
from foodseg.eval.scoring import Labels, Scored, score_rows
from foodseg.metrics.calibration import CERTAIN
from foodseg.metrics.per_image import ImageCounts, read_image_counts
from tests.support.synthetic_set import write_synthetic

ORACLE = ScoredCheckpoint("a", 7, "abc", EvalConfig(ingredients="provided", restrict="hard"), None, 1.0)
MAPS = LabelMaps("elsewhere")


@pytest.mark.parametrize(("confident", "subject"), [(True, ORACLE), (True, MAPS), (False, MAPS)])
def test_the_files(tmp_path, confident, subject):
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
    result = EvaluationResult(
        subject=subject, space_map=None, mapped=(), partly_annotated={}, data=space.data, split="val", images=4,
        unlabelled=1, seconds=0.1, evaluation=evaluation, other_weights=None,
    )  # fmt: skip
    write_evaluation(str(tmp_path / "o"), result, scored, space, manifest, reader, labeller, TrainingCurves())
    names = {"metrics.json", "report.html", "report.md", "images.parquet"} | (
        {"confidence.parquet"} if confident else set()
    )
    assert {path.name for path in (tmp_path / "o").iterdir()} == names
    written = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert written == json.loads(json.dumps(result.to_json())) and written["scores"]["miou"] == evaluation.scores.miou
    images, about = read_image_counts(str(tmp_path / "o" / "images.parquet"))
    assert about.data == space.data and about.conditions == result.conditions and len(images) == 4
    assert all(np.array_equal(a.boundary, b.boundary) for a, b in zip(images, scored.images, strict=True))
    for name in ("report.html", "report.md"):
        text = (tmp_path / "o" / name).read_text()
        assert "synthetic val" in text and "4 images, 1 unlabelled left out" in text
        assert ("mIoU (provided, oracle, restrict hard)" in text) is (subject is ORACLE)
        assert ("label maps in elsewhere" in text) is (subject is MAPS)


def a_result(config: EvalConfig, text: str | None = None) -> EvaluationResult:
    """Of a checkpoint, with no more scores than facts need."""
    evaluation = summarise_evaluation(
        Scored([ImageCounts.from_matrix("p", "p", np.diag([4, 2]), np.array([[0, 2, 2, 2], [1, 1, 1, 1]]))], None),
        ["background", "rice"], subsets={}, trained_ids=None, calibration_note="a note",
    )  # fmt: skip
    return EvaluationResult(
        subject=ScoredCheckpoint("runs/a/checkpoints/step-00000007", 7, "abc", config, text, 1.5), space_map=None,
        mapped=(), partly_annotated={}, data="meals@v1-0", split="val", images=3, unlabelled=0, seconds=0.1,
        evaluation=evaluation, other_weights=None,
    )  # fmt: skip


def test_facts_of_a_checkpoint():
    result = a_result(EvalConfig())
    facts = shown_facts(result)
    assert list(facts) == ["scored", "model", "data", "settings", "written"]
    mapped = shown_facts(replace(result, space_map="to_b.tsv", mapped=("data", "predictions")))
    assert mapped["label spaces"] == "data and predictions mapped by to_b.tsv"
    assert len(mapped) == len(facts) + 1, "said once"
    partial = shown_facts(replace(result, partly_annotated={"canteen": 3, "uec": 102}))
    assert partial["partial labels"] == (
        "canteen (3 ids), uec (102 ids); background predicted as an id that its source lacks is not scored"
    )
    assert facts["model"] == "step 7, ema weights, configuration abc"
    assert facts["settings"] == "longest_side 512, flip False, ingredients vocabulary"
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
    result = a_result(EvalConfig(ingredients=ingredients, restrict=restrict), text="random unit vectors, seed 0")
    facts = shown_facts(result)
    assert facts.get("ingredients") == note == conditions_note(result.conditions)
    assert facts["text"] == "random unit vectors, seed 0"


def test_settings_that_are_not_used_are_not_shown():
    settings = EvalConfig(longest_side=None)
    assert shown_settings(settings) == "flip False, weights ema, ingredients vocabulary"
    settings = EvalConfig(longest_side=None, ingredients="predicted", restrict="soft")
    assert shown_settings(settings, leave_out=("weights",)) == (
        "flip False, ingredients predicted, ingredients_threshold 0.2, restrict soft, restrict_lambda 1.0"
    )
