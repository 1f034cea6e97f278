"""Writes the results of an evaluation: scores as JSON, reports to read, counts for later comparisons."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foodseg import __version__, storage
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest
from foodseg.eval.evaluate import Labeller, Scored
from foodseg.eval.examples import draw_examples
from foodseg.eval.mapped import CommonSpace
from foodseg.eval.report_html import Page, page_html
from foodseg.eval.report_markdown import condition_mark, scores_markdown
from foodseg.eval.scores import Evaluation
from foodseg.metrics.calibration import write_confidence
from foodseg.metrics.per_image import merge, write_image_counts

RESULT_FILES = (
    "images.parquet", "images-ema.parquet", "images-student.parquet", "confidence.parquet", "report.md",
    "report.html", "metrics.json",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingCurves:
    """How the scored model was trained: one dict per validation (step, miou), and (step, loss) points by name."""

    history: Sequence[Mapping[str, Any]] = ()
    losses: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


def write_evaluation(
    out: str,
    metrics: Mapping[str, Any],
    evaluation: Evaluation,
    scored: Scored,
    space: CommonSpace,
    manifest: Manifest,
    reader: RowReader,
    labeller: Labeller,
    curves: TrainingCurves,
) -> None:
    """Writes images.parquet, confidence.parquet (where there are confidences), report.md, report.html, metrics.json.

    Args:
        out: folder or URI.
        metrics: the content of metrics.json.
        evaluation, scored: the scores in it, and the counts that they were taken from.
        space: the label space of the counts. manifest: of the data set that was scored.
        reader: of the split that was scored. labeller: labels the best and the worst images once more.
    """
    classes = space.classes
    title, facts = f"{manifest.name} {metrics['split']}", shown_facts(metrics)
    worst, best = draw_examples(reader, scored.images, labeller, space)
    matrix = merge(scored.images, len(classes))
    conditions = metrics.get("conditions")
    condition = condition_mark(conditions)
    page = Page(
        title, facts, evaluation, matrix, classes, manifest, worst, best, curves.history, curves.losses, condition
    )
    counts = storage.join(out, "images.parquet")
    write_image_counts(counts, scored.images, classes.names, metrics["split"], space.data, conditions)
    if scored.other is not None:
        kind = metrics["other_weights"]["weights"]
        counts = storage.join(out, f"images-{kind}.parquet")
        own = {**conditions, "weights": kind} if conditions else None
        write_image_counts(counts, scored.other, classes.names, metrics["split"], space.data, own)
    if scored.confidence is not None:
        write_confidence(storage.join(out, "confidence.parquet"), scored.confidence)
    storage.write_text(storage.join(out, "report.md"), scores_markdown(evaluation, title, facts, condition))
    storage.write_text(storage.join(out, "report.html"), page_html(page))
    storage.write_json(storage.join(out, "metrics.json"), metrics)


def shown_facts(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Returns what was scored on what, by name, from the content of metrics.json."""
    facts = {"scored": metrics.get("checkpoint") or f"label maps in {metrics.get('predictions')}"}
    if "checkpoint" in metrics:
        facts["model"] = f"step {metrics['step']}, {metrics['weights']} weights, configuration {metrics['config_hash']}"
    if "other_weights" in metrics:
        other = metrics["other_weights"]
        facts[f"{other['weights']} weights"] = f"mIoU {100 * other['scores']['miou']:.1f}"
    left_out = f", {metrics['unlabelled']} unlabelled left out" if metrics["unlabelled"] else ""
    facts["data"] = f"{metrics['data']}, split {metrics['split']}, {metrics['images']} images{left_out}"
    if "map" in metrics:
        facts["label spaces"] = f"{' and '.join(metrics['mapped'])} mapped by {metrics['map']}"
    if "partly_annotated" in metrics:
        sources = ", ".join(f"{source} ({ids} ids)" for source, ids in metrics["partly_annotated"].items())
        facts["partial labels"] = f"{sources}; background predicted as an id that its source lacks is not scored"
    if "text" in metrics:
        facts["text"] = metrics["text"]
    note = conditions_note(metrics)
    if note is not None:
        facts["ingredients"] = note
    if "eval" in metrics:
        facts["settings"] = shown_settings({key: value for key, value in metrics["eval"].items() if key != "weights"})
    facts["written"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()) + f" by foodseg {__version__}"
    return facts


def shown_settings(settings: Mapping[str, Any]) -> str:
    """Returns the keys and values of the section `eval` that are set and used, in one line."""
    used = dict(settings)
    if used.get("ingredients") != "predicted":
        used.pop("ingredients_threshold", None)
    if used.get("restrict") != "soft":
        used.pop("restrict_lambda", None)
    if used.get("restrict") == "none":
        del used["restrict"]
    return ", ".join(f"{key} {value}" for key, value in used.items() if value is not None)


def conditions_note(metrics: Mapping[str, Any]) -> str | None:
    """Says how a score was conditioned; None for a score over the whole vocabulary."""
    conditions = metrics.get("conditions", {})
    source = {
        "predicted": "the model's image-level prediction",
        "provided": "the true classes of each image, an oracle: not comparable with other results",
    }.get(conditions.get("ingredients"))
    if source is None:
        return None
    narrowed = (
        "" if conditions["restrict"] == "none" else f"; class scores restricted to them ({conditions['restrict']})"
    )
    return f"{conditions['ingredients']}, {source}{narrowed}"
