"""What an evaluation says of its confidences, and which images it scores; in one process."""

from typing import Any

import pytest

from foodseg.data.shards import read_manifest, write_manifest
from foodseg.errors import UserError
from foodseg.eval.ray_evaluate import evaluate
from foodseg.eval.result import EvaluationResult, OtherWeights, ScoredCheckpoint
from foodseg.train.loop import train
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config, write_synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data sets `a` and `b`; a run `one` on a, and `two` on both, which was validated on the val of each."""
    root = tmp_path_factory.mktemp("note")
    a, b = write_synthetic(root / "a"), write_synthetic(root / "b", test=5)
    for name, uri, settings in (("one", a, []), ("two", "", [f"data.uris=[{{uri: {a}}}, {{uri: {b}}}]"])):
        run, context = prepared(synthetic_config(uri, root / name, "train.steps=2", *settings))
        train(run.config, run.manifest, run.total_steps, context)
    return root


def scored(folder, name: str, split: str, **arguments: Any) -> EvaluationResult:
    locations = {"data": str(folder / "a"), "out": str(folder / "out"), "test_log": str(folder / "log.jsonl")}
    return evaluate(str(folder / name), split=split, workers=0, **locations, **arguments)


def test_where_the_temperature_comes_from(folder):
    here = "fitted on the images that are scored here"
    assert scored(folder, "one", "val").evaluation.calibration_note.endswith(here)
    assert scored(folder, "two", "val").evaluation.calibration_note.endswith(
        f"{here}, and on those of the other data sets"
    )
    for name in ("one", "two"):
        assert scored(folder, name, "test").evaluation.calibration_note.endswith("fitted on val")


def test_a_temperature_is_for_its_settings(folder):
    found = scored(folder, "one", "val", overrides=["eval.flip=true"])
    assert isinstance(found.subject, ScoredCheckpoint)
    assert found.subject.temperature == 1 and found.evaluation.calibration_note == (
        "not calibrated for these settings: the temperature is taken as 1, "
        "the checkpoint's is for longest_side 96, flip False, weights ema, ingredients vocabulary"
    )


def test_image_ids_stand_one_a_line(folder):
    (folder / "list.txt").write_text("  val-002 \n\nval-001\r\n")
    assert scored(folder, "one", "val", images=str(folder / "list.txt")).images == 2
    (folder / "list.txt").write_text("val-002\nval 001\n")
    with pytest.raises(UserError, match="'val 001' is not in the split"):
        scored(folder, "one", "val", images=str(folder / "list.txt"))


def test_partial_labels_are_said(folder):
    plain = scored(folder, "one", "val")
    assert not plain.partly_annotated and "partial labels" not in (folder / "out" / "report.md").read_text()
    manifest = read_manifest(str(folder / "a"))
    partial = manifest.model_copy(update={"annotated": {"synthetic": (0, 1)}})
    write_manifest(str(folder / "a"), partial)
    try:
        found = scored(folder, "one", "val")
    finally:
        write_manifest(str(folder / "a"), manifest)
    assert found.partly_annotated == {"synthetic": 2}
    assert "- partial labels: synthetic (2 ids); background predicted as" in (folder / "out" / "report.md").read_text()
    counted = [sum(row.truth_pixels for row in metrics.evaluation.scores.classes) for metrics in (plain, found)]
    assert counted[1] <= counted[0] == sum(manifest.counts["val"].class_pixels)


def test_student_and_averaged_weights_are_both_scored(folder):
    settings = ("train.steps=8", "train.ema_horizon=0.5", "optim.lr=0.05")
    run, context = prepared(synthetic_config(str(folder / "a"), folder / "averaged", *settings))
    train(run.config, run.manifest, run.total_steps, context)
    ema = scored(folder, "averaged", "val")
    student = scored(folder, "averaged", "val", overrides=["eval.weights=student"])
    averaged, own = ema.evaluation.scores, student.evaluation.scores
    assert ema.conditions is not None and ema.conditions.weights == "ema" and averaged != own
    assert ema.other_weights == OtherWeights("student", own)
    assert student.other_weights == OtherWeights("ema", averaged)
    assert f"mIoU {100 * averaged.miou:.1f}" in (folder / "out" / "report.md").read_text()
