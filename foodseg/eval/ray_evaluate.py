"""Evaluation over a cluster: every row of a split exactly once, whole-number counts merged on the driver.

    evaluate("runs/a", data="s3://bucket/foodmix", split="test", out="runs/a/test")

writes `metrics.json`, `report.html`, `report.md`, `images.parquet` (counts of each image, for `compare`) and, for a
checkpoint, `confidence.parquet` and `images-ema.parquet` (or -student: its other weights) to `out`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from foodseg import storage
from foodseg.checkpoint.checkpoint import Calibration, Checkpoint, calibration_of, load_checkpoint, load_model
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.config import ExperimentConfig
from foodseg.config.evaluation import EvalConfig
from foodseg.config.load import config_hash, with_eval_overrides
from foodseg.data.label_space_map import LabelSpaceMap, read_label_space_map
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest, read_manifest
from foodseg.errors import DataRefused, UserError
from foodseg.eval.evaluate import (
    Labeller,
    Labels,
    Scored,
    chunks,
    merge_scored,
    read_subsets,
    true_conditioning,
)
from foodseg.eval.image_ids import listed_rows
from foodseg.eval.mapped import CommonSpace, common_space
from foodseg.eval.predictions import PredictionFolder, find_predictions
from foodseg.eval.ray_score import Build, ScoringJob, score_parts
from foodseg.eval.report_html import read_losses
from foodseg.eval.result import EvaluationResult, LabelMaps, OtherWeights, ScoredCheckpoint
from foodseg.eval.result_files import RESULT_FILES, TrainingCurves, shown_settings, write_evaluation
from foodseg.eval.scores import summarise_evaluation
from foodseg.metrics.confusion import scores
from foodseg.metrics.per_image import merge
from foodseg.predict.device import Device, pick_device
from foodseg.predict.predictor import Predictor
from foodseg.storage.outputs import claim_outputs

OTHER_WEIGHTS = {"student": "ema", "ema": "student"}
ACCESS_LOG = "test_access.jsonl"
LISTED = 10  # label maps that cannot be scored


def evaluate(
    checkpoint: str | None,
    *,
    data: str,
    split: str,
    out: str,
    predictions: str | None = None,
    subsets: Sequence[str] = (),
    images: str | None = None,
    space_map: str | None = None,
    classes: str | None = None,
    overrides: Sequence[str] = (),
    workers: int = 1,
    address: str | None = None,
    device: Device = "auto",
    test_log: str | None = None,
) -> EvaluationResult:
    """Scores a checkpoint, or a folder of label maps, on a split.

    Args:
        checkpoint: a run, a checkpoint directory or a URI of either; None with `predictions`.
        data: prepared data set. split: its split; an access to "test" is noted in `test_log`, before and after.
        out: folder or URI for the results.
        predictions: folder of `<image_id>.png` label maps, scored instead of a checkpoint.
        subsets: files of class ids, each scored under its own name, with background.
        images: file of image ids, one a line; only these are scored.
        space_map: file that maps the label space of the checkpoint, of the data, or of both; see `mapped.common_space`.
        classes: class table of the space that `space_map` maps to.
        overrides: `eval.key=value`, instead of what the checkpoint was trained with.
        workers: processes that score; 0 = this one, without Ray.
        device: what a checkpoint computes on; auto = a GPU for each worker, if the cluster has or can start nodes with
            enough of them.
        test_log: the test-set access log; None = ACCESS_LOG in `out`.

    Raises:
        DataRefused: label maps are missing or wrong; the message lists them.
        UserError: label spaces differ, the map does not fit, no such split, a folder without a label map, results that
            would replace files of other programs, unknown image ids, no GPU where one is wanted, a cluster of which it
            is not known whether it can start nodes with GPUs.
    """
    if (checkpoint is None) == (predictions is None):
        raise UserError("give either a CHECKPOINT or --predictions DIR, and not both")
    if classes is not None and space_map is None:
        raise UserError("--classes is the class table of the label space that --map maps to: give --map MAP.tsv too")
    started = time.monotonic()
    data = storage.absolute(data)
    manifest = read_manifest(data)
    reader = RowReader(data, manifest, [split])
    rows = _chosen_rows(reader, images)
    spaces = (read_label_space_map(space_map) if space_map is not None else None, classes)
    subject = (
        _checkpoint_subject(checkpoint, manifest, reader, spaces, split, overrides)
        if checkpoint is not None
        else _folder_subject(predictions or "", manifest, spaces)
    )
    space = subject.space
    named_subsets = read_subsets(subsets, space.classes)
    outputs = claim_outputs(out, RESULT_FILES, by="evaluate")
    if predictions is not None:  # last: the folder may hold many files
        folder = find_predictions(storage.absolute(predictions), manifest.class_table, _ids_of(reader, rows))
        subject = replace(subject, build=lambda device: folder)
    test_log = test_log or storage.join(out, ACCESS_LOG)
    about = subject.about
    access = {
        "config_hash": None if isinstance(about, LabelMaps) else about.config_hash,
        "what": about.predictions if isinstance(about, LabelMaps) else about.checkpoint,
        "data": space.data,
    }
    if split == "test":
        note_test_access(test_log, "opened", access)
    job = ScoringJob(reader, chunks(rows), subject.build, space, device if subject.computes else None)
    scored = merge_scored(score_parts(job, workers, address))
    if scored.refused:
        raise DataRefused(_refused_maps(scored))
    if not scored.images:
        raise UserError(f"the split {split!r} has no labelled image to score")
    evaluation = summarise_evaluation(
        scored,
        space.classes.names,
        subsets=named_subsets,
        trained_ids=subject.trained_ids,
        calibration_note=subject.calibration_note,
    )
    other_weights = None
    if scored.other is not None and isinstance(about, ScoredCheckpoint):
        counted = merge(scored.other, len(space.classes))
        found = scores(counted, space.classes.names, subsets=named_subsets, trained_ids=subject.trained_ids)
        other_weights = OtherWeights(OTHER_WEIGHTS[about.eval.weights], found)
    result = EvaluationResult(
        subject=about,
        space_map=None if space_map is None else storage.redact(space_map),
        mapped=tuple(space.mapped),
        partly_annotated=space.partial,
        data=space.data,
        split=split,
        images=len(scored.images),
        unlabelled=len(rows) - len(scored.images),
        seconds=round(time.monotonic() - started, 1),
        evaluation=evaluation,
        other_weights=other_weights,
    )
    labeller = subject.build(
        "cpu" if device == "cpu" else "auto"
    )  # the scoring processes may have been on other machines
    with outputs:
        write_evaluation(out, result, scored, space, manifest, reader, labeller, subject.curves)
    if split == "test":
        score = {"images": result.images, "miou": evaluation.scores.miou}
        under = {} if result.conditions is None else {"conditions": asdict(result.conditions)}
        note_test_access(test_log, "scored", {**access, **score, **under})
    return result


def _refused_maps(scored: Scored) -> str:
    """Lists what is wrong with label maps. There is no score of the others alone: it would be that of another split."""
    count = len(scored.refused)
    listed = "; ".join(scored.refused[:LISTED]) + (f"; and {count - LISTED} more" if count > LISTED else "")
    if count == 1:
        return f"--predictions: {listed}"
    return f"--predictions: {count} of {count + len(scored.images)} label maps cannot be scored: {listed}"


def _ids_of(reader: RowReader, rows: Sequence[int]) -> list[str]:
    ids = reader.column("image_id").to_pylist()
    return [ids[row] for row in rows]


Spaces = tuple[LabelSpaceMap | None, str | None]
"""The map of `--map`, and the class table of `--classes`."""


@dataclass(frozen=True)
class _Subject:
    """What is scored: a checkpoint, or a folder of label maps."""

    about: ScoredCheckpoint | LabelMaps
    space: CommonSpace
    build: Build
    trained_ids: Sequence[int] | None
    calibration_note: str
    curves: TrainingCurves
    computes: bool = False  # with a model, on a device


def _checkpoint_subject(
    checkpoint: str, manifest: Manifest, reader: RowReader, spaces: Spaces, split: str, overrides: Sequence[str]
) -> _Subject:
    uri = resolve_checkpoint(checkpoint)
    loaded = load_checkpoint(uri)
    space = common_space(loaded.classes, manifest, *spaces)
    config = with_eval_overrides(loaded.config, overrides)
    calibration = calibration_of(loaded, config.eval)
    conditioning = (
        true_conditioning(reader, space, len(loaded.classes)) if config.eval.ingredients == "provided" else None
    )
    return _Subject(
        about=ScoredCheckpoint(
            checkpoint=storage.redact(uri),
            step=loaded.step,
            config_hash=config_hash(config),
            eval=config.eval,
            text=loaded.text.made_by if loaded.text else None,
            temperature=calibration.temperature if calibration else 1.0,
        ),
        space=space,
        build=CheckpointLabeller(uri, config, conditioning),
        trained_ids=space.trained_ids(loaded.trained_ids),
        calibration_note=_calibration_note(loaded, calibration, manifest, split),
        curves=TrainingCurves([each.to_json() for each in loaded.history], read_losses(uri, loaded.step)),
        computes=True,
    )


def _folder_subject(predictions: str, manifest: Manifest, spaces: Spaces) -> _Subject:
    folder = PredictionFolder(storage.absolute(predictions), manifest.class_table)
    return _Subject(
        about=LabelMaps(storage.redact(predictions)),
        space=common_space(None, manifest, *spaces),
        build=lambda device: folder,
        trained_ids=None,
        calibration_note="label maps carry no confidences, so there is nothing to score",
        curves=TrainingCurves(),
    )


def _calibration_note(loaded: Checkpoint, calibration: Calibration | None, manifest: Manifest, split: str) -> str:
    if loaded.calibration is None:
        return "not calibrated: the checkpoint holds no temperature, so it is taken as 1"
    if calibration is None:
        fitted = shown_settings(EvalConfig.model_validate(loaded.calibration.eval))
        return f"not calibrated for these settings: the temperature is taken as 1, the checkpoint's is for {fitted}"
    trained_on = loaded.data.split(" + ")  # as `Manifest.identity` joins several data sets
    where = calibration.split
    if split == calibration.split and manifest.identity in trained_on:
        others = ", and on those of the other data sets" if len(trained_on) > 1 else ""
        where = f"the images that are scored here{others}"
    return f"calibrated with temperature {calibration.temperature:.3f}, fitted on {where}"


class CheckpointLabeller:
    """Makes a labeller from a checkpoint in the process that calls it: pickled without its weights.

    `conditioning` holds by image_id the conditioning classes (ids), for `eval.ingredients` = provided.
    """

    def __init__(
        self, uri: str, config: ExperimentConfig, conditioning: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self._uri, self._config, self._conditioning = uri, config, conditioning

    def __call__(self, wanted: Device) -> Labeller:
        config, device = self._config, pick_device(wanted)
        loaded = load_checkpoint(self._uri)
        model = load_model(loaded, config.eval.weights)
        predictor = Predictor(model, config.eval, device, config.train.precision)
        calibration = calibration_of(loaded, config.eval)
        temperature = calibration.temperature if calibration else 1.0
        other = None
        if loaded.teacher is not None:
            other_model = load_model(loaded, OTHER_WEIGHTS[config.eval.weights])
            other = Predictor(other_model, config.eval, device, config.train.precision)
        conditioning = self._conditioning

        def label(image_id: str, image: bytes, size: tuple[int, int]) -> Labels:
            provided = None if conditioning is None else conditioning[image_id]
            found = predictor.logits_of_file(image, provided).ids_and_confidence(temperature)
            return Labels(*found, None if other is None else other.logits_of_file(image, provided).ids())

        return label


def note_test_access(path: str, event: str, facts: Mapping[str, object]) -> None:
    """Appends one line to the test-set access log.

    Args:
        path: the log; if two accesses are noted in S3 at the same moment, one may be lost (`storage.append_line`).
        event: "opened" before the first image is read, so that an evaluation that fails later counts too; "scored"
            after.
        facts: configuration, what is scored, data; with "scored" the number of images and mIoU.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    storage.append_line(path, json.dumps({"time": now, "event": event, **facts}))


def _chosen_rows(reader: RowReader, images: str | None) -> list[int]:
    if images is None:
        return list(range(len(reader)))
    rows = listed_rows(storage.read_text(images), reader.column("image_id").to_pylist(), f"--images {images}")
    if not rows:
        raise UserError(f"--images {images}: there is no image id in it; write one a line")
    return rows
