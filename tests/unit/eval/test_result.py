"""The content of metrics.json: its keys are part of what people and programs read."""

import json

import numpy as np
import pytest

from foodseg.config.evaluation import EvalConfig
from foodseg.eval.result import EvaluationResult, LabelMaps, OtherWeights, ScoredCheckpoint
from foodseg.eval.scores import Evaluation, summarise_evaluation
from foodseg.eval.scoring import Scored
from foodseg.metrics.per_image import Conditions, ImageCounts

CHECKPOINT = ScoredCheckpoint("runs/a", 7, "abc", EvalConfig(ingredients="provided"), "random unit vectors", 1.25)
SCORED = ["data", "split", "images", "unlabelled", "seconds", "scores", "boundary", "ingredients", "calibration",
          "calibration_note"]  # fmt: skip


def some_scores(confident: bool) -> Evaluation:
    matrix = np.zeros((3, 3), np.int64)
    matrix[0, 0], matrix[1, 1], matrix[1, 2] = 8, 3, 1
    counts = np.zeros((1500, 3), np.int64)
    counts[750] = (12, 11, 12 * 32768)
    image = ImageCounts.from_matrix("p", "p", matrix, np.array([[0, 2, 4, 4], [1, 3, 3, 3], [2, 0, 0, 1]]))
    return summarise_evaluation(
        Scored([image], counts if confident else None), ["background", "rice", "fig"], subsets={"dry": [2]},
        trained_ids=[0, 1], calibration_note="a note",
    )  # fmt: skip


def result(subject: ScoredCheckpoint | LabelMaps, confident: bool) -> EvaluationResult:
    return EvaluationResult(
        subject=subject, space_map=None, mapped=(), partly_annotated={}, data="meals@v1-0", split="val", images=1,
        unlabelled=2, seconds=0.1, evaluation=some_scores(confident), other_weights=None,
    )  # fmt: skip


def written(found: EvaluationResult) -> dict[str, object]:
    plain = json.loads(json.dumps(found.to_json()))
    assert isinstance(plain, dict)
    return plain


def test_label_maps() -> None:
    found = result(LabelMaps("maps"), confident=False)
    plain = written(found)
    assert list(plain) == ["predictions", *SCORED]
    assert plain["calibration"] is None and found.conditions is None


def test_a_checkpoint() -> None:
    found = result(CHECKPOINT, confident=True)
    plain = written(found)
    about = ["checkpoint", "step", "weights", "config_hash", "eval", "conditions", "text", "temperature"]
    assert list(plain) == [*about, *SCORED]
    assert plain["conditions"] == {"weights": "ema", "ingredients": "provided", "restrict": "none"}
    assert found.conditions == Conditions("ema", "provided", "none")
    assert plain["eval"] == EvalConfig(ingredients="provided").model_dump(mode="json")


def test_a_notebook_shows_one_line() -> None:
    assert repr(result(CHECKPOINT, confident=True)) == (
        "EvaluationResult('runs/a' on val of meals@v1-0, 1 images, ema weights, ingredients provided: mIoU 87.5 %)"
    )
    assert repr(result(LabelMaps("maps"), confident=False)).startswith(
        "EvaluationResult('maps' on val of meals@v1-0, 1 images: mIoU "
    )


def test_what_there_is_not_has_no_key() -> None:
    evaluation = some_scores(confident=False)
    found = EvaluationResult(
        subject=LabelMaps("maps"), space_map="few.tsv", mapped=("data",), partly_annotated={"canteen": 2}, data="d",
        split="val", images=1, unlabelled=0, seconds=0.1, evaluation=evaluation,
        other_weights=OtherWeights("student", evaluation.scores),
    )  # fmt: skip
    plain = written(found)
    assert list(plain) == ["predictions", "map", "mapped", "partly_annotated", *SCORED, "other_weights"]
    assert plain["mapped"] == ["data"] and plain["partly_annotated"] == {"canteen": 2}
    assert plain["other_weights"] == {"weights": "student", "scores": plain["scores"]}


@pytest.mark.parametrize(("name", "keys"), [
    ("scores", ["miou", "miou_foreground", "miou_union", "macc", "aacc", "classes", "subsets", "untrained"]),
    ("boundary", ["miou", "miou_foreground", "classes", "subsets"]),
    ("ingredients", ["min_share", "micro", "per_image", "images", "share_error", "pairs", "classes"]),
    ("calibration", ["pixels", "accuracy", "confidence", "ece", "aurc", "risk_at", "risk_coverage", "bins"]),
])  # fmt: skip
def test_the_keys_of_the_scores(name: str, keys: list[str]) -> None:
    part = written(result(CHECKPOINT, confident=True))[name]
    assert isinstance(part, dict) and list(part) == keys


def test_numbers_in_it() -> None:
    plain = json.loads(json.dumps(result(CHECKPOINT, confident=True).to_json()))
    fig = {"id": 2, "name": "fig", "iou": None, "acc": None, "truth_pixels": 0, "predicted_pixels": 1}
    assert plain["scores"]["classes"][2] == fig
    assert plain["scores"]["subsets"] == {"dry": {"miou": 1.0, "ids": 1}}
    assert plain["calibration"]["risk_coverage"][-1] == [1.0, pytest.approx(1 / 12)]
