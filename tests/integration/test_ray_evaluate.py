"""Evaluation over several processes counts every row once, and the same as one process."""

import json
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from foodseg.data.image_io import decode_mask, encode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.errors import DataRefused, RetryLater, UserError
from foodseg.eval.mapped import common_space
from foodseg.eval.predictions import PredictionFolder
from foodseg.eval.ray_evaluate import evaluate
from foodseg.eval.ray_score import score_on_ray
from foodseg.eval.result import ScoredCheckpoint
from foodseg.eval.scoring import Labels, chunks, merge_scored
from foodseg.eval.scoring_job import ScoringJob, score_here
from foodseg.metrics.per_image import merge, read_image_counts
from foodseg.train.loop import train
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config, write_synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_synthetic(tmp_path_factory.mktemp("evaluate") / "prepared", test=37)


@pytest.fixture(scope="module")
def predictions(data, tmp_path_factory) -> str:
    """Label maps that are right but for one row of pixels per image."""
    folder = tmp_path_factory.mktemp("predictions")
    reader = RowReader(data, read_manifest(data), ["test"])
    for row in reader.take(range(len(reader))).to_pylist():
        if row["mask"] is not None:
            mask = decode_mask(row["mask"])
            ids = np.where(mask == 255, 0, mask)
            ids[0] = 1
            (folder / f"{row['image_id']}.png").write_bytes(encode_mask(ids.astype(np.uint8)))
    return str(folder)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.chaos), 3])
def test_any_number_of_workers_gives_the_same_counts(ray_cluster, data, predictions, tmp_path, workers):
    arguments = {"data": data, "split": "test", "predictions": predictions, "test_log": str(tmp_path / "log.jsonl")}
    alone = evaluate(None, out=str(tmp_path / "alone"), workers=0, **arguments)
    shared = evaluate(None, out=str(tmp_path / "shared"), workers=workers, **arguments)

    assert replace(shared, seconds=0) == replace(alone, seconds=0)
    found = shared.evaluation
    assert found.calibration is None and "label maps carry no confidences" in found.calibration_note
    images, _ = read_image_counts(str(tmp_path / "shared" / "images.parquet"))
    assert [p.image_id for p in images] == [
        p.image_id for p in read_image_counts(str(tmp_path / "alone" / "images.parquet"))[0]
    ]
    manifest = read_manifest(data)
    truth = merge(images, len(manifest.classes)).sum(1)
    assert truth.tolist() == list(manifest.counts["test"].class_pixels)
    accesses = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in accesses] == ["opened", "scored"] * 2
    assert all(line["what"] == predictions and line["data"] == alone.data for line in accesses)
    assert accesses[1]["miou"] == alone.evaluation.scores.miou and "miou" not in accesses[0]


class DiesOnce:
    """A labeller whose process is killed at its third image, but only the first one."""

    def __init__(self, mark: Path, labels: PredictionFolder) -> None:
        self._mark, self._labels, self._seen = mark, labels, 0

    def __call__(self, image_id: str, image: bytes, size: tuple[int, int]) -> Labels:
        self._seen += 1
        if self._seen == 3 and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self._labels(image_id, image, size)


@pytest.mark.chaos
def test_a_lost_scoring_process_costs_no_image_and_ray_has_nothing_to_say(
    ray_cluster, data, predictions, tmp_path, caplog, capfd
):
    manifest = read_manifest(data)
    reader, space = RowReader(data, manifest, ["test"]), common_space(None, manifest, None, None)
    folder = PredictionFolder(predictions, manifest.class_table)
    parts = chunks(range(len(reader)), 4)

    def scored(build, workers, device):
        job = ScoringJob(reader, parts, build, space, device)
        return merge_scored(score_on_ray(job, workers=workers, address=None) if workers else score_here(job))

    alone = scored(lambda device: folder, 0, None)
    mark = tmp_path / "died"
    with caplog.at_level("INFO", "foodseg"):
        shared = scored(lambda device: DiesOnce(mark, folder), 1, "cpu")
    assert mark.exists()
    assert [p.image_id for p in shared.images] == [p.image_id for p in alone.images]
    classes = len(space.classes)
    assert np.array_equal(merge(shared.images, classes), merge(alone.images, classes))
    said = [record.getMessage() for record in caplog.records if record.name.startswith("foodseg")]
    assert "1 scoring process: --device cpu" in said
    assert sum("a scoring process was lost (" in line for line in said) == 1
    assert any(line.startswith("scoring process 1 of 1 computes on CPU of ") for line in said)
    assert "core_worker.cc" not in capfd.readouterr().err


def test_scoring_shows_no_warning_of_ray(ray_cluster, data, predictions, tmp_path):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        evaluate(None, data=data, split="test", out=str(tmp_path), predictions=predictions, workers=2)
    assert [str(warning.message) for warning in shown if "ray_remote_args" in str(warning.message)] == []


@pytest.mark.chaos
def test_a_scoring_process_that_is_lost_each_time_ends_the_evaluation(ray_cluster, data, predictions, tmp_path):
    manifest = read_manifest(data)
    space = common_space(None, manifest, None, None)

    def build(device):
        os.kill(os.getpid(), signal.SIGKILL)

    job = ScoringJob(RowReader(data, manifest, ["test"]), [[0, 1]], build, space, None)
    with pytest.raises(RetryLater, match=r"^4 scoring processes were lost, the last one with: "):
        list(score_on_ray(job, workers=1, address=None))


def test_a_look_at_test_that_fails_is_noted_too(data, tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "test-001.png").write_bytes(encode_mask(np.zeros((3, 3), np.uint8)))
    with pytest.raises(DataRefused, match="every labelled image of the split needs its label map"):
        evaluate(
            None, data=data, split="test", out=str(tmp_path / "out"), predictions=str(tmp_path / "maps"), workers=0,
            test_log=str(tmp_path / "log.jsonl"),
        )  # fmt: skip
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["event"] == "opened"


def test_a_map_folds_the_confusion_matrix(ray_cluster, data, predictions, tmp_path):
    """Ids 1.. become 1, 2, 3 in turn; id 5 is ignored, and counts as background where it is predicted."""
    names = read_manifest(data).classes
    becomes = {0: 0, **{index: 1 + index % 3 for index in range(1, len(names))}, 5: None}
    targets = {i: "" if to is None else f"{to}\tn{to}" for i, to in becomes.items()}
    lines = [f"{i}\t{names[i]}\t{to}" for i, to in targets.items()]
    (tmp_path / "m.tsv").write_text("\n".join(["plate_id\tplate_name\tfew_id\tfew_name", *lines]))
    common = {"data": data, "split": "val", "predictions": str(tmp_path)}
    for row in RowReader(data, read_manifest(data), ["val"]).take(range(4)).to_pylist():
        rng = np.random.default_rng(len(row["mask"] or b""))
        ids = rng.integers(0, len(names), (row["height"], row["width"]), np.uint8)
        (tmp_path / f"{row['image_id']}.png").write_bytes(encode_mask(ids))

    evaluate(None, out=str(tmp_path / "plain"), workers=0, **common)
    metrics = evaluate(None, out=str(tmp_path / "mapped"), workers=2, space_map=str(tmp_path / "m.tsv"), **common)

    assert metrics.mapped == ("data", "predictions") and " mapped to few-" in metrics.data
    matrices = {}
    for name in ("plain", "mapped"):
        images, about = read_image_counts(str(tmp_path / name / "images.parquet"))
        matrices[name] = merge(images, len(about.classes))
    assert about.classes == ("n0", "n1", "n2", "n3") and about.data == metrics.data
    rows, columns = np.zeros((len(names), 4), np.int64), np.zeros((len(names), 4), np.int64)
    for index, to in becomes.items():
        columns[index, 0 if to is None else to] = 1
        rows[index] = columns[index] * (to is not None)
    assert np.array_equal(matrices["mapped"], rows.T @ matrices["plain"] @ columns)
    with pytest.raises(UserError, match="--classes is the class table of the label space that --map maps to"):
        evaluate(None, out=str(tmp_path / "x"), workers=0, classes="c.tsv", **common)


def test_a_checkpoint_gives_the_same_confidences_on_two_workers(ray_cluster, data, tmp_path):
    run, context = prepared(synthetic_config(data, tmp_path / "run", "train.steps=2"))
    train(run.config, run.manifest, run.total_steps, context)
    arguments = {"data": data, "split": "test", "test_log": str(tmp_path / "log.jsonl")}
    folders = {workers: str(tmp_path / f"on-{workers}") for workers in (0, 2)}
    alone, shared = (
        evaluate(str(tmp_path / "run"), out=out, workers=workers, **arguments) for workers, out in folders.items()
    )
    assert replace(shared, seconds=0) == replace(alone, seconds=0)
    labelled = sum(read_manifest(data).counts["test"].class_pixels)
    assert alone.evaluation.calibration is not None and isinstance(alone.subject, ScoredCheckpoint)
    assert alone.evaluation.calibration.pixels == labelled and alone.subject.temperature != 1
    assert alone.evaluation.calibration_note.endswith("fitted on val")
    tables = [pq.read_table(f"{out}/confidence.parquet") for out in folders.values()]
    assert tables[0].equals(tables[1]) and sum(tables[0]["pixels"].to_pylist()) == labelled
    page = (tmp_path / "on-2" / "report.html").read_text()
    assert page.count("<img ") == 24 and "mIoU on val over steps" in page and "Training loss" in page
