"""Evaluation: every row of a split exactly once, whole-number counts added up, scores, reports.

    evaluate("runs/a", "s3://bucket/foodmix", "test", out="runs/a/test")

writes `metrics.json`, `report.html`, `report.md`, `images.parquet` (counts of each image, for `compare`) and, for a
checkpoint, `confidence.parquet` and `images-ema.parquet` (or -student: its other weights) to `out`. Which process
counts which rows does not matter: `score` decides, here or on a cluster (`ray_evaluate.py`).
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from foodseg import storage
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.config.zero_shot import ZeroShotConfig
from foodseg.data.label_space_map import read_label_space_map
from foodseg.errors import DataRefused, UserError
from foodseg.eval.predictions import find_predictions
from foodseg.eval.refined import mask_source
from foodseg.eval.result import EvaluationResult, LabelMaps, OtherWeights, ScoredCheckpoint, name_of
from foodseg.eval.result_files import RESULT_FILES, write_evaluation
from foodseg.eval.scored_rows import ScoredRows, split_rows
from foodseg.eval.scores import summarise_evaluation
from foodseg.eval.scoring import Scored, merge_scored, read_subsets
from foodseg.eval.scoring_job import ScoringJob, score_here
from foodseg.eval.subject import OTHER_WEIGHTS, ProvidedLists, RecheckSource, checkpoint_subject, folder_subject
from foodseg.eval.zero_shot_subject import zero_shot_subject
from foodseg.metrics.confusion import scores
from foodseg.metrics.per_image import merge
from foodseg.models.exported import Runtime
from foodseg.predict.device import Device
from foodseg.predict.refine import Refine
from foodseg.predict.segmenter import Segmenter
from foodseg.predict.zero_shot import ZeroShotSegmenter
from foodseg.storage.outputs import claim_outputs

ACCESS_LOG = "test_access.jsonl"
LISTED = 10  # label maps that cannot be scored

Model: TypeAlias = Segmenter | ZeroShotSegmenter | ZeroShotConfig | str | os.PathLike[str]


def evaluate(
    model: Model | None,
    data: str | os.PathLike[str],
    split: str = "val",
    *,
    out: str | os.PathLike[str] | None = None,
    predictions: str | None = None,
    subsets: Sequence[str] = (),
    images: str | None = None,
    provided: str | None = None,
    space_map: str | None = None,
    classes: str | None = None,
    overrides: Sequence[str] = (),
    device: Device | torch.device | None = None,
    refine: Refine = "none",
    sam: str | None = None,
    recheck: str | None = None,
    recheck_below: float | None = None,
    test_log: str | None = None,
    runtime: Runtime | None = None,
    score: Callable[[ScoringJob], Iterator[Scored]] = score_here,
) -> EvaluationResult:
    """Scores a model, or a folder of label maps, on a split of a prepared data set.

    These are the scores of `foodseg evaluate`, by the same code, in this process and without Ray. A model that was
    loaded is scored as its checkpoint is, with its settings.

    Args:
        model: what `foodseg.load` returns, or what it takes: a run, a checkpoint directory, a URI; what
            `foodseg.zero_shot` returns, or its settings, for the names of the data set; None with `predictions`.
        data: prepared data set. split: its split; an access to "test" is noted in `test_log`, before and after.
        out: folder or URI for report.html, metrics.json and the counts; None = no files.
        predictions: folder of `<image_id>.png` label maps, scored instead of a checkpoint.
        subsets: files of class ids, each scored under its own name, with background.
        images: file of image ids, one a line; only these are scored.
        provided: file of lists of ingredients (`provided_lists.py`); sets `eval.ingredients` to provided.
        space_map: file that maps the label space of the checkpoint, of the data, or of both; see `mapped.common_space`.
        classes: class table of the space that `space_map` maps to.
        overrides: `eval.key=value`, instead of what the checkpoint was trained with.
        device: what a checkpoint computes on; None = that of the model, "auto" for one that is loaded here.
        refine: redraw label maps along masks of Segment Anything: "none", "vote" or "soft", as for `foodseg.load`.
        sam: file or URI of its weights; None = the masks that `foodseg data masks` keeps beside the data set.
        recheck, recheck_below: as for `foodseg.load`, for a trained model.
        runtime: as for `foodseg.load`; None = that of the model.
        test_log: the test-set access log; None = ACCESS_LOG in `out`, or without `out` in the current folder.
        score: counts the parts of the split in their order; `ray_score.score_on_ray` does so on a cluster.

    Raises:
        DataRefused: label maps are missing or wrong; the message lists them.
        UserError: label spaces differ, the map does not fit, no such split, a folder without a label map, results that
            would replace files of other programs, unknown image ids, no GPU where one is wanted.

    >>> import foodseg
    >>> found = foodseg.evaluate(foodseg.load("runs/a"), "prepared/meals", "test")
    >>> found.split, found.images
    ('test', 3)
    >>> 0 <= found.evaluation.scores.miou <= 1
    True
    """
    if (model is None) == (predictions is None):
        raise UserError("give either a CHECKPOINT or --predictions DIR, and not both")
    if provided is not None and predictions is not None:
        raise UserError("--provided is for a model, and --predictions scores label maps: give one of them")
    if provided is not None and isinstance(model, ZeroShotSegmenter | ZeroShotConfig):
        raise UserError("--provided is for a trained model, and CLIP is not conditioned on lists: give one of them")
    if predictions is not None and (refine != "none" or sam is not None):
        raise UserError("--refine is for a model, and --predictions scores label maps as they are: give one of them")
    if classes is not None and space_map is None:
        raise UserError("--classes is the class table of the label space that --map maps to: give --map MAP.tsv too")
    rows = split_rows(storage.absolute(os.fspath(data)), split, images)
    return evaluate_rows(
        model, rows, out=out, predictions=predictions, subsets=subsets, provided=provided, space_map=space_map,
        classes=classes, overrides=overrides, device=device, refine=refine, sam=sam, recheck=recheck,
        recheck_below=recheck_below, test_log=test_log, runtime=runtime, score=score,
    )  # fmt: skip


def evaluate_rows(
    model: Model | None,
    scored_rows: ScoredRows,
    *,
    out: str | os.PathLike[str] | None = None,
    predictions: str | None = None,
    subsets: Sequence[str] = (),
    provided: str | None = None,
    space_map: str | None = None,
    classes: str | None = None,
    overrides: Sequence[str] = (),
    device: Device | torch.device | None = None,
    refine: Refine = "none",
    sam: str | None = None,
    recheck: str | None = None,
    recheck_below: float | None = None,
    test_log: str | None = None,
    runtime: Runtime | None = None,
    score: Callable[[ScoringJob], Iterator[Scored]] = score_here,
) -> EvaluationResult:
    """As `evaluate`, on rows that were chosen otherwise: those of a fold, say (`scored_rows.held_out_fold`)."""
    assert (model is None) != (predictions is None), "one of them is scored"
    started = time.monotonic()
    out = None if out is None else os.fspath(out)
    manifest, reader, rows, split = scored_rows.manifest, scored_rows.reader, scored_rows.rows, scored_rows.split
    spaces = (read_label_space_map(space_map) if space_map is not None else None, classes)
    lists = None
    if provided is not None:
        overrides = [*overrides, "eval.ingredients=provided"]
        lists = ProvidedLists(provided, scored_rows.image_ids())
    if isinstance(model, Segmenter | ZeroShotSegmenter) and model.refiner is not None and refine == "none":
        refine, sam = model.refiner.how, model.refiner.weights
    if isinstance(model, Segmenter) and model.recheck is not None and recheck is None:
        recheck, recheck_below = model.recheck.classifier.uri, model.recheck.below
    if recheck is not None and (model is None or isinstance(model, ZeroShotSegmenter | ZeroShotConfig)):
        raise UserError("--recheck is for a trained model: give a CHECKPOINT, or leave it out")
    if runtime is not None and (model is None or isinstance(model, ZeroShotSegmenter | ZeroShotConfig)):
        raise UserError("--runtime is for a model that was exported: give a CHECKPOINT, or leave it out")
    if recheck_below is not None and recheck is None:
        raise UserError("--recheck-below is used with --recheck RUN alone: give both")
    again = None if recheck is None else RecheckSource(resolve_checkpoint(recheck), recheck_below)
    masks = None if model is None else mask_source(refine, sam, reader.uri, manifest)
    if isinstance(model, Segmenter):
        if model.renamed:
            raise UserError("evaluate scores the classes that a model was trained on: give it without other names")
        overrides = [*model.overrides, *overrides]
        runtime = model.runtime if runtime is None else runtime
        subject = checkpoint_subject(
            model.uri, manifest, reader, spaces, split, overrides, lists, masks, again, runtime
        )
        device = model.device if device is None else device
    elif isinstance(model, ZeroShotSegmenter):
        subject = zero_shot_subject(model.config, manifest, spaces, model.names, masks)
        device = model.device if device is None else device
    elif isinstance(model, ZeroShotConfig):
        subject = zero_shot_subject(model, manifest, spaces, None, masks)
    elif model is not None:
        uri = resolve_checkpoint(os.fspath(model))
        subject = checkpoint_subject(uri, manifest, reader, spaces, split, overrides, lists, masks, again, runtime)
    else:
        subject = folder_subject(predictions or "", manifest, spaces)
    device = "auto" if device is None else device
    space = subject.space
    named_subsets = read_subsets(subsets, space.classes)
    outputs = None if out is None else claim_outputs(out, RESULT_FILES, by="evaluate")
    if predictions is not None:  # last: the folder may hold many files
        folder = find_predictions(storage.absolute(predictions), manifest.class_table, scored_rows.image_ids())
        subject = replace(subject, build=lambda device: folder)
    test_log = test_log or (ACCESS_LOG if out is None else storage.join(out, ACCESS_LOG))
    about = subject.about
    access = {
        "config_hash": None if isinstance(about, LabelMaps) else about.config_hash,
        "what": name_of(about),
        "data": space.data,
    }
    if split == "test":
        note_test_access(test_log, "opened", access)
    job = ScoringJob(reader, reader.by_row_group(rows), subject.build, space, device if subject.computes else None)
    scored = merge_scored(score(job))
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
    if out is not None and outputs is not None:
        # the scoring processes may have been on other machines
        labeller = subject.build("auto" if device == "gpu" else device)
        with outputs:
            write_evaluation(out, result, scored, space, manifest, reader, labeller, subject.curves)
    if split == "test":
        noted = {"images": result.images, "miou": evaluation.scores.miou}
        under = {} if result.conditions is None else {"conditions": result.conditions.to_json()}
        note_test_access(test_log, "scored", {**access, **noted, **under})
    return result


def _refused_maps(scored: Scored) -> str:
    """Lists what is wrong with label maps. There is no score of the others alone: it would be that of another split."""
    count = len(scored.refused)
    listed = "; ".join(scored.refused[:LISTED]) + (f"; and {count - LISTED} more" if count > LISTED else "")
    if count == 1:
        return f"--predictions: {listed}"
    return f"--predictions: {count} of {count + len(scored.images)} label maps cannot be scored: {listed}"


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
